"""Algorithm Distillation on observations, previous actions and previous rewards alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.percepts import masked_nll


@dataclass(frozen=True)
class PlainADConfig(AgentConfig):
    reward_scale: float = 1.0  # factor of the embedded previous reward


class PlainAD(Method):
    """AD without a token for the beginning of an episode."""

    Config = PlainADConfig
    config: PlainADConfig

    def tokens(self, steps: Steps) -> Tensor:
        percept = self.obs.embed(steps.obs) + self.config.reward_scale * self.reward.before(steps)
        return (percept + self.action.embed(steps.prev_action))[:, :, None]  # (B, T, 1, D)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        policy = self.action_distribution(self.hidden(steps)[:, :, 0], steps.static)
        return {"action": masked_nll(policy, steps.action, steps.mask, steps.mask.sum())}
