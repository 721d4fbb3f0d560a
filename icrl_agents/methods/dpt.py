"""Decision-Pretrained Transformer (DPT): config, loss and its three layouts."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.steps import HEAD_NOISE, MissingColumnError, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.percepts import PerceptMethod, masked_nll
from icrl_agents.methods.base.transforms import query_first

MISSING = {  # what to do about histories without the labels
    "expert_action": "collect them again",
    "intended_action": "collect them with slips (--set slips=0.5, in train source.slips)",
}


@dataclass(frozen=True)
class DPTConfig(AgentConfig):
    CHOICES: ClassVar = {
        **AgentConfig.CHOICES,
        "layout": ("steps", "set", "window"),
        "target": ("expert_action", "intended_action"),
    }
    ADDED: ClassVar = MappingProxyType({**AgentConfig.ADDED, "target": "expert_action"})
    MEANINGS: ClassVar = (*AgentConfig.MEANINGS, "layout")
    layout: str = "steps"  # query at every step ("steps"), or before an unordered ("set") or ordered ("window") context
    target: str = "expert_action"  # labels: "expert_action", or "intended_action" of a source that slips

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout != "steps" and self.dynamics:
            raise ValueError(f"layout={self.layout!r} predicts actions only: use layout='steps' with dynamics=True")

    @property
    def reorders(self) -> str:
        return "layout='set' shuffles the steps of a window: give layout='steps'" if self.layout == "set" else ""


class DPT(PerceptMethod):
    """In-context reinforcement learning by predicting expert actions (Lee et al. 2023, arXiv 2306.14892).

    Predicting the optimal action of a task from experience in it amounts to posterior sampling: a sample of the policy
    is a sample of the posterior over optimal actions, and its mode exploits. The labels at the query, for every context
    length, zero included, are those that `target` names: the environment's `expert_action`, or the source's
    `intended_action`.

    The latter are what the source means to do there: of posterior sampling the optimal action
    in a task that is still possible. A policy that learns the true optimum mixes all possible tasks in every step, and
    wavers where it should search; with `slips` up to 1 the contexts are still those of random behaviour. On the same
    histories this is the loss of AD.

    Tokens, `layout="set"`: the obs of the query first, then one token per transition (obs, action, reward, next_obs)
    in random order, with the same label at every position. `layout="window"` is the variant of DICP (arXiv 2502.19009):
    the transitions keep their order, and the query is the step after them.

    Deviations: with the query before its context, every action requires encoding the whole context again. The default
    `layout="steps"` makes every step of a history a query after the steps before it, with the tokens of AD: the same
    information in time order, a label at each step, and a cache. The context consists of the histories of a source
    learner, not of states and actions drawn uniformly.
    """

    Config = DPTConfig
    config: DPTConfig
    learns_from = ("expert_action",)

    def __init__(self, observation_space: Any, action_space: Any, config: DPTConfig | None = None):
        config = config or DPTConfig()
        self.extends = config.layout == "steps"  # a query before its context invalidates every cached token
        super().__init__(observation_space, action_space, config, whole=not self.extends)

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        if (target := self.config.target) not in steps.extras:
            raise MissingColumnError("dpt", target, f"{MISSING[target]}, or use ad")
        return (
            steps if self.extends else query_first(self.reward.tracked(steps), rng, shuffle=self.config.layout == "set")
        )

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        expert = steps.extras[self.config.target]  # (B, T, ...)
        if self.extends:
            return self.loss_at(self.hidden(steps), steps, expert)
        # `prepare_batch` put the query into column 0; the label of the query holds at all T positions
        hidden = self._query_first(steps, torch.zeros_like(steps.mask[:, 0], dtype=torch.long), steps.window(1, None))
        choices, label = self.action_distribution(hidden, steps.static), expert[:, :1].expand_as(expert)
        weight, noise = self.loss_weight(steps), steps.extras.get(HEAD_NOISE)
        return {"action": masked_nll(choices, label, steps.mask, weight, noise)}

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        if self.extends:
            return super().read(steps, last)
        # with the query in front, output `last` has read the steps 0..last - 1
        return self._query_first(steps, last, steps)[torch.arange(len(last), device=last.device), last]

    def _query_first(self, steps: Steps, query: Tensor, context: Steps) -> Tensor:
        """Hidden vectors (B, 1 + T, D) of a sequence: step `query` (B,) as the query, then the context (B, T)."""
        rows = torch.arange(len(query), device=query.device)
        return self.body(torch.cat([self.query(steps)[rows, query][:, None], self.tokens(context)[:, :, 0]], 1))
