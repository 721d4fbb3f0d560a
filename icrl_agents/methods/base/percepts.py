"""PerceptMethod: the step tokens and loss terms shared by AD, DPT, IDT, CAD and Marked AD.

Axis letters: B rows, T environment steps, S tokens (slots) per step, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from icrl_agents.core.steps import HEAD_NOISE, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.transforms import return_to_go
from icrl_agents.nn.codecs.box import ReturnCodec
from icrl_agents.nn.codecs.codec import EMBEDDING_STD
from icrl_agents.nn.codecs.distributions import Distribution


class PerceptMethod(Method):
    """Method with one percept token per step, obs + prev_action + prev_reward + first, which predicts the action.

    With `dynamics` the percept and an action together predict reward and next_obs, and the percept predicts the return
    to go, the bootstrap value of planners. Rewards are in the unit of the reward codec everywhere.

    Args:
        whole: the layout of the public codes instead: one token per transition, and a query that is not kept.
    """

    def __init__(self, observation_space: Any, action_space: Any, config: AgentConfig, whole: bool = False):
        super().__init__(observation_space, action_space, config)
        self.first = nn.Embedding(2, config.width)
        nn.init.normal_(self.first.weight, std=EMBEDDING_STD)
        if whole:
            self.slots = ("transition",)
            self.transition = Transition(config.width)
        elif config.dynamics:
            self.outcome = Outcome(config.width)
            self.to_go = ReturnCodec(config.width, embeds=False)

    def tokens(self, steps: Steps) -> Tensor:
        if not self.query_stays:
            return self.transition(self, steps)[:, :, None]  # (B, T, 1, D)
        percept = self.obs.embed(steps.obs) + self.first(steps.first.long()) + self.reward.before(steps)
        return (percept + self.action.embed(steps.prev_action))[:, :, None]  # (B, T, 1, D)

    def query(self, steps: Steps) -> Tensor:
        if self.query_stays:
            return super().query(steps)
        return self.obs.embed(steps.obs) + self.first(steps.first.long())  # (B, T, D)

    def outcomes(self, hidden: Tensor, action: Tensor) -> tuple[Distribution, Distribution]:
        """Predicted reward and next_obs of the actions (B, ...) at the percepts' hidden vectors (B, ..., D)."""
        after = self.outcome(hidden, self.action.embed(action))
        return self.reward.head(after), self.obs.head(after)

    def fit_normalization(self, steps: Steps) -> None:
        super().fit_normalization(steps)
        if self.config.dynamics:
            value, known = return_to_go(steps)
            if known.any():  # no complete episode in the batch: keep mean 0 and std 1
                self.to_go.fit_normalization(value[known])

    def loss_at(self, hidden: Tensor, steps: Steps, action: Tensor, count: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms at hidden vectors (B, T, S, D).

        Args:
            action: target actions (B, T, ...) of the policy.
            count: denominator of the means; None: the number of real steps.
        """
        count = steps.mask.sum() if count is None else count  # () scalar tensor
        percept = hidden[:, :, 0]  # (B, T, D)
        policy, noise = self.action_distribution(percept, steps.static), steps.extras.get(HEAD_NOISE)
        terms = {"action": masked_nll(policy, action, steps.mask, count, noise)}
        if self.config.dynamics:
            reward, next_obs = self.outcomes(percept, steps.action)
            value, known = return_to_go(steps)
            terms["reward"] = masked_nll(reward, steps.reward, steps.mask, count)
            terms["next_obs"] = masked_nll(next_obs, steps.next_obs, steps.mask, count)
            terms["return_to_go"] = masked_nll(self.to_go.head(percept), value, known, count)
        return terms


class Outcome(nn.Module):
    """Hidden vector of an action at a percept, from which its outcome is predicted.

    The published codes read it from a token of the action, which doubles the sequence and costs a planner a pass
    through all layers for every action that it tries.
    """

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, action: Tensor) -> Tensor:
        """(..., D) from hidden vectors and embedded actions (..., D)."""
        return hidden + self.mix(torch.cat([hidden, action], -1))


class Transition(nn.Module):
    """Token of a whole transition: obs + action + reward + next_obs."""

    def __init__(self, width: int):
        super().__init__()
        self.next_obs = nn.Linear(width, width)  # distinguishes next_obs from obs, which share an embedding

    def forward(self, method: Method, steps: Steps) -> Tensor:
        """Tokens (B, T, D), with the embeddings of the method's codecs."""
        after = self.next_obs(method.obs.embed(steps.next_obs)) + method.reward.after(steps)
        return method.obs.embed(steps.obs) + method.action.embed(steps.action) + after


def intended_action(steps: Steps) -> Tensor:
    """Target actions (B, T, ...): those the source intended before random slips, if recorded, else those taken."""
    return steps.extras.get("intended_action", steps.action)


def masked_nll(
    distribution: Distribution, value: Tensor, mask: Tensor, count: Tensor, noise: Tensor | None = None
) -> Tensor:
    """Sum of the losses of a distribution under the mask, divided by `count` (or 1 if it is smaller)."""
    return (distribution.loss(value, noise) * mask).sum() / count.clamp_min(1)
