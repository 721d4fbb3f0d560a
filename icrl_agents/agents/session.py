"""Session: the acting state of an agent between two calls of `reset`, with atomic updates.

Axis letters: B rows (environments), n chosen rows.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from icrl_agents.agents.action_sets import ActionSets
from icrl_agents.agents.planning.plans import Plans
from icrl_agents.core.boundary import Boundary
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method

commit = deque[None](maxlen=0).extend  # consumes an iterator in one C call, which no signal can interrupt
PLANNING, DRAWING = 0x5EED, 0xD2A4  # seed constants that separate these generators from the one of actions


class Batch(NamedTuple):
    """Batch size and autoreset mode of a session."""

    num_envs: int | None  # None: unbatched observations and actions
    mode: AutoresetMode | str | None  # None: unknown, or the caller resets
    known: bool  # the env was inspected: a single env without a mode does not reset itself

    @property
    def rows(self) -> int:
        return self.num_envs or 1


class Late(NamedTuple):
    """Decision that waits for its outcome."""

    row: int
    obs: np.ndarray  # (...) observation at which it was made
    action: np.ndarray  # (...)
    first: bool  # it began an episode


class Session:
    """Acting state between two calls of `reset`.

    Every call works on a draft and commits it as its last action, so a failed call changes nothing.

    Args:
        method: the method that acts.
        batch: batch size and autoreset mode.
        seed: seed of sampled actions, plans and static values; None: random, plans the same every time.
        learn: whether observed steps are recorded.
        action_sets: action masks of the rows, and the env from which the masks of new tasks are read.
    """

    def __init__(self, method: Method, batch: Batch, seed: int | None, learn: bool, action_sets: ActionSets):
        self.num_envs, self.learn, self.device = batch.num_envs, learn, method.device
        self.boundary = Boundary(batch.rows, batch.mode, single=batch.num_envs is None, known=batch.known)
        self.plans = Plans()
        self.acted: np.ndarray | None = None  # (B, ...) actions between act() and observe()
        self.partly: np.ndarray | None = None  # (B,) bool: rows between act() and observe(); None: all, if any
        self.late: dict[int, Late] = {}  # decisions that wait for their outcome, by id
        self.decided = 0  # number of decisions so far, the next id
        self.lock = RLock()  # held during a call, to refuse those of other threads; drafts and later tasks share it
        self.env = action_sets.env  # source of the action masks, or None
        self.lost_env = False  # whether pickling has removed `env`
        self.seed(seed)
        static = method.draw_static(batch.rows, action_sets.mask, self.drawing)
        spaces, memory = (method.observation_space, method.action_space), method.new_memory(batch.rows, static)
        self.context = Context.empty(
            batch.rows, method.config.window, *spaces, memory, extra_columns=method.extra_columns, static=static
        )

    def seed(self, seed: int | None) -> None:
        """Seed three separate generators, so that planning and new tasks do not change the sampled actions.

        The one of planning also breaks the ties of deterministic acting, which is the same without a seed every time.
        """
        self.generator, self.planning = torch.Generator(self.device), torch.Generator(self.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self.planning.manual_seed(PLANNING if seed is None else self.generator.initial_seed() ^ PLANNING)
        self.drawing = np.random.default_rng([self.generator.initial_seed(), DRAWING])

    def draft(self) -> Session:
        """Working copy; it shares arrays that it writes only where this one does not read, see `Context`."""
        draft = object.__new__(Session)
        vars(draft).update(vars(self))
        draft.context, draft.boundary, draft.plans = self.context.draft(), self.boundary.draft(), self.plans.draft()
        return draft

    def changes(self, draft: Session) -> Iterator[None]:
        """Updates for `commit` that turn this session into the draft; context, boundary and plans keep identity."""
        parts = {name: getattr(self, name) for name in ("context", "boundary", "plans")}
        static: Any = self.context.steps.static
        ours = [vars(self), static, *(vars(part) for part in parts.values())]
        theirs = [{**vars(draft), **parts}, draft.context.steps.static]
        draft.context.steps = draft.context.steps._replace(static=static)
        return map(dict.update, ours, [*theirs, *(vars(getattr(draft, name)) for name in parts)])

    @property
    def waiting(self) -> np.ndarray:
        """(B,) bool: rows between act() and observe()."""
        all_or_none = np.full(self.context.rows, self.acted is not None)
        return all_or_none if self.partly is None else self.partly

    def size(self, rows: np.ndarray | None) -> int | None:
        """Number of values that a call brings for `rows`, None: all; None for unbatched values."""
        return self.num_envs if rows is None else len(rows)

    # ---- some of the rows ----------------------------------------------------------------------------------------

    def part(self, rows: np.ndarray) -> Session:
        """Draft of the rows `rows` (n,) alone, without plans; the generators are the same."""
        part = self.draft()
        part.num_envs, part.plans = len(rows), Plans()
        part.context, part.boundary = self.context.select(rows), self.boundary.select(rows)
        return part

    def put(self, rows: np.ndarray, part: Session) -> None:
        """Take over the rows `rows` from a `part` that has acted."""
        self.context.assign(rows, part.context)
        self.boundary.assign(rows, part.boundary)
        self.plans.leave(rows)

    def expect(self, action: np.ndarray, rows: np.ndarray | None) -> None:
        """Store the actions (n, ...) of `rows`, whose outcome `close` records."""
        if rows is None:
            self.acted = action
            return
        waiting = self.waiting.copy()
        held = _spread(action, rows, len(waiting)) if self.acted is None else self.acted.copy()
        held[rows], waiting[rows] = action, True
        self.acted, self.partly = held, None if waiting.all() else waiting

    def answered(self, rows: np.ndarray | None) -> None:
        """The outcome of `rows`, None: all, is recorded."""
        waiting = self.waiting.copy()
        waiting[slice(None) if rows is None else rows] = False
        self.acted, self.partly = (self.acted, waiting) if waiting.any() else (None, None)

    def close(self, rows: np.ndarray | None, result: Any, active: np.ndarray) -> None:
        """Record the outcome `result` (n, ...) of the open steps of `rows`, None: all, where `active` (n,) bool."""
        given = (result.obs, result.reward, result.terminated, result.truncated, active)
        next_obs, reward, terminated, truncated, active = (
            value if rows is None else _spread(value, rows, self.context.rows) for value in given
        )
        self.plans.score(next_obs, active)
        assert self.acted is not None
        if self.learn:
            self.context.close(self.acted, reward, next_obs, terminated, truncated, active)
        else:
            self.context.advance_unrecorded(self.acted, reward, terminated | truncated, active)

    def remember(self, action: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Store the actions (n, ...) of `rows` at their open steps as decisions; returns their ids (n,)."""
        steps, length = self.context.steps, self.context.length
        index = np.arange(self.context.rows) if rows is None else rows
        ids = self.decided + np.arange(len(index))
        made = {
            int(number): Late(int(row), steps.obs[row, length[row]].copy(), chosen, bool(steps.first[row, length[row]]))
            for number, row, chosen in zip(ids, index, action.copy(), strict=True)
        }
        self.late, self.decided = {**self.late, **made}, self.decided + len(ids)
        return ids

    @contextmanager
    def attempt(self) -> Iterator[Session]:
        """Yield a draft with copies of the generators, to choose actions; a failure leaves this session unchanged."""
        with self.context.attempt() as context:
            draft = self.draft()
            draft.context = context
            draft.generator, draft.planning = self.generator.clone_state(), self.planning.clone_state()
            yield draft

    @contextmanager
    def held(self) -> Iterator[None]:
        """Refuse (RuntimeError) the block while another thread is in one of this agent."""
        if not self.lock.acquire(blocking=False):
            raise RuntimeError("two threads called the same agent at once: give each its own agent.clone()")
        try:
            yield
        finally:
            self.lock.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """Copy with an independent context and generators; the env is shared. It waits for a call in another thread."""
        with self.lock:
            duplicate = self.draft()
            duplicate.context = self.context.select(np.arange(self.context.rows))
            duplicate.generator, duplicate.planning = self.generator.clone_state(), self.planning.clone_state()
            duplicate.drawing, duplicate.lock = copy.deepcopy(self.drawing), RLock()
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        """State without the env, which may hold pipes to processes or gigabytes of tables."""
        state = {**vars(copy.deepcopy(self)), "env": None, "lost_env": self.lost_env or self.env is not None}
        return {name: value for name, value in state.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=RLock())


def _spread(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """`values` (n, ...) at the rows `rows` of an array (count, ...) of zeros."""
    spread = np.zeros((count, *values.shape[1:]), values.dtype)
    spread[rows] = values
    return spread
