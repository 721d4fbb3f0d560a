"""Imagined steps: a method's dynamics heads on a fork of its cache (DICP, Son et al. 2025, section 4).

An imagined step costs one percept per kept branch. Axis letters: B rows, W branches of a row, A alternative actions of
a branch, V kept branches, U reward values, D width.
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
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.fork import Fork

MAX_REWARDS = 64  # with more distinct observed rewards, imagined rewards are not rounded to them


@dataclass
class Branch:
    """Branches (B, W), each ending with an imagined percept."""

    fork: Fork
    hidden: Tensor  # (B, W, D) at the percepts
    obs: Tensor  # (B, W, ...) of the percepts


@dataclass
class Imagined:
    """Actions tried in every branch, and their predicted outcomes."""

    branch: Branch
    action: Tensor  # (B, W, A, ...)
    outcome: Outcome


class MethodImagination:
    """`Imagination` of a method with dynamics, starting from the encoded open steps of a context.

    The modal reward of an outcome is the value nearest to its expected reward among 0 and the rewards that the row has
    observed, so branches continue with rewards that occur in the environment. All rewards are in the unit of the
    method's reward codec at the open step, which no imagined reward changes.
    """

    def __init__(self, method: Method, context: Context, generator: torch.Generator | None = None):
        self.method, self.generator = method, generator
        now = method.tensors(context.read(context.length, 1))  # (B, 1) the open steps
        self.obs, self.extras = now.obs, {name: x[:, 0] for name, x in now.extras.items()}
        seen = context.visible()
        rows = [
            np.unique(np.append(reward[mask], np.float32(0)))
            for reward, mask in zip(seen.reward, seen.mask, strict=True)
        ]
        few = np.array([len(values) <= MAX_REWARDS for values in rows])  # (B,)
        self.rewards, self.few = None, torch.as_tensor(few, device=method.device)
        if few.any():  # infinity never is the nearest value: it masks rewards of other rows
            values = np.unique(np.concatenate([own for own, some in zip(rows, few, strict=True) if some]))
            has = ((seen.reward[..., None] == values) & seen.mask[..., None]).any(1)  # (B, U)
            has |= (values == 0) & (method.reward.knows_zero | ~has.any(1, keepdims=True))
            known = torch.as_tensor(values, device=method.device).expand(has.shape)
            known = method.reward.relative(known, self.extras)
            self.rewards = known.masked_fill(torch.as_tensor(~has, device=method.device), torch.inf)

    def root(self, cache: Cache, hidden: Tensor) -> Branch:
        """The open steps of the rows, with hidden vectors (B, D), as one branch (B, 1) each."""
        return Branch(Fork.of(cache), hidden[:, None], self.obs)

    def propose(self, ctx: Branch, count: int) -> Proposal:
        return Proposal(*self.method.action.head(ctx.hidden).candidates(count, self.generator))

    def imagine(self, ctx: Branch, action: Tensor) -> tuple[Outcome, Imagined]:
        method: Any = self.method  # all methods with dynamics have `outcomes`
        hidden = ctx.hidden[:, :, None].expand(*action.shape[:3], -1)  # (B, W, A, D)
        reward, next_obs = method.outcomes(hidden, action)
        expected = reward.mode()
        outcome = Outcome(expected, self._modal(expected), next_obs.mode())
        return outcome, Imagined(ctx, action, outcome)

    def follow(self, imagined: Imagined, parent: Tensor, choice: Tensor) -> Branch:
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        where, before = (rows, parent, choice), imagined.branch.obs[rows, parent]
        obs, action = imagined.outcome.next_obs[where], imagined.action[where]  # (B, V, ...)
        reward, no = imagined.outcome.reward[where], torch.zeros_like(parent, dtype=torch.bool)
        extras = {name: x[:, None].expand(-1, parent.shape[1], *x.shape[1:]) for name, x in self.extras.items()}
        steps = Steps(obs, before, action, reward, no, no, action, reward, obs, no, no, ~no, extras)
        return Branch(*imagined.branch.fork.grow(self.method.body, parent, self.method.query(steps)), obs)

    def value(self, ctx: Branch) -> Tensor:
        to_go: Any = self.method.to_go  # all methods with dynamics have this head
        return to_go.head(ctx.hidden).mode()

    def _modal(self, expected: Tensor) -> Tensor:
        as_is = self.method.reward.possible(expected)
        if self.rewards is None:
            return as_is
        rewards = self.rewards.reshape(len(self.rewards), *[1] * (expected.dim() - 1), -1)
        nearest = (expected[..., None] - rewards).abs().argmin(-1)  # (B, W, A)
        modal = rewards.expand(*expected.shape, -1).gather(-1, nearest[..., None])[..., 0]
        return torch.where(self.few.reshape(-1, *[1] * (expected.dim() - 1)), modal, as_is)


def search(
    method: Method, planner: Planner, context: Context, hidden: Tensor, generator: torch.Generator | None
) -> SearchResult:
    """Search from the open steps of a context, whose hidden vectors are `hidden` (B, D).

    The rewards of the resulting path are in the unit of the environment.
    """
    cache, horizon = method.branch(context)
    left = context.steps_left()
    closed = (horizon < 1) | ((left <= horizon) & (left < UNKNOWN))  # no bootstrap value after the last step
    ends = torch.as_tensor(closed, device=hidden.device)
    allowed = torch.as_tensor(np.clip(horizon, 1, left), device=hidden.device)  # (B,) depth limit
    imagination = MethodImagination(method, context, generator)
    found = planner.search(imagination, imagination.root(cache, hidden), allowed, ends, generator)
    path = found.path._replace(reward=method.reward.absolute(found.path.reward, imagination.extras))
    known = found.known if planner.when == "known" else torch.ones_like(found.known)
    return found._replace(path=path, known=known)
