"""The flat configuration every method has; a method's own adds its fields.

Configs are read from other people's `config.json`, so every value is checked before anything is built from it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from icrl_agents.core.checks import check_known, check_value
from icrl_agents.core.printable import printable


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
