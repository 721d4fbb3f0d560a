"""Checks of single values: type, range, known names; every error is one line that says what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from icrl_agents.core.printable import printable

T = TypeVar("T")
Limits = tuple[float, float]  # least and greatest allowed value


def check_value(name: str, kind: str, value: Any, limits: Limits | None) -> None:
    """Refuse (ValueError) a value of another type than annotation `kind` ("int | None", ...) or outside `limits`."""
    if value is None and "None" in kind:
        return
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
    wanted = kinds[kind.split(" | ")[0]]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        allowed = "" if limits is None else f": give one from {limits[0]} to {limits[1]}"
        raise ValueError(f"{name}='{printable(value)}' is not {'an' if kind.startswith('i') else 'a'} {kind}{allowed}")
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name}={printable(value)} is outside {limits[0]}..{limits[1]}")


def check_fields(record: Any, limits: Mapping[str, Limits], usual: Limits | None = None) -> None:
    """`check_value` of all fields of a dataclass; `usual` are the limits of fields that `limits` does not name."""
    for field in fields(record):
        check_value(field.name, str(field.type), getattr(record, field.name), limits.get(field.name, usual))


def whole(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """Python int of a Python or NumPy integer; ValueError outside `low`..`high` or for another type."""
    value = int(value) if isinstance(value, np.integer) else value
    check_value(name, "int", value, (low, high))
    return value


def flag(name: str, value: Any) -> bool:
    """Python bool of a Python or NumPy bool; ValueError for all else, of which "no" would count as true."""
    value = bool(value) if isinstance(value, np.bool_) else value
    check_value(name, "bool", value, None)
    return value


def per_row(name: str, value: Any, rows: int) -> np.ndarray:
    """Numbers (rows,) from one number or one for each row; NaN for None; ValueError for another value."""
    if value is None:
        return np.full(rows, np.nan)
    try:
        numbers = np.asarray(value, np.float64)
        fits = np.asarray(value).dtype.kind in "iuf" and bool((abs(numbers) < 1e30).all())
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not (fits and numbers.shape in ((), (rows,))):
        raise ValueError(f"{name}={printable(value)}: give a finite number, or one for each of the {rows} rows")
    return np.broadcast_to(numbers, rows)


def as_kinds(values: Mapping[str, Any], known: Iterable[Any]) -> dict[str, Any]:
    """Convert whole floats such as 1e3 to int where the dataclass fields `known` are annotated as int."""
    whole = {field.name for field in known if str(field.type).startswith("int")}
    return {
        name: int(value) if name in whole and isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse (ValueError) a value that is not among `choices`."""
    if value not in choices:
        raise ValueError(f"{name}='{printable(value)}', choose from {', '.join(choices)}")


def check_distinct(name: str, values: Collection[Any]) -> None:
    """Refuse (ValueError) no value, and one that is given twice."""
    if not values or len({repr(value) for value in values}) < len(values):
        raise ValueError(f"{name}={list(values)}: give at least one, each once")


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse (ValueError) the first of `names` that is not in `known`; the message suggests the nearest known name."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
            raise ValueError(f"unknown {what} '{printable(name)}': {hint}")


def pick(registry: Mapping[str, T], name: str, what: str) -> T:
    """Registry entry `name`; ValueError with the nearest name if it is unknown."""
    check_known([name], registry, what)
    return registry[name]


def read_stages(name: str, text: str, what: str) -> list[tuple[float, int]]:
    """Curriculum as ordered pairs 'share:number': from that share of the updates on, `number` applies.

    Args:
        name: name of the setting, for the error message.
        what: meaning of the numbers, for the error message.

    Raises:
        ValueError: malformed or unordered pairs, or the first share is not 0.
    """
    try:
        stages = [(float(share), int(number)) for share, number in (pair.split(":") for pair in text.split())]
    except ValueError:
        stages = []
    fits = all(0 <= share <= 1 and number > 0 for share, number in stages) and len(text) < 1000
    if not stages or not fits or stages[0][0] != 0 or stages != sorted(stages):
        raise ValueError(f"{name}='{printable(text)}': give pairs 'share:{what}' in order, such as '0:1 0.5:1000'")
    return stages


def stage_at(stages: Iterable[tuple[float, int]], done: float) -> int:
    """Number that applies after the share `done` (0..1) of the updates."""
    return [number for share, number in stages if share <= done][-1]
