"""Context: what a running agent knows of its tasks, one row for each environment.

A context holds the visible window of every row as NumPy arrays and a memory of what was computed from them, such as a
transformer's cache. All mutable acting state is here, none on the module, so that planners can fork it. Axis letters:
B rows, N the window's capacity in steps, S tokens of one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import gymnasium
import numpy as np

from icrl_agents.core.steps import Steps

UNKNOWN = 1 << 30  # sentinel: larger than any number of steps


class Memory(Protocol):
    """What an agent computed from a context's steps, such as a transformer's cache; one entry a row."""

    def select(self, index: np.ndarray) -> Self:
        """A copy of the rows `index` (repeats allowed); changing it never changes this one."""

    def draft(self) -> Self:
        """A copy that shares what is cached: it may append to that, which this one does not see, and replace it."""

    def wipe(self) -> None:
        """Zero what was appended by drafts that came to nothing: masks hide it, but not NaN."""

    def drop(self, index: np.ndarray) -> None:
        """The oldest steps of the rows `index` have left, and the others stand elsewhere: forget where they stood.

        What is cached of them is void from now on in this one and in those that share it: it is written over.
        """

    def forget(self, index: np.ndarray) -> None:
        """Forget the rows `index`: a new task begins there."""


@dataclass
class Context:
    """Rows at different lengths; only `forget` and `drop` make a row shorter.

    The step that is being decided is `open`: its obs, prev_action, prev_reward and first are known and stand at
    column `length`; `close` adds its outcome.

    A call that fails half-way must change nothing. So calls work on a `draft`, which shares the arrays: it writes in
    place only where this one does not read (what comes of the open step, and beyond it) or would be written the same
    way again, and replaces all else.
    """

    steps: Steps  # arrays (B, N, ...)
    length: np.ndarray  # (B,) closed steps visible in each row
    full: np.ndarray  # (B,) bool: the window of the row has been full
    memory: Any = None  # the Memory of the visible steps' cache; None where there is no cache

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
        """A context of `rows` rows of at most `window` steps, of which no step is known yet.

        Args:
            extra_columns: names of further columns (B, N) float32, and their default value.
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
        """Begin the next step of every row at `obs` (B, ...)."""
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
        """Complete the open step of the rows `live` (B,) and lay out what is known of the next one.

        Raises:
            ValueError: a row is full; `drop` makes room.
        """
        if (active & (self.length >= self.window)).any():
            raise ValueError(f"a row of the context holds {self.window} steps already: drop the oldest ones first")
        here = self._here
        record = {
            "action": action,
            "reward": reward,
            "next_obs": next_obs,
            "terminated": terminated,
            "truncated": truncated,
        }
        for name, value in record.items():
            column = getattr(self.steps, name)
            column[here] = value
        self.length = self.length + active
        self.full = self.full | (self.length >= self.window)
        self._mark()
        self._follow(np.flatnonzero(active & (self.length < self.window)))

    def advance_unrecorded(self, action: np.ndarray, reward: np.ndarray, ended: np.ndarray, active: np.ndarray) -> None:
        """The open step of the rows `live` (B,) is over and not kept: lay out what is known of the one after it.

        That begins with what has just been, as in all that agents are trained on.
        """
        row, now = (index[active] for index in self._here)
        self.steps.prev_obs[row, now] = self.steps.obs[row, now]
        self.steps.prev_action[row, now] = action[active]
        self.steps.prev_reward[row, now] = reward[active]
        self.steps.first[row, now], self.steps.start[row, now] = ended[active], False

    def load(self, steps: Steps, aligned: bool = False) -> None:
        """Begin with the last steps (B, T), left-packed, that fit; if `aligned`, with an episode's first one."""
        count = steps.mask.sum(1)  # (B,)
        start = count - np.minimum(count, self.window - 1)
        if aligned:
            later = steps.first & steps.mask & (np.arange(steps.mask.shape[1]) >= start[:, None])
            start = np.where((start > 0) & later.any(1), later.argmax(1) if later.size else 0, start)
        self.length = count - start
        self.full = count >= self.window
        if not self.length.any():
            return
        columns = np.minimum(start[:, None] + np.arange(self.window - 1), steps.mask.shape[1] - 1)
        mine, theirs = ({**of.columns, **of.extras} for of in (self.steps, steps))
        for name in mine.keys() & theirs.keys():
            index = columns.reshape(*columns.shape, *[1] * (theirs[name].ndim - 2))
            mine[name][:, :-1] = np.take_along_axis(theirs[name], index, 1)
        self._mark()
        self._follow(np.flatnonzero(self.length))
        self._start(np.flatnonzero(self.length == 0))

    def drop(self, index: np.ndarray, count: int | np.ndarray) -> None:
        """Forget the `count` (or one a row) oldest steps of the rows `index`; what stays must be fed once more."""
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
        """Forget everything in the rows `index`, but not what was given: a new task starts there."""
        self.length, self.full = self.length.copy(), self.full.copy()
        self.length[index], self.full[index] = 0, False
        self._mark()
        names = ("prev_obs", "prev_action", "prev_reward", "first", "start")
        self.steps = self.steps._replace(**{name: getattr(self.steps, name).copy() for name in names})
        self._start(index)
        if self.memory is not None:
            self.memory.forget(index)

    def read(self, start: np.ndarray, count: int, index: np.ndarray | None = None) -> Steps:
        """`count` columns of the rows `index` (all), from column `start` (B,) on; columns past the end repeat it."""
        first = int(start[0])
        if index is None and first + count <= self.window and (start == first).all():
            return self.steps.window(first, first + count)  # views: the usual case, rows in step
        index = np.arange(self.rows) if index is None else index
        columns = np.minimum(start[:, None] + np.arange(count), self.window - 1)
        static = {name: value[index] for name, value in self.steps.static.items()}
        return self.steps.map(lambda value: value[index[:, None], columns])._replace(static=static)

    def visible(self) -> Steps:
        """The closed steps (B, max length) in the window; `mask` marks the real ones.

        All that a context knows, unless the agent remembers what has left the window (`cad`).
        """
        return self.steps.window(0, int(self.length.max(initial=0)))

    def steps_left(self) -> np.ndarray:
        """The steps (B,) left to the open step's episode, that one included, if it is as long as the longest one seen.

        `UNKNOWN` where no episode was seen from beginning to end, or where this one is longer already.
        """
        most = int(self.length.max()) + 1
        column, rows = np.arange(most), np.arange(self.rows)
        first = self.steps.first[:, :most] & (column <= self.length[:, None])
        latest = np.maximum.accumulate(np.where(first, column, -1), 1)  # (B, T) where each step's episode begins
        before = np.concatenate([np.full((self.rows, 1), -1), latest[:, :-1]], 1)
        longest = np.where(first & (before >= 0), column - before, 0).max(1)
        begin = latest[rows, self.length]
        left = longest - (self.length - begin)
        return np.where((begin >= 0) & (left > 0), left, UNKNOWN)

    def select(self, index: np.ndarray) -> Context:
        """A copy of the rows `index` (repeats allowed); changing it never changes this one."""
        memory = None if self.memory is None else self.memory.select(index)
        return Context(self.steps.rows(index), self.length[index], self.full[index], memory)

    def repeat(self, count: int) -> Context:
        """`count` copies of every row, the copies of one row next to each other."""
        return self.select(np.repeat(np.arange(self.rows), count))

    def draft(self) -> Context:
        """A copy to work on, which takes this one's place once all has gone well."""
        return Context(self.steps, self.length, self.full, None if self.memory is None else self.memory.draft())

    @contextmanager
    def attempt(self) -> Iterator[Context]:
        """Work on a draft; if that fails nothing of it remains."""
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
        """The mask follows from the lengths."""
        self.steps = self.steps._replace(mask=np.arange(self.window) < self.length[:, None])

    def _start(self, index: np.ndarray) -> None:
        """Before a lifetime's first step the previous observation, action and reward are zero."""
        self.steps.prev_obs[index, 0] = 0
        self.steps.prev_action[index, 0] = 0
        self.steps.prev_reward[index, 0] = 0
        self.steps.first[index, 0] = self.steps.start[index, 0] = True

    def _follow(self, index: np.ndarray) -> None:
        """What the rows `index` know before their next step, from the step just closed."""
        steps, now = self.steps, self.length[index]
        last = (index, now - 1)
        steps.prev_obs[index, now] = steps.obs[last]
        steps.prev_action[index, now] = steps.action[last]
        steps.prev_reward[index, now] = steps.reward[last]
        steps.first[index, now] = steps.terminated[last] | steps.truncated[last]
        steps.start[index, now] = False
