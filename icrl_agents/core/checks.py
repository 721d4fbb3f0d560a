"""Checks of single values: type, range, known names; each refuses in one line that says what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from icrl_agents.core.printable import printable

T = TypeVar("T")


def check_value(name: str, kind: str, value: Any, limits: tuple[float, float] | None) -> None:
    """Refuse a value that is not of the annotated `kind` ("int", "int | None", ...) or is outside `limits`."""
    if value is None and "None" in kind:
        return
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
    wanted = kinds[kind.split(" | ")[0]]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        raise ValueError(f"{name}='{printable(value)}' is not {'an' if kind.startswith('i') else 'a'} {kind}")
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name}={printable(value)} is outside {limits[0]}..{limits[1]}")


def whole(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """A whole number of Python's or NumPy's, within `low`..`high`, as an int."""
    value = int(value) if isinstance(value, np.integer) else value
    check_value(name, "int", value, (low, high))
    return value


def as_kinds(values: Mapping[str, Any], known: Iterable[Any]) -> dict[str, Any]:
    """The values with 1e3 and 100.0 as whole numbers where the dataclass fields `known` want an int."""
    whole = {field.name for field in known if str(field.type).startswith("int")}
    return {
        name: int(value) if name in whole and isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is not among `choices`."""
    if value not in choices:
        raise ValueError(f"{name}='{printable(value)}', choose from {', '.join(choices)}")


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse the first of `names` that is not in `known`, with the nearest one that is."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
            raise ValueError(f"unknown {what} '{printable(name)}': {hint}")


def pick(registry: Mapping[str, T], name: str, what: str) -> T:
    """The entry `name`; a ValueError that suggests the nearest one if there is none."""
    check_known([name], registry, what)
    return registry[name]


def read_stages(name: str, text: str, what: str) -> list[tuple[float, int]]:
    """A curriculum: pairs 'share:number' in order, of the training that is over and what holds from then on.

    Raises:
        ValueError: anything else; the message calls the numbers `what`.
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
    """What holds when the share `done` of the training is over."""
    return [number for share, number in stages if share <= done][-1]
