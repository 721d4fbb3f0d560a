"""What an agent imagines: its own dynamics heads, behind a fork of what it has been fed.

An imagined step costs one token for each action tried and one percept for each branch that goes on. Axis letters:
B rows, W branches of a row, A alternative actions of a branch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icrl_agents.context import UNKNOWN, Context
from icrl_agents.nn.fork import Fork
from icrl_agents.planning import Found, Outcome, Path, Planner, Proposal
from icrl_agents.steps import Steps

if TYPE_CHECKING:
    from icrl_agents.agent import ICAgent

ROWS = 32  # searched at a time: what their branches read should fit a CPU's cache
SAME_REWARD = 1e-3
SAME_OBS = 0.1, 0.1  # relative and absolute, of real numbers; integers must be equal
MEMORY = 0.95  # what remains, a step later, of the weight of a prediction that came true or did not
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


class AgentImagination:
    """The `Imagination` of an agent with dynamics, on the rows of a context whose open step has been fed.

    The likeliest reward is the one nearest to the expected reward among those that the row has seen, and 0: it goes on
    with rewards that exist.
    """

    def __init__(self, agent: ICAgent, context: Context, generator: torch.Generator | None = None):
        self.agent, self.generator = agent, generator
        here = np.arange(context.rows), context.length
        self.extras = {name: torch.as_tensor(x[here], device=agent.device) for name, x in context.steps.extras.items()}
        seen = context.visible()
        values = np.unique(np.append(seen.reward[seen.mask], np.float32(0)))
        self.rewards: Tensor | None = None
        if len(values) <= MAX_REWARDS:
            has = ((seen.reward[..., None] == values) & seen.mask[..., None]).any(1) | (values == 0)  # (B, U)
            self.rewards = torch.as_tensor(np.where(has, values, np.inf).astype(np.float32), device=agent.device)

    def propose(self, ctx: Branch, count: int) -> Proposal:
        return Proposal(*self.agent.action.head(ctx.hidden).candidates(count, self.generator))

    def imagine(self, ctx: Branch, action: Tensor) -> tuple[Outcome, Imagined]:
        agent = self.agent
        hidden = ctx.fork.feed(agent.body, agent.action.embed(action))  # (B, W, A, D)
        expected = agent.reward.head(hidden).mode()
        outcome = Outcome(expected, self._likely(expected), agent.obs.head(hidden).mode())
        return outcome, Imagined(ctx.fork, action, outcome)

    def follow(self, imagined: Imagined, parent: Tensor, choice: Tensor) -> Branch:
        where = torch.arange(len(parent), device=parent.device)[:, None], parent, choice
        obs, action = imagined.outcome.next_obs[where], imagined.action[where]
        reward, no = imagined.outcome.reward[where], torch.zeros_like(parent, dtype=torch.bool)
        extras = {name: x[:, None].expand(-1, parent.shape[1], *x.shape[1:]) for name, x in self.extras.items()}
        steps = Steps(obs, obs, action, reward, no, no, action, reward, obs, no, no, ~no, extras)
        fork = imagined.fork.grow(parent, choice)
        hidden = fork.feed(self.agent.body, self.agent.query(steps)[:, :, None])[:, :, 0]
        return Branch(fork.kept(), hidden)

    def value(self, ctx: Branch) -> Tensor:
        to_go: Any = self.agent.to_go  # which all agents with dynamics have
        return to_go.head(ctx.hidden).mode()

    def _likely(self, expected: Tensor) -> Tensor:
        if self.rewards is None:
            return expected
        rewards = self.rewards.reshape(len(self.rewards), *[1] * (expected.dim() - 1), -1)
        nearest = (expected[..., None] - rewards).abs().argmin(-1)  # (B, W, A)
        return rewards.expand(*expected.shape, -1).gather(-1, nearest[..., None])[..., 0]


class Plans:
    """What the rows of a running agent mean to do next, and how far their imagination is to be trusted."""

    def __init__(self) -> None:
        self.predicted: Tensor | None = None  # (B, ...) what the action that waits for its outcome is to lead to
        self.right = self.total = np.zeros(0)  # (B,) weights of the predictions that came true, and of all
        self.planner: Planner | None = None  # whose plans these are
        self.path: Path | None = None  # (B, T, ...)
        self.length = self.place = torch.zeros(0, dtype=torch.long)  # (B,) steps to follow, and taken of them

    def draft(self) -> Plans:
        """A copy; changing it never changes this one, as all that is held is replaced, never written to."""
        copy = Plans()
        vars(copy).update(vars(self))
        return copy

    def on(self, planner: Planner, context: Context) -> Tensor:
        """(B,) bool: the rows whose last step came out as this planner imagined, with steps left to follow."""
        if self.planner != planner:
            self.planner, self.path = planner, None
        if self.path is None:
            return torch.zeros(context.rows, dtype=torch.bool)
        device, here = self.path.reward.device, (np.arange(context.rows), context.length)
        last = torch.arange(context.rows, device=device), (self.place - 1).clamp_min(0)
        obs, paid, begins = (
            torch.as_tensor(column[here], device=device)
            for column in (_signed(context.steps.obs), context.steps.prev_reward, context.steps.first)
        )
        same = (self.path.next_obs[last] == obs).reshape(context.rows, -1).all(1)
        paid = (self.path.reward[last] - paid).abs() < SAME_REWARD
        return same & paid & ~begins & (self.place > 0) & (self.place < self.length)

    def judge(self, next_obs: np.ndarray, live: np.ndarray) -> None:
        """Compare what was predicted with what has happened, (B, ...), in the rows `live`."""
        if self.predicted is None:
            return
        same = np.isclose(self.predicted.cpu().numpy(), next_obs, *(SAME_OBS if next_obs.dtype.kind == "f" else (0, 0)))
        right = same.reshape(len(live), -1).all(1)
        self.right = np.where(live, MEMORY * self.right + right, self.right)
        self.total = np.where(live, MEMORY * self.total + 1, self.total)
        self.predicted = None

    def forget(self, rows: np.ndarray) -> None:
        """A new task begins in some rows: trust has to be won again."""
        if len(self.total):
            self.right, self.total = self.right.copy(), self.total.copy()
            self.right[rows] = self.total[rows] = 0.0
        if len(self.length):
            self.length = self.length.index_fill(0, torch.as_tensor(rows, device=self.length.device), 0)

    def trusted(self, planner: Planner) -> np.ndarray:
        """(B,) bool: the rows whose imagination has been right often enough; one failure is imagined beforehand."""
        return self.right >= planner.trust * (self.total + 1)

    def predict(self, agent: ICAgent, context: Context, action: Tensor) -> None:
        """Note what the actions (B, ...) are expected to lead to."""
        fork = Fork.of(agent.branch(context)[0])
        hidden = fork.feed(agent.body, agent.action.embed(action[:, None, None]))  # (B, 1, 1, D)
        self.predicted = agent.obs.head(hidden).mode()[:, 0, 0]

    def put(self, index: Tensor, found: Found, follow: int, rows: int) -> None:
        """Mean to follow what was found (N, ...) for the rows `index` (N,) of `rows`, for `follow` steps at most."""
        if self.path is None or self.path.reward.shape != (rows, follow):
            self.path = Path(*(x.new_zeros(rows, follow, *x.shape[2:]) for x in found.path))
            self.length = self.place = torch.zeros(rows, dtype=torch.long, device=index.device)
        count = min(follow, found.path.reward.shape[1])
        self.path = Path(*(ours.clone() for ours in self.path))
        for ours, theirs in zip(self.path, found.path, strict=True):
            ours[index, :count] = theirs[:, :count]
        heard = torch.where(found.known, found.length, 0).clamp_max(follow)
        self.length = self.length.index_copy(0, index, heard)
        self.place = self.place.index_fill(0, index, 0)


@torch.inference_mode()
def plan_actions(
    agent: ICAgent,
    planner: Planner,
    plans: Plans,
    context: Context,
    hidden: Tensor,
    otherwise: Tensor,
    live: np.ndarray,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The actions (B, ...) of a planner, and `otherwise` (B, ...) where it is not heard.

    The open step of the context has been fed, with the `hidden` vectors (B, D) at it.
    """
    if len(plans.total) != context.rows:
        plans.right = plans.total = np.zeros(context.rows)
    trusted = plans.trusted(planner)
    following = plans.on(planner, context).cpu().numpy() & trusted
    rows = np.flatnonzero(live & ~following & trusted & _concerned(planner, context))
    for block in np.array_split(rows, -(-len(rows) // ROWS)) if len(rows) else ():
        part = context if len(block) == context.rows else context.select(block)
        found = _search(agent, planner, part, hidden[torch.as_tensor(block)], generator)
        plans.put(torch.as_tensor(block, device=hidden.device), found, planner.follow, context.rows)
    action = otherwise.clone()
    if plans.path is not None:
        following[rows] = True
        act = torch.as_tensor(following & live, device=otherwise.device) & (plans.place < plans.length)
        action[act] = plans.path.action[act, plans.place[act]]
        plans.place = plans.place + act
        void = torch.as_tensor(live & ~following, device=otherwise.device)  # what was not followed
        plans.length = plans.length.masked_fill(void, 0)
    if planner.trust:
        plans.predict(agent, context, action)
    return action


def _signed(column: np.ndarray) -> np.ndarray:
    """Integers as those that PyTorch compares with all others."""
    return column.astype(np.int64) if column.dtype.kind == "u" else column


def _concerned(planner: Planner, context: Context) -> np.ndarray:
    """(B,) rows in which the planner may be heard."""
    if planner.when == "full":
        return context.full
    seen = context.visible()
    return ((seen.reward != 0) & seen.mask).any(1) | (planner.when == "always")


def _search(
    agent: ICAgent, planner: Planner, context: Context, hidden: Tensor, generator: torch.Generator | None
) -> Found:
    cache, most = agent.branch(context)
    left = context.steps_left()
    closed = (most < 1) | ((left <= most) & (left < UNKNOWN))  # nothing is to be valued after the last step
    ends = torch.as_tensor(closed, device=hidden.device)
    allowed = torch.as_tensor(np.clip(most, 1, left), device=hidden.device)
    imagination = AgentImagination(agent, context, generator)
    found = planner.search(imagination, Branch(Fork.of(cache), hidden[:, None]), allowed, ends, generator)
    return found if planner.when == "known" else found._replace(known=torch.ones_like(found.known))
