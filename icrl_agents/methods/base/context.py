"""Context: the visible steps of an acting agent and the memory computed from them, one row per environment.

All mutable acting state is here, none on the module, so that planners can fork it. Axis letters: B rows, N window
capacity in steps, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from icrl_agents.core.reward_range import AT_START, after_step
from icrl_agents.core.steps import EARNED, TIMESTEP, Steps
from icrl_agents.methods.base.memory import Memory

UNKNOWN = 1 << 30  # sentinel: larger than any number of steps


@dataclass
class Context:
    """Visible steps of B rows of different lengths; only `forget` and `drop` shorten a row.

    The current step of a row is its open step: obs, prev_action, prev_reward and first are known and stored at column
    `length`; `close` adds the outcome.

    A failed call must not change the context. Calls therefore work on a `draft`, which shares the arrays: it writes in
    place only where the original does not read (outcome of the open step, later columns) or would store the same
    values, and replaces everything else.
    """

    steps: Steps  # arrays (B, N, ...)
    length: np.ndarray  # (B,) number of closed steps visible in each row
    full: np.ndarray  # (B,) bool: the window of the row has been full at some time
    memory: Any = None  # Memory of the visible steps; None for methods without a cache

    @classmethod
    def empty(
        cls,
        rows: int,
        window: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        memory: Memory | None = None,
        extra_columns: Mapping[str, float] | None = None,
        static: Mapping[str, np.ndarray] | None = None,
    ) -> Context:
        """Context of `rows` empty rows with a capacity of `window` steps.

        Args:
            extra_columns: names of extra columns (B, N) float32 -> default value.
            static: values (B, ...) that are constant over a lifetime, such as action masks.
        """

        def column(shape: tuple[int, ...] = (), dtype: type | np.dtype = bool) -> np.ndarray:
            return np.zeros((rows, window, *shape), dtype)

        obs, action = (
            (tuple(space.shape or ()), space.dtype or np.dtype(np.int64)) for space in (observation_space, action_space)
        )
        steps = Steps(
            obs=column(*obs),
            prev_obs=column(*obs),
            prev_action=column(*action),
            prev_reward=column(dtype=np.float32),
            first=column(),
            start=column(),
            action=column(*action),
            reward=column(dtype=np.float32),
            next_obs=column(*obs),
            terminated=column(),
            truncated=column(),
            mask=column(),
            extras={name: np.full((rows, window), value, np.float32) for name, value in (extra_columns or {}).items()},
            static=dict(static or {}),
        )
        context = cls(steps, np.zeros(rows, np.int64), np.zeros(rows, bool), memory)
        context._start(np.arange(rows))
        return context

    @property
    def rows(self) -> int:
        return len(self.length)

    @property
    def window(self) -> int:
        return self.steps.mask.shape[1]

    def open(self, obs: np.ndarray) -> None:
        """Store `obs` (B, ...) as the observation of every row's open step."""
        self.steps.obs[self._here] = obs

    def close(
        self,
        action: np.ndarray,
        reward: np.ndarray,
        next_obs: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        active: np.ndarray,
    ) -> None:
        """Complete the open step of the rows `active` (B,) bool and prepare the next one.

        Raises:
            ValueError: a row is full; call `drop` first.
        """
        if (active & (self.length >= self.window)).any():
            raise ValueError(f"a row of the context holds {self.window} steps already: drop the oldest ones first")
        here = np.flatnonzero(active), self.length[active]  # rows and columns of the open steps
        record = {"action": action, "reward": reward, "next_obs": next_obs}
        record |= {"terminated": terminated, "truncated": truncated}
        for name, value in record.items():
            column = getattr(self.steps, name)
            column[here] = np.asarray(value)[active]
        self.length = self.length + active
        self.full = self.full | (self.length >= self.window)
        self._mark()
        self._follow(np.flatnonzero(active & (self.length < self.window)))

    def advance_unrecorded(self, action: np.ndarray, reward: np.ndarray, ended: np.ndarray, active: np.ndarray) -> None:
        """Replace the open step of the rows `active` (B,) bool by the next one without recording its outcome.

        The next step still holds the previous obs, action and reward, as in all training windows.
        """
        row, now = (index[active] for index in self._here)  # (number of active rows,)
        self._own()  # a repeated call must not find the reward of a failed one in it
        for name, value in self._tracked_after(row, now, reward[active], ended[active]).items():
            self.steps.extras[name][row, now] = value
        self.steps.prev_obs[row, now] = self.steps.obs[row, now]
        self.steps.prev_action[row, now] = action[active]
        self.steps.prev_reward[row, now] = reward[active]
        self.steps.first[row, now], self.steps.start[row, now] = ended[active], False

    def cut(self, index: np.ndarray, recorded: bool) -> None:
        """Truncate the episodes of the rows `index` (n,) after their latest closed step, `recorded` or not."""
        self._own("truncated", "first")
        if recorded:
            begun = index[self.length[index] > 0]
            last = begun, self.length[begun] - 1
            self.steps.truncated[last] |= ~self.steps.terminated[last]
        index = index[self.length[index] < self.window]  # `drop` prepares the next step of full rows
        self.steps.first[index, self.length[index]] = True
        for name in {TIMESTEP, EARNED} & self.steps.extras.keys():
            self.steps.extras[name][index, self.length[index]] = AT_START[name]

    def load(self, steps: Steps, aligned: bool = False) -> None:
        """Initialise an empty context with the latest of the left-packed steps (B, T) that fit.

        If `aligned`, the window begins with the first step of an episode where possible.
        """
        count = steps.mask.sum(1)  # (B,) recorded steps
        start = count - np.minimum(count, self.window - 1)  # (B,) first step that fits; one column is for the open step
        if aligned:
            later = steps.first & steps.mask & (np.arange(steps.mask.shape[1]) >= start[:, None])
            start = np.where((start > 0) & later.any(1), later.argmax(1) if later.size else 0, start)
        self.length = count - start
        self.full = count >= self.window
        if not self.length.any():
            return
        columns = np.minimum(start[:, None] + np.arange(self.window - 1), steps.mask.shape[1] - 1)  # (B, N - 1)
        mine, theirs = ({**of.columns, **of.extras} for of in (self.steps, steps))
        for name in mine.keys() & theirs.keys():  # columns (B, T, ...) -> (B, N - 1, ...)
            index = columns.reshape(*columns.shape, *[1] * (theirs[name].ndim - 2))
            mine[name][:, :-1] = np.take_along_axis(theirs[name], index, 1)
        self._mark()
        self._follow(np.flatnonzero(self.length))
        self._start(np.flatnonzero(self.length == 0))

    def drop(self, index: np.ndarray, count: int | np.ndarray) -> None:
        """Drop the `count` oldest steps (one number, or one per row) of the rows `index`; invalidates their memory."""
        columns = np.minimum(np.arange(self.window) + np.broadcast_to(count, len(index))[:, None], self.window - 1)

        def shifted(value: np.ndarray) -> np.ndarray:
            value = value.copy()
            value[index] = value[index[:, None], columns]
            return value

        self.steps = self.steps.map(shifted)
        self.length = self.length.copy()
        self.length[index] -= count
        self._mark()
        self._follow(index)
        if self.memory is not None:
            self.memory.drop(index)

    def forget(self, index: np.ndarray) -> None:
        """Clear the rows `index` for a new task; static values stay."""
        self.length, self.full = self.length.copy(), self.full.copy()
        self.length[index], self.full[index] = 0, False
        self.steps = self.steps.map(np.copy)  # the new task must not show in steps that `visible` gave of the old one
        self._mark()
        self._start(index)
        if self.memory is not None:
            self.memory.forget(index)

    def read(self, start: np.ndarray, count: int, index: np.ndarray | None = None) -> Steps:
        """`count` columns of the rows `index` (None: all), from column `start` (B,) on; the last column is repeated."""
        first = int(start[0])
        if index is None and first + count <= self.window and (start == first).all():
            return self.steps.window(first, first + count)  # views, in the usual case of equal starts
        index = np.arange(self.rows) if index is None else index
        columns = np.minimum(start[:, None] + np.arange(count), self.window - 1)
        static = {name: value[index] for name, value in self.steps.static.items()}
        return self.steps.map(lambda value: value[index[:, None], columns])._replace(static=static)

    def visible(self) -> Steps:
        """Closed steps (B, max length) of the window; `mask` marks the real ones.

        They are all that a context knows, except for methods with a memory beyond the window (`cad`).
        """
        return self.steps.window(0, int(self.length.max(initial=0)))

    def episode_steps(self) -> np.ndarray:
        """Number of closed steps (B,) of the current episode, without those that have left the window."""
        column = np.arange(int(self.length.max()) + 1)
        first = self.steps.first[:, : len(column)] & (column <= self.length[:, None])
        return self.length - np.where(first, column, 0).max(1)

    def steps_left(self) -> np.ndarray:
        """Estimated number of steps (B,) left in the current episode, the open step included.

        The estimate assumes the length of the longest complete episode in the window; `UNKNOWN` where there is none or
        the current episode is longer.
        """
        most = int(self.length.max()) + 1
        column, rows = np.arange(most), np.arange(self.rows)
        first = self.steps.first[:, :most] & (column <= self.length[:, None])
        latest = np.maximum.accumulate(np.where(first, column, -1), 1)  # (B, T) first step of the episode, -1: unknown
        before = np.concatenate([np.full((self.rows, 1), -1), latest[:, :-1]], 1)  # (B, T) same for the step before
        longest = np.where(first & (before >= 0), column - before, 0).max(1)  # (B,) length of a complete episode
        begin = latest[rows, self.length]  # (B,) first step of the current episode
        left = longest - (self.length - begin)  # (B,) the open step counts as left
        return np.where((begin >= 0) & (left > 0), left, UNKNOWN)

    def select(self, index: np.ndarray) -> Context:
        """Independent copy of the rows `index` (repeats allowed)."""
        memory = None if self.memory is None else self.memory.select(index)
        return Context(self.steps.rows(index), self.length[index], self.full[index], memory)

    def assign(self, index: np.ndarray, part: Context) -> None:
        """Overwrite the rows `index` with those of `part`, a `select` of them in which an open step was encoded."""
        slid = part.length < self.length[index]
        if slid.any():  # their columns have moved: a context that shares the arrays must not see that
            self.steps = self.steps.map(np.copy)
            if self.memory is not None:
                self.memory.drop(index[slid])
        mine, theirs = ({**of.columns, **of.extras} for of in (self.steps, part.steps))
        for name, value in theirs.items():
            mine[name][index] = value
        self.length, self.full = self.length.copy(), self.full.copy()
        self.length[index], self.full[index] = part.length, part.full
        self._mark()
        if self.memory is not None:
            self.memory.assign(index, part.memory)

    def repeat(self, count: int) -> Context:
        """`count` copies of every row; copies of the same row are adjacent."""
        return self.select(np.repeat(np.arange(self.rows), count))

    def draft(self) -> Context:
        """Working copy that shares the arrays; the caller adopts it once its operation has succeeded."""
        return Context(self.steps, self.length, self.full, None if self.memory is None else self.memory.draft())

    @contextmanager
    def attempt(self) -> Iterator[Context]:
        """Yield a draft; if the block fails, zero what the draft appended to the memory."""
        try:
            yield self.draft()
        except BaseException:
            if self.memory is not None:
                self.memory.wipe()
            raise

    @property
    def _here(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.rows), np.minimum(self.length, self.window - 1)

    def _mark(self) -> None:
        """Recompute `mask` from the lengths."""
        self.steps = self.steps._replace(mask=np.arange(self.window) < self.length[:, None])

    def _start(self, index: np.ndarray) -> None:
        """Prepare the first step of a lifetime in the rows `index`: zero previous observation, action and reward."""
        self.steps.prev_obs[index, 0] = 0
        self.steps.prev_action[index, 0] = 0
        self.steps.prev_reward[index, 0] = 0
        self.steps.first[index, 0] = self.steps.start[index, 0] = True
        for name in AT_START.keys() & self.steps.extras.keys():
            self.steps.extras[name][index, 0] = AT_START[name]

    def _follow(self, index: np.ndarray) -> None:
        """Fill the known columns of the next step in the rows `index` from the step just closed."""
        steps, now = self.steps, self.length[index]  # (n,) column of the open step
        last = (index, now - 1)
        steps.prev_obs[index, now] = steps.obs[last]
        steps.prev_action[index, now] = steps.action[last]
        steps.prev_reward[index, now] = steps.reward[last]
        steps.first[index, now] = steps.terminated[last] | steps.truncated[last]
        steps.start[index, now] = False
        for name, value in self._tracked_after(*last, steps.reward[last], steps.first[index, now]).items():
            steps.extras[name][index, now] = value

    def _tracked_after(self, row: Any, column: Any, reward: np.ndarray, ended: np.ndarray) -> dict[str, np.ndarray]:
        """Values (n,) after the given steps of the columns in `AT_START` that this context has."""
        names = AT_START.keys() & self.steps.extras.keys()
        return after_step({name: self.steps.extras[name][row, column] for name in names}, reward, ended)

    def _own(self, *names: str) -> None:
        """Replace the columns `names`, and those in `AT_START`, by copies, to be written to."""
        own = {name: getattr(self.steps, name).copy() for name in names}
        tracked = {name: self.steps.extras[name].copy() for name in AT_START.keys() & self.steps.extras.keys()}
        self.steps = self.steps._replace(**own, extras={**self.steps.extras, **tracked})
