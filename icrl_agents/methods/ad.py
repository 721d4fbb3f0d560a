"""Algorithm Distillation (AD): config, loss and the published layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from icrl_agents.core.steps import HEAD_NOISE, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.percepts import PerceptMethod, intended_action, masked_nll


@dataclass(frozen=True)
class ADConfig(AgentConfig):
    CHOICES: ClassVar = {**AgentConfig.CHOICES, "layout": ("steps", "packed")}
    MEANINGS: ClassVar = (*AgentConfig.MEANINGS, "layout")
    layout: str = "steps"  # loss at every step ("steps"), or as published at one target per window ("packed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout == "packed" and self.dynamics:
            raise ValueError("layout='packed' predicts actions only: use layout='steps' with dynamics=True")


class AD(PerceptMethod):
    """In-context reinforcement learning with algorithm distillation (Laskin et al. 2022, arXiv 2210.14215).

    A transformer that predicts the next action of a learning algorithm from its whole learning history must itself
    improve as the history grows. Trained on the lifetimes of source learners, it learns unseen tasks in context.

    Tokens of a step: one percept, obs + prev_action + prev_reward + first. Loss: mean over all steps t of
    -log p(action_t | percept_1..t), eq. 4 of the paper at every position at once.

    Deviations: the paper and the public codes train one target per window and never short contexts; here every step
    is a target. `layout="packed"` reproduces the public codes for comparison: one token per transition
    (obs, action, reward, next_obs), a query token for the current obs, and a loss at the last query only.
    """

    Config = ADConfig
    config: ADConfig

    def __init__(self, observation_space: Any, action_space: Any, config: ADConfig | None = None):
        config = config or ADConfig()
        super().__init__(observation_space, action_space, config, whole=config.layout == "packed")

    def loss_weight(self, steps: Steps) -> Any:
        return steps.mask.any(1).sum() if self.config.layout == "packed" else super().loss_weight(steps)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        if self.config.layout == "packed":  # published: one target per window
            return {"action": self._last_query_loss(steps)}
        return self.loss_at(self.hidden(steps), steps, intended_action(steps))

    def _last_query_loss(self, steps: Steps) -> Tensor:
        last = (steps.mask.sum(1) - 1).clamp_min(0)  # (B,) last real step of each window
        rows = torch.arange(len(last), device=last.device)
        distribution = self.action_distribution(self.read(steps, last), steps.static)  # (B,) leading axis
        target, noise = intended_action(steps)[rows, last], steps.extras.get(HEAD_NOISE)
        noise = None if noise is None else noise[rows, last]
        return masked_nll(distribution, target, steps.mask[rows, last], self.loss_weight(steps), noise)
