"""The flat configuration every method has; a method's own adds its fields.

Configs are read from other people's `config.json`, so every value is checked before anything is built from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np

from icrl_agents.printable import printable


@dataclass(frozen=True)
class AgentConfig:
    """Sizes of the model and of its window. Defaults are those of the released agents."""

    width: int = 64  # size of the model's vectors, D
    layers: int = 4  # transformer blocks
    heads: int = 4  # attention heads in each block
    inner: int = 128  # hidden width of each block's SwiGLU
    dropout: float = 0.0  # share of activations dropped in training
    window: int = 240  # environment steps that the agent sees, the current one included
    slide: int = 80  # steps dropped at once when the window is full; 1 is the papers' exact last-n

    dynamics: bool = False  # whether to predict reward and next_obs too, which a planner needs

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (2, 8192),
        "layers": (1, 128),
        "heads": (1, 128),
        "inner": (1, 65536),
        "dropout": (0.0, 0.9),
        "window": (2, 100_000),
        "slide": (1, 100_000),
    }

    def __post_init__(self) -> None:
        for field in fields(self):
            check_value(field.name, str(field.type), getattr(self, field.name), self.LIMITS.get(field.name))
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width={self.width} must be an even multiple of heads={self.heads}")
        if self.slide >= self.window:
            raise ValueError(f"slide={self.slide} must be smaller than window={self.window}")

    @property
    def span(self) -> int:
        """Steps of a window to train on."""
        return self.window

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build from a JSON object; unknown, missing or mistyped fields are errors."""
        if not isinstance(data, dict):
            raise ValueError(f"config is {printable(data)}, expected a JSON object")
        known = {field.name for field in fields(cls)}
        check_known(data, known, "config field")
        if missing := sorted(known - set(data)):
            raise ValueError(f"config lacks {', '.join(missing)}: the checkpoint is damaged or of another version")
        return cls(**data)


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
