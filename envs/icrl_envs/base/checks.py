"""Argument checks: each ValueError is one line with the value, what is allowed and the likely fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def as_array(value: Any) -> np.ndarray:
    """Return `value` as an array, an empty one for ragged lists."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty(0)


def reject_unknown(names: Iterable[str], allowed: Sequence[str], what: str) -> None:
    """Raise ValueError for a name outside `allowed`; the message suggests the nearest one."""
    for name in names:
        if name not in allowed:
            hint = nearest(str(name), allowed) or "."
            raise ValueError(f"unknown {what} {short(name)}: allowed are {', '.join(allowed) or 'none'}{hint}")


def check_dict(value: Any, name: str, allowed: Sequence[str], what: str) -> Mapping[str, Any]:
    """Return `value`, {} for None; ValueError naming it unless it is a dict with keys among `allowed`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={short(value)}: give a dict of {', '.join(allowed)}.")
    reject_unknown(value, allowed, what)
    return value


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the `allowed` name nearest to `name`, "" if none is near."""
    near = difflib.get_close_matches(name, list(allowed), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_int(value: Any, name: str, low: int, high: int) -> int:
    """Return `value` as an int; ValueError naming it unless it is an integer from `low` to `high`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}={short(value)}: give an integer from {low} to {high}.")
    return int(value)


def check_choice(value: Any, name: str, allowed: Sequence[Any]) -> Any:
    """Return `value`; ValueError naming it unless it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={short(value)}: allowed are {', '.join(map(str, allowed))}.")
    return value


def short(value: Any, most: int = 80) -> str:
    """Return `value` as one line of at most `most` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."
