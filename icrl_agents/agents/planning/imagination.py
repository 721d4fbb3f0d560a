"""The imagination of a method: its own dynamics heads, behind a fork of its cache (DICP, Son et al. 2025, section 4).

An imagined step costs one token for each action tried and one percept for each branch that continues. Axis letters:
B rows, W branches of a row, A alternative actions of a branch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icrl_agents.agents.planning.search import Outcome, Planner, Proposal, SearchResult
from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.context import UNKNOWN, Context
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.fork import Fork

MAX_REWARDS = 64  # different rewards seen, beyond which an imagined one need not be one of them


@dataclass
class Branch:
    """Imagined percepts (B, W), fed to the fork."""

    fork: Fork
    hidden: Tensor  # (B, W, D)


@dataclass
class Imagined:
    """Imagined actions, fed to the fork, and what came of them."""

    fork: Fork
    action: Tensor  # (B, W, A, ...)
    outcome: Outcome


class MethodImagination:
    """The `Imagination` of a method with dynamics, on the rows of a context whose open step has been encoded.

    The modal reward is the one nearest to the expected reward among 0 and those that the row has seen, so that a branch
    continues with rewards that exist.
    """

    def __init__(self, method: Method, context: Context, generator: torch.Generator | None = None):
        self.method, self.generator = method, generator
        here = np.arange(context.rows), context.length
        self.extras = {name: torch.as_tensor(x[here], device=method.device) for name, x in context.steps.extras.items()}
        seen = context.visible()
        values = np.unique(np.append(seen.reward[seen.mask], np.float32(0)))
        self.rewards: Tensor | None = None
        if len(values) <= MAX_REWARDS:
            has = ((seen.reward[..., None] == values) & seen.mask[..., None]).any(1) | (values == 0)  # (B, U)
            self.rewards = torch.as_tensor(np.where(has, values, np.inf).astype(np.float32), device=method.device)

    def propose(self, ctx: Branch, count: int) -> Proposal:
        return Proposal(*self.method.action.head(ctx.hidden).candidates(count, self.generator))

    def imagine(self, ctx: Branch, action: Tensor) -> tuple[Outcome, Imagined]:
        method = self.method
        hidden = ctx.fork.feed(method.body, method.action.embed(action))  # (B, W, A, D)
        expected = method.reward.head(hidden).mode()
        outcome = Outcome(expected, self._modal(expected), method.obs.head(hidden).mode())
        return outcome, Imagined(ctx.fork, action, outcome)

    def follow(self, imagined: Imagined, parent: Tensor, choice: Tensor) -> Branch:
        where = torch.arange(len(parent), device=parent.device)[:, None], parent, choice
        obs, action = imagined.outcome.next_obs[where], imagined.action[where]
        reward, no = imagined.outcome.reward[where], torch.zeros_like(parent, dtype=torch.bool)
        extras = {name: x[:, None].expand(-1, parent.shape[1], *x.shape[1:]) for name, x in self.extras.items()}
        steps = Steps(obs, obs, action, reward, no, no, action, reward, obs, no, no, ~no, extras)
        fork = imagined.fork.grow(parent, choice)
        hidden = fork.feed(self.method.body, self.method.query(steps)[:, :, None])[:, :, 0]
        return Branch(fork.kept(), hidden)

    def value(self, ctx: Branch) -> Tensor:
        to_go: Any = self.method.to_go  # which all methods with dynamics have
        return to_go.head(ctx.hidden).mode()

    def _modal(self, expected: Tensor) -> Tensor:
        if self.rewards is None:
            return expected
        rewards = self.rewards.reshape(len(self.rewards), *[1] * (expected.dim() - 1), -1)
        nearest = (expected[..., None] - rewards).abs().argmin(-1)  # (B, W, A)
        return rewards.expand(*expected.shape, -1).gather(-1, nearest[..., None])[..., 0]


def search(
    method: Method, planner: Planner, context: Context, hidden: Tensor, generator: torch.Generator | None
) -> SearchResult:
    """Search from the open steps of a context, with the hidden vectors (B, D) at them."""
    cache, horizon = method.branch(context)
    left = context.steps_left()
    closed = (horizon < 1) | ((left <= horizon) & (left < UNKNOWN))  # no bootstrap value after the last step
    ends = torch.as_tensor(closed, device=hidden.device)
    allowed = torch.as_tensor(np.clip(horizon, 1, left), device=hidden.device)
    imagination = MethodImagination(method, context, generator)
    found = planner.search(imagination, Branch(Fork.of(cache), hidden[:, None]), allowed, ends, generator)
    return found if planner.when == "known" else found._replace(known=torch.ones_like(found.known))
