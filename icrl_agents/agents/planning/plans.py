"""Plans that the rows of a running agent follow, and how reliable their imagination has been.

Axis letters: B rows, N rows that were searched, T planned steps, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icrl_agents.agents.planning.imagination import search
from icrl_agents.agents.planning.search import Path, Planner, SearchResult
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.fork import Fork

ROWS = 32  # searched at a time: what their branches read should fit a CPU's cache
SAME_REWARD = 1e-3
SAME_OBS = 0.1, 0.1  # relative and absolute, of real numbers; integers must be equal
MEMORY = 0.95  # weight that a scored prediction keeps from one step to the next


class Decision(NamedTuple):
    """The open steps of a context, at which actions are chosen."""

    context: Context  # its open steps are encoded
    hidden: Tensor  # (B, D) at them
    action: Tensor  # (B, ...) the policy's choice
    active: np.ndarray  # (B,) bool: rows whose step is real


class Plans:
    """What the rows of a running agent do next, and how far their imagination is reliable."""

    def __init__(self) -> None:
        self.predicted: Tensor | None = None  # (B, ...) next_obs of the action that waits for its outcome
        self.right = self.total = np.zeros(0)  # (B,) weights of the predictions that came true, and of all
        self.planner: Planner | None = None  # whose plans these are
        self.path: Path | None = None  # (B, T, ...)
        self.length = self.place = torch.zeros(0, dtype=torch.long)  # (B,) steps to follow, and taken of them

    def draft(self) -> Plans:
        """A copy; changing it never changes this one, as all that is held is replaced, never written to."""
        copy = Plans()
        vars(copy).update(vars(self))
        return copy

    @torch.inference_mode()
    def choose(
        self, method: Method, planner: Planner, decision: Decision, generator: torch.Generator | None = None
    ) -> Tensor:
        """The actions (B, ...): the planner's where it overrides the policy, else the policy's."""
        context, active = decision.context, decision.active
        if len(self.total) != context.rows:
            self.right = self.total = np.zeros(context.rows)
        reliable = self.reliable(planner)
        following = self.following(planner, context).cpu().numpy() & reliable
        rows = np.flatnonzero(active & ~following & reliable & _overrides(planner, context))
        for block in np.array_split(rows, -(-len(rows) // ROWS)) if len(rows) else ():
            part = context if len(block) == context.rows else context.select(block)
            found = search(method, planner, part, decision.hidden[torch.as_tensor(block)], generator)
            self.store(torch.as_tensor(block, device=decision.hidden.device), found, planner.follow, context.rows)
        following[rows] = True
        action = self._follow(decision, following)
        if planner.trust:
            self.predict(method, context, action)
        return action

    def following(self, planner: Planner, context: Context) -> Tensor:
        """(B,) bool: the rows whose last step came out as this planner imagined, with steps left to follow."""
        if self.planner != planner:
            self.planner, self.path = planner, None
        if self.path is None:
            return torch.zeros(context.rows, dtype=torch.bool)
        device, here = self.path.reward.device, (np.arange(context.rows), context.length)
        last = torch.arange(context.rows, device=device), (self.place - 1).clamp_min(0)
        obs, reward, first = (
            torch.as_tensor(column[here], device=device)
            for column in (_signed(context.steps.obs), context.steps.prev_reward, context.steps.first)
        )
        same_obs = (self.path.next_obs[last] == obs).reshape(context.rows, -1).all(1)
        same_reward = (self.path.reward[last] - reward).abs() < SAME_REWARD
        return same_obs & same_reward & ~first & (self.place > 0) & (self.place < self.length)

    def score(self, next_obs: np.ndarray, active: np.ndarray) -> None:
        """Compare the predictions with what has happened, (B, ...), in the rows `active`."""
        if self.predicted is None:
            return
        same = np.isclose(self.predicted.cpu().numpy(), next_obs, *(SAME_OBS if next_obs.dtype.kind == "f" else (0, 0)))
        right = same.reshape(len(active), -1).all(1)
        self.right = np.where(active, MEMORY * self.right + right, self.right)
        self.total = np.where(active, MEMORY * self.total + 1, self.total)
        self.predicted = None

    def forget(self, rows: np.ndarray) -> None:
        """New tasks begin in the rows `rows`: their imagination has to prove reliable again."""
        if len(self.total):
            self.right, self.total = self.right.copy(), self.total.copy()
            self.right[rows] = self.total[rows] = 0.0
        if len(self.length):
            self.length = self.length.index_fill(0, torch.as_tensor(rows, device=self.length.device), 0)

    def reliable(self, planner: Planner) -> np.ndarray:
        """(B,) bool: the rows whose imagination has been right often enough; one failure is assumed beforehand."""
        return self.right >= planner.trust * (self.total + 1)

    def predict(self, method: Method, context: Context, action: Tensor) -> None:
        """Note the next_obs that the actions (B, ...) are predicted to lead to."""
        fork = Fork.of(method.branch(context)[0])
        hidden = fork.feed(method.body, method.action.embed(action[:, None, None]))  # (B, 1, 1, D)
        self.predicted = method.obs.head(hidden).mode()[:, 0, 0]

    def store(self, index: Tensor, found: SearchResult, follow: int, rows: int) -> None:
        """Keep the plans (N, ...) of the rows `index` (N,) of `rows`, to be followed for up to `follow` steps."""
        if self.path is None or self.path.reward.shape != (rows, follow):
            self.path = Path(*(x.new_zeros(rows, follow, *x.shape[2:]) for x in found.path))
            self.length = self.place = torch.zeros(rows, dtype=torch.long, device=index.device)
        count = min(follow, found.path.reward.shape[1])
        self.path = Path(*(ours.clone() for ours in self.path))
        for ours, theirs in zip(self.path, found.path, strict=True):
            ours[index, :count] = theirs[:, :count]
        length = torch.where(found.known, found.length, 0).clamp_max(follow)
        self.length = self.length.index_copy(0, index, length)
        self.place = self.place.index_fill(0, index, 0)

    def _follow(self, decision: Decision, following: np.ndarray) -> Tensor:
        """The next action of the plans in the rows `following` (B,), else the policy's; other plans are void."""
        if self.path is None:
            return decision.action.clone()
        action, device = decision.action.clone(), decision.action.device
        act = torch.as_tensor(following & decision.active, device=device) & (self.place < self.length)
        action[act] = self.path.action[act, self.place[act]]
        self.place = self.place + act
        void = torch.as_tensor(decision.active & ~following, device=device)
        self.length = self.length.masked_fill(void, 0)
        return action


def _signed(column: np.ndarray) -> np.ndarray:
    """Unsigned integers as int64, which PyTorch compares with all others."""
    return column.astype(np.int64) if column.dtype.kind == "u" else column


def _overrides(planner: Planner, context: Context) -> np.ndarray:
    """(B,) rows in which the planner may override the policy."""
    if planner.when == "full":
        return context.full
    seen = context.visible()
    return ((seen.reward != 0) & seen.mask).any(1) | (planner.when == "always")
