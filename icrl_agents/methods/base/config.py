"""Flat configs: `ModelConfig` is the base of all, `AgentConfig` has the fields that methods with a transformer share.

A config may come from an untrusted `config.json`, so every value is checked before it is used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Self

from icrl_agents.core.checks import check_choice, check_fields, check_known
from icrl_agents.core.printable import printable
from icrl_agents.nn.codecs import BOX_HEADS
from icrl_agents.nn.codecs.rewards import REWARD_CODECS


@dataclass(frozen=True)
class ModelConfig:
    """Fields of a model, which are JSON values; a subclass declares them, their `LIMITS` and their `CHOICES`.

    Raises:
        ValueError: a value of the wrong type, outside `LIMITS` or not in `CHOICES`.
    """

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {}
    CHOICES: ClassVar[dict[str, Iterable[str]]] = {}  # allowed values by text field
    ADDED: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # value of each field that older checkpoints lack
    MEANINGS: ClassVar[tuple[str, ...]] = ()  # fields that change what weights mean, without changing their shapes

    def __post_init__(self) -> None:
        check_fields(self, self.LIMITS)
        for name, choices in self.CHOICES.items():
            check_choice(name, getattr(self, name), choices)

    @property
    @abstractmethod
    def span(self) -> int:
        """Number of steps in a training window."""

    @property
    def reorders(self) -> str:
        """Why training windows are not in the order of a lifetime, with the remedy; "" if they are."""
        return ""

    @property
    def unread(self) -> Mapping[str, str]:
        """Fields that the other ones leave without effect -> why, for a message: "without ..."."""
        return {}

    @property
    def one_process(self) -> str:
        """Why several processes train another model than one does; "" if they do not."""
        return ""

    @property
    def of_one_model(self) -> tuple[str, ...]:
        """Columns that are only comparable if one model wrote all of them, such as latent actions."""
        return ()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Config of a JSON object; ValueError for unknown, missing or mistyped fields.

        A checkpoint that is older than a field of `ADDED` has the value there, which may differ from the default.
        """
        if not isinstance(data, dict):
            raise ValueError(f"config is {printable(data)}, expected a JSON object")
        known = {field.name for field in fields(cls)}
        check_known(data, known, "config field")
        data = {**cls.ADDED, **data}
        if missing := sorted(known - set(data)):
            raise ValueError(f"config lacks {', '.join(missing)}: the checkpoint is damaged or of another version")
        return cls(**data)


@dataclass(frozen=True)
class AgentConfig(ModelConfig):
    """Sizes of the model and of its window, and what it sees and predicts.

    Raises:
        ValueError: a value of the wrong type or outside `LIMITS`, or sizes that do not fit together.
    """

    width: int = 64  # size of hidden vectors, D
    layers: int = 4  # number of transformer blocks
    heads: int = 4  # number of attention heads per block
    inner: int = 128  # hidden width of the SwiGLU in each block
    dropout: float = 0.0  # dropout rate in training
    window: int = 240  # maximum number of visible environment steps, the current one included
    slide: int = 80  # number of oldest steps dropped at once when the window is full; 1 as in the papers

    dynamics: bool = False  # whether to predict reward and next_obs too, as planners require
    head: str = "flow"  # distribution of float Box actions: "gaussian", "mixture" or "flow"; others ignore it
    bins: int = 0  # quantile bins of every real number in observations and rewards, beside the number; 0: none
    rewards: str = "running"  # unit of rewards: the range of the lifetime so far ("running"), or none ("fixed")
    acting_temperature: float = 1.0  # softmax temperature of sampled Discrete actions, relative to training

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (2, 8192),
        "layers": (1, 128),
        "heads": (1, 128),
        "inner": (1, 65536),
        "dropout": (0.0, 0.9),
        "window": (2, 100_000),
        "slide": (1, 100_000),
        "bins": (0, 1024),
        "acting_temperature": (1e-3, 1e3),
    }
    CHOICES: ClassVar[dict[str, Iterable[str]]] = {"head": BOX_HEADS, "rewards": REWARD_CODECS}
    ADDED: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"head": "gaussian", "rewards": "fixed", "bins": 0, "acting_temperature": 1.0}
    )
    MEANINGS: ClassVar[tuple[str, ...]] = ("heads", "rewards")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width={self.width} must be an even multiple of heads={self.heads}")
        if self.slide >= self.window:
            raise ValueError(f"slide={self.slide} must be smaller than window={self.window}: lower slide")

    @property
    def span(self) -> int:
        """Number of steps in a training window."""
        return self.window
