"""Algorithm Distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icrl_agents.acting import with_query
from icrl_agents.agent import ICAgent
from icrl_agents.codecs import EMBEDDING_STD, Distribution
from icrl_agents.config import AgentConfig
from icrl_agents.steps import Steps


@dataclass(frozen=True)
class ADConfig(AgentConfig):
    layout: str = "steps"  # "steps": loss at every step; "packed": the published one target a window

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in ("steps", "packed"):
            raise ValueError(f"layout={self.layout!r}, choose 'steps' or 'packed'")
        if self.layout == "packed" and self.dynamics:
            raise ValueError("layout='packed' has no action token: use layout='steps' with dynamics=True")


class AD(ICAgent):
    """In-context reinforcement learning with algorithm distillation (Laskin et al. 2022, arXiv 2210.14215).

    A transformer that predicts the next action of a learning algorithm from the whole history of its learning must
    itself improve as the history grows. Trained on source learners' lifetimes, it learns unseen tasks in context.

    Tokens of a step: one percept, obs + prev_action + prev_reward + first; with `dynamics` a second one for
    the action, at which reward and next_obs are read. Loss: the mean over all steps t of
    -log p(action_t | percept_1..t), eq. 4 of the paper at every position at once.

    Deviations: the paper and the public codes train one target a window and never short contexts; here every step is
    a target. `layout="packed"` is the public codes' form for comparison: a token for each whole transition
    (obs, action, reward, next_obs), a query token for the current obs, a loss at the last query only.
    """

    Config = ADConfig
    config: ADConfig

    def __init__(self, observation_space: Any, action_space: Any, config: ADConfig | None = None):
        super().__init__(observation_space, action_space, config)
        width = self.config.width
        self.first = nn.Embedding(2, width)
        nn.init.normal_(self.first.weight, std=EMBEDDING_STD)
        if self.config.layout == "packed":
            self.slots = ("transition",)
            self.next_obs = nn.Linear(width, width)  # tells next_obs from obs, which share their tables
        elif self.config.dynamics:
            self.slots = ("percept", "action")

    def tokens(self, steps: Steps) -> Tensor:
        if self.config.layout == "packed":
            after = self.next_obs(self.obs.embed(steps.next_obs)) + self.reward.embed(steps.reward)
            return (self.obs.embed(steps.obs) + self.action.embed(steps.action) + after)[:, :, None]  # (B, T, 1, D)
        percept = self.obs.embed(steps.obs) + self.first(steps.first.long()) + self.reward.embed(steps.prev_reward)
        if not self.config.dynamics:
            return (percept + self.action.embed(steps.prev_action))[:, :, None]
        return torch.stack([percept, self.action.embed(steps.action)], 2)  # (B, T, 2, D)

    def query(self, steps: Steps) -> Tensor:
        if self.config.layout == "packed":
            return self.obs.embed(steps.obs) + self.first(steps.first.long())
        return super().query(steps)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        if self.config.layout == "packed":
            return {"action": self._last_query_loss(steps)}
        hidden = self.hidden(steps)  # (B, T, S, D)
        terms = {"action": masked_nll(self.action.head(hidden[:, :, 0]), steps.action, steps.mask)}
        if self.config.dynamics:
            terms["reward"] = masked_nll(self.reward.head(hidden[:, :, 1]), steps.reward, steps.mask)
            terms["next_obs"] = masked_nll(self.obs.head(hidden[:, :, 1]), steps.next_obs, steps.mask)
        return terms

    def _last_query_loss(self, steps: Steps) -> Tensor:
        last = (steps.mask.sum(1) - 1).clamp_min(0)  # (B,) the last real step of each window
        rows = torch.arange(len(last), device=last.device)
        seen = with_query(self.tokens(steps).flatten(1, 2), self.query(steps), last)
        distribution = self.action.head(self.body(seen)[rows, last])
        return masked_nll(distribution, steps.action[rows, last], steps.mask[rows, last])


def masked_nll(distribution: Distribution, value: Tensor, mask: Tensor) -> Tensor:
    """The mean negative log-likelihood over the steps that are real."""
    weight = mask.float()
    return -(distribution.log_prob(value) * weight).sum() / weight.sum().clamp_min(1)
