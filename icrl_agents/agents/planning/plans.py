"""Plans: the plans that rows of an acting agent follow, and the measured reliability of their predictions.

Axis letters: B rows, N searched rows, T planned steps, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from icrl_agents.agents.planning.imagination import search
from icrl_agents.agents.planning.search import Path, Planner, SearchResult
from icrl_agents.core.steps import HIGHEST, LOWEST
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method

ROWS = 32  # rows searched at once: the memory read by their branches should fit a CPU cache
SAME_REWARD = 1e-3  # absolute tolerance of rewards
SAME_OBS = 0.1, 0.1  # relative and absolute tolerance of real-valued obs; integers must be equal
MEMORY = 0.95  # decay per step of the weight of scored predictions


class Decision(NamedTuple):
    """Encoded open steps of a context, for the choice of actions."""

    context: Context  # its open steps are encoded
    hidden: Tensor  # (B, D) hidden vectors at the open steps
    action: Tensor  # (B, ...) actions of the policy
    active: np.ndarray  # (B,) bool: rows whose step is real


class Plans:
    """Current plan of each row, and decayed counts of correct predictions."""

    def __init__(self) -> None:
        self.predicted: Tensor | None = None  # (B, ...) predicted next_obs of the last action
        self.awaited = np.zeros(0, bool)  # (B,) rows in which it waits for the outcome
        self.right = self.total = np.zeros(0)  # (B,) decayed counts of correct and of all predictions
        self.planner: Planner | None = None  # the planner that made the plans
        self.path: Path | None = None  # (B, T, ...) planned steps
        self.length = self.place = torch.zeros(0, dtype=torch.long)  # (B,) steps to follow, and steps followed so far

    def draft(self) -> Plans:
        """Copy that can change without changing this one: tensors are replaced, never written in place."""
        copy = object.__new__(Plans)
        vars(copy).update(vars(self))
        return copy

    @torch.inference_mode()
    def choose(
        self, method: Method, planner: Planner, decision: Decision, generator: torch.Generator | None = None
    ) -> Tensor:
        """Actions (B, ...): of the planner where it overrides the policy, else of the policy."""
        context, active = decision.context, decision.active
        if len(self.total) != context.rows:
            self.right = self.total = np.zeros(context.rows)
        reliable = self.reliable(planner)
        following = self.following(planner, context).cpu().numpy() & reliable
        rows = np.flatnonzero(active & ~following & reliable & _overrides(method, planner, context))
        for block in np.array_split(rows, -(-len(rows) // ROWS)) if len(rows) else ():
            part = context if len(block) == context.rows else context.select(block)
            found = search(method, planner, part, decision.hidden[torch.as_tensor(block)], generator)
            self.store(torch.as_tensor(block, device=decision.hidden.device), found, planner.follow, context.rows)
        following[rows] = True
        action = self._follow(decision, following)
        if planner.trust:
            self.predict(method, decision.hidden, action)
        return action

    def following(self, planner: Planner, context: Context) -> Tensor:
        """(B,) bool: rows with steps left in their plan whose last step had the planned outcome."""
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
        extras, unit = context.steps.extras, torch.ones_like(reward)
        if LOWEST in extras:  # the unit of the reward codec
            spread = torch.as_tensor(extras[HIGHEST][here] - extras[LOWEST][here], device=device)
            unit = torch.where(spread > 0, spread, unit)
        same_reward = (self.path.reward[last] - reward).abs() < SAME_REWARD * unit
        return same_obs & same_reward & ~first & (self.place > 0) & (self.place < self.length)

    def score(self, next_obs: np.ndarray, active: np.ndarray) -> None:
        """Compare the predictions with the observed `next_obs` (B, ...) in the rows `active` (B,) bool."""
        if self.predicted is None:
            return
        active = active & self.awaited
        same = np.isclose(self.predicted.cpu().numpy(), next_obs, *(SAME_OBS if next_obs.dtype.kind == "f" else (0, 0)))
        right = same.reshape(len(active), -1).all(1)
        self.right = np.where(active, MEMORY * self.right + right, self.right)
        self.total = np.where(active, MEMORY * self.total + 1, self.total)
        self.awaited = self.awaited & ~active
        self.predicted = self.predicted if self.awaited.any() else None

    def drop(self) -> None:
        """Clear the plans and predictions of all rows, in which the policy acts."""
        self.path = self.predicted = None

    def forget(self, rows: np.ndarray) -> None:
        """Clear plans and counts of the rows `rows` for new tasks."""
        if len(self.total):
            self.right, self.total = self.right.copy(), self.total.copy()
            self.right[rows] = self.total[rows] = 0.0
        self.leave(rows)

    def leave(self, rows: np.ndarray) -> None:
        """Clear plans and predictions of the rows `rows`, which have acted otherwise."""
        if self.predicted is not None:
            self.awaited = self.awaited.copy()
            self.awaited[rows] = False
        if len(self.length):
            self.length = self.length.index_fill(0, torch.as_tensor(rows, device=self.length.device), 0)

    def reliable(self, planner: Planner) -> np.ndarray:
        """(B,) bool: rows with a share of correct predictions of at least `trust`; one initial failure is assumed."""
        return self.right >= planner.trust * (self.total + 1)

    def predict(self, method: Any, hidden: Tensor, action: Tensor) -> None:
        """Store the next_obs predicted for the actions (B, ...) at hidden vectors (B, D), for `score`."""
        self.predicted, self.awaited = method.outcomes(hidden, action)[1].mode(), np.ones(len(action), bool)

    def store(self, index: Tensor, found: SearchResult, follow: int, rows: int) -> None:
        """Store the plans of the rows `index` (N,) out of `rows`, to be followed for up to `follow` steps."""
        if self.path is None or self.path.reward.shape != (rows, follow):
            self.path = Path(*(x.new_zeros(rows, follow, *x.shape[2:]) for x in found.path))
            self.length = self.place = torch.zeros(rows, dtype=torch.long, device=index.device)
        count = min(follow, found.path.reward.shape[1])
        self.path = Path(*(ours.clone() for ours in self.path))
        for ours, theirs in zip(self.path, found.path, strict=True):
            ours[index, :count] = theirs[:, :count]
        length = torch.where(found.known, found.length, 0).clamp_max(follow)  # (N,) 0: the planner abstains
        self.length = self.length.index_copy(0, index, length)
        self.place = self.place.index_fill(0, index, 0)

    def _follow(self, decision: Decision, following: np.ndarray) -> Tensor:
        """Next planned action in the rows `following` (B,) bool, else the policy's action; drops all other plans."""
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
    """Unsigned integers as int64: PyTorch cannot compare all unsigned types."""
    return column.astype(np.int64) if column.dtype.kind == "u" else column


def _overrides(method: Method, planner: Planner, context: Context) -> np.ndarray:
    """(B,) bool: rows in which the planner may override the policy."""
    late = context.episode_steps() >= planner.after
    if planner.when == "full":
        return late & context.full
    seen = context.visible()
    return late & (method.reward.stands_out(seen.reward, seen.mask) | (planner.when == "always"))
