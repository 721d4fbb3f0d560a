"""Session: the acting state of an agent between two calls of `reset`, with atomic updates.

Axis letter: B rows (environments).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from icrl_agents.agents.action_sets import ActionSets
from icrl_agents.agents.planning.plans import Plans
from icrl_agents.core.steps import Boundary
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


class Session:
    """Acting state between two calls of `reset`.

    Every call works on a draft and commits it as its last action, so a failed call changes nothing.

    Args:
        method: the method that acts.
        batch: batch size and autoreset mode.
        seed: seed of sampled actions, plans and static values; None: random.
        learn: whether observed steps are recorded.
        action_sets: action masks of the rows, and the env from which the masks of new tasks are read.
    """

    def __init__(self, method: Method, batch: Batch, seed: int | None, learn: bool, action_sets: ActionSets):
        self.num_envs, self.learn, self.device = batch.num_envs, learn, method.device
        self.boundary = Boundary(batch.rows, batch.mode, single=batch.num_envs is None, known=batch.known)
        self.plans = Plans()
        self.acted: np.ndarray | None = None  # (B, ...) actions between act() and observe()
        self.env = action_sets.env  # source of the action masks, or None
        self.lost_env = False  # whether pickling has removed `env`
        self.seed(seed)
        static = method.draw_static(batch.rows, action_sets.mask, self.drawing)
        spaces, memory = (method.observation_space, method.action_space), method.new_memory(batch.rows, static)
        self.context = Context.empty(
            batch.rows, method.config.window, *spaces, memory, extra_columns=method.extra_columns, static=static
        )

    def seed(self, seed: int | None) -> None:
        """Seed three separate generators, so that planning and new tasks do not change the sampled actions."""
        self.generator, self.planning = torch.Generator(self.device), torch.Generator(self.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self.planning.manual_seed(self.generator.initial_seed() ^ PLANNING)
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

    @contextmanager
    def attempt(self) -> Iterator[Session]:
        """Yield a draft with copies of the generators, to choose actions; a failure leaves this session unchanged."""
        with self.context.attempt() as context:
            draft = self.draft()
            draft.context = context
            draft.generator, draft.planning = self.generator.clone_state(), self.planning.clone_state()
            yield draft

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """Copy with an independent context and generators; the env is shared."""
        duplicate = self.draft()
        duplicate.context = self.context.select(np.arange(self.context.rows))
        duplicate.generator, duplicate.planning = self.generator.clone_state(), self.planning.clone_state()
        duplicate.drawing = copy.deepcopy(self.drawing)
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        """State without the env, which may hold pipes to processes or gigabytes of tables."""
        return {**vars(self), "env": None, "lost_env": self.lost_env or self.env is not None}
