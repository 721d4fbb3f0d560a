"""The acting state of an agent between two calls of `reset`, and how a call changes it as a whole or not at all.

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

commit = deque[None](maxlen=0).extend  # one call of C: no signal is handled, and nothing else can fail, inside of it
PLANNING, DRAWING = 0x5EED, 0xD2A4  # set these generators apart from that of actions


class Batch(NamedTuple):
    """The rows of a session."""

    num_envs: int | None  # None: single observations in and out
    mode: AutoresetMode | str | None  # None: unknown, or the caller resets
    known: bool  # the env was seen, so that a single one without a mode does not reset itself

    @property
    def rows(self) -> int:
        return self.num_envs or 1


class Session:
    """The acting state between two calls of `reset`.

    A call works on a draft, and commits it as the last thing it does: one that fails changes nothing.

    Args:
        batch: the rows.
        seed: of sampled actions, plans and static values; None draws one.
        learn: whether what is observed is remembered.
        action_sets: the action masks of the rows, and the env that new tasks' masks are read from.
    """

    def __init__(self, method: Method, batch: Batch, seed: int | None, learn: bool, action_sets: ActionSets):
        self.num_envs, self.learn, self.device = batch.num_envs, learn, method.device
        self.boundary = Boundary(batch.rows, batch.mode, single=batch.num_envs is None, known=batch.known)
        self.plans = Plans()
        self.acted: np.ndarray | None = None  # (B, ...) actions that wait for their observe()
        self.env = action_sets.env  # None if the action sets are not read from an env
        self.lost_env = False  # they were, before the agent was pickled
        self.seed(seed)
        static = method.draw_static(batch.rows, action_sets.mask, self.drawing)
        spaces, memory = (method.observation_space, method.action_space), method.new_memory(batch.rows, static)
        self.context = Context.empty(
            batch.rows, method.config.window, *spaces, memory, extra_columns=method.extra_columns, static=static
        )

    def seed(self, seed: int | None) -> None:
        """Actions, plans and static values have generators of their own: one row's must not change another's."""
        self.generator, self.planning = torch.Generator(self.device), torch.Generator(self.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self.planning.manual_seed(self.generator.initial_seed() ^ PLANNING)
        self.drawing = np.random.default_rng([self.generator.initial_seed(), DRAWING])

    def draft(self) -> Session:
        """A copy to work on, which shares what is written to beyond what this one reads; see `Context`."""
        draft = object.__new__(Session)
        vars(draft).update(vars(self))
        draft.context, draft.boundary, draft.plans = self.context.draft(), self.boundary.draft(), self.plans.draft()
        return draft

    def changes(self, draft: Session) -> Iterator[None]:
        """What makes this one the draft; `commit` does it. Its parts stay the objects that others may hold."""
        parts = {name: getattr(self, name) for name in ("context", "boundary", "plans")}
        static: Any = self.context.steps.static
        ours = [vars(self), static, *(vars(part) for part in parts.values())]
        theirs = [{**vars(draft), **parts}, draft.context.steps.static]
        draft.context.steps = draft.context.steps._replace(static=static)
        return map(dict.update, ours, [*theirs, *(vars(getattr(draft, name)) for name in parts)])

    @contextmanager
    def attempt(self) -> Iterator[Session]:
        """Choose actions on a draft, with copies of the generators; if that fails nothing of it remains."""
        with self.context.attempt() as context:
            draft = self.draft()
            draft.context = context
            draft.generator, draft.planning = self.generator.clone_state(), self.planning.clone_state()
            yield draft

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """The env is not the agent's: a copy shares it."""
        duplicate = self.draft()
        duplicate.context = self.context.select(np.arange(self.context.rows))
        duplicate.generator, duplicate.planning = self.generator.clone_state(), self.planning.clone_state()
        duplicate.drawing = copy.deepcopy(self.drawing)
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        """A pickle leaves the env out, which may be pipes to processes or gigabytes of tables."""
        return {**vars(self), "env": None, "lost_env": self.lost_env or self.env is not None}
