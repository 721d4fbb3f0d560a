"""ReactiveMethod: a policy of the current observation alone.

Axis letters: B rows, T environment steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.codecs import BOX_HEADS
from icrl_agents.nn.codecs.decoded import greedy
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.vision.encoders import mlp


@dataclass(frozen=True)
class ReactiveConfig(ModelConfig):
    """Sizes of a policy of the current observation."""

    width: int = 128  # size of hidden vectors, D
    layers: int = 2  # number of linear layers between the embedding of an observation and the output head
    head: str = "gaussian"  # distribution of float Box actions: "gaussian", "mixture" or "flow"; others ignore it
    bins: int = 0  # quantile bins of every real number in observations, beside the number; 0: none
    choice: str = "mode"  # how to act: "mode", the most probable action, or "sample"
    acting_temperature: float = 1.0  # softmax temperature of sampled Discrete actions; below 1 demonstrators err less
    window: int = 8  # number of steps in a training window; the policy reads one

    CHOICES: ClassVar = {"head": BOX_HEADS, "choice": ("mode", "sample")}
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (2, 8192),
        "layers": (1, 128),
        "bins": (0, 1024),
        "acting_temperature": (1e-3, 1e3),
        "window": (2, 100_000),
    }
    # what acting reads of every config, and these policies have no choice of
    dynamics: ClassVar = False
    rewards: ClassVar = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (given := self.acting_temperature) != 1 and self.choice != "sample":
            raise ValueError(f"acting_temperature={given} is of sampled actions: give choice='sample' with it")

    @property
    def span(self) -> int:
        return self.window

    @property
    def slide(self) -> int:
        """Number of oldest steps that a full context drops: all but one, since none is read."""
        return self.window - 1


class ReactiveMethod(Method):
    """Method whose policy depends on the current observation alone, so it does not learn in its context.

    A subclass implements `loss`, and `policy_at` if hidden vectors do not go straight into the action head.
    """

    Config = ReactiveConfig
    in_context = False
    extends = False
    reads_actions = reads_rewards = False
    config: ReactiveConfig

    def make_body(self) -> Any:
        return nn.Sequential(nn.GELU(), mlp([self.config.width] * (self.config.layers + 1)), nn.GELU())

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    def tokens(self, steps: Steps) -> Tensor:
        return self.obs.embed(steps.obs)[:, :, None]  # (B, T, 1, D)

    def hidden(self, steps: Steps) -> Tensor:
        return self.body(self.tokens(steps))

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        rows = torch.arange(len(last), device=last.device)
        return self.body(self.obs.embed(steps.obs[rows, last]))

    def action_distribution(self, hidden: Tensor, static: Any) -> Distribution:
        found = super().action_distribution(hidden, static)
        return greedy(found) if self.config.choice == "mode" else found

    # ---- acting -----------------------------------------------------------------------------------------------------

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        obs = context.steps.obs[np.arange(context.rows), context.length]
        return self.body(self.obs.embed(self.obs.tensor(obs, self.device)))

    def visible(self, context: Context) -> Steps:
        """No step: none influences an action."""
        return context.steps.window(0, 0)
