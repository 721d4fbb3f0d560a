"""Context: what running agents know of their tasks, one row for each environment.

A context holds the visible window of every row as NumPy arrays and the transformer's cache of the tokens already
fed. All mutable acting state is here, none on the module, so that planners can fork it. Axis letters: B rows,
N the window's capacity in steps, S tokens of one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch

from icrl_agents.nn.transformer import Cache
from icrl_agents.steps import Steps


@dataclass
class Context:
    """Rows at different lengths; only `forget` and `drop` make a row shorter.

    The step that is being decided is `open`: its obs, prev_action, prev_reward and first are known and stand at
    column `length`; `close` adds what came of it.
    """

    steps: Steps  # arrays (B, N, ...)
    length: np.ndarray  # (B,) closed steps visible in each row
    cache: Cache | None  # of the tokens of the visible steps; None for methods whose tokens change

    @classmethod
    def empty(
        cls,
        rows: int,
        window: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        cache: Cache | None = None,
    ) -> Context:
        """Nothing known, in `rows` rows of at most `window` steps."""

        def column(shape: tuple[int, ...] = (), dtype: type | np.dtype = bool) -> np.ndarray:
            return np.zeros((rows, window, *shape), dtype)

        obs, action = (
            (tuple(space.shape or ()), space.dtype or np.dtype(np.int64)) for space in (observation_space, action_space)
        )
        steps = Steps(
            obs=column(*obs),
            prev_action=column(*action),
            prev_reward=column(dtype=np.float32),
            first=column(),
            action=column(*action),
            reward=column(dtype=np.float32),
            next_obs=column(*obs),
            terminated=column(),
            truncated=column(),
            mask=column(),
        )
        context = cls(steps, np.zeros(rows, np.int64), cache)
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
        live: np.ndarray,
    ) -> None:
        """Complete the open step of the rows `live` (B,) and lay out what is known of the next one.

        Raises:
            ValueError: a row is full; `drop` makes room.
        """
        if (live & (self.length >= self.window)).any():
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
        self.steps.mask[here] = live
        self.length = self.length + live
        self._follow(np.flatnonzero(live & (self.length < self.window)))

    def drop(self, index: np.ndarray, count: int) -> None:
        """Forget the `count` oldest steps of the rows `index`; what stays must be fed to the transformer anew."""
        for value in self.steps[:-1]:
            value[index, :-count] = value[index, count:].copy()
        self.length[index] -= count
        self.steps.mask[index] = np.arange(self.window) < self.length[index, None]
        self._follow(index)
        if self.cache is not None:
            self.cache.forget(torch.as_tensor(index, device=self.cache.lengths.device))

    def forget(self, index: np.ndarray) -> None:
        """Forget everything in the rows `index`: a new task starts there."""
        self.length[index] = 0
        self.steps.mask[index] = False
        self._start(index)
        if self.cache is not None:
            self.cache.forget(torch.as_tensor(index, device=self.cache.lengths.device))

    def read(self, start: np.ndarray, count: int, index: np.ndarray | None = None) -> Steps:
        """`count` columns of the rows `index` (all), from column `start` (B,) on; columns past the end repeat it."""
        first = int(start[0])
        if index is None and first + count <= self.window and (start == first).all():
            return self.steps.window(first, first + count)  # views: the usual case, rows in step
        index = np.arange(self.rows) if index is None else index
        columns = np.minimum(start[:, None] + np.arange(count), self.window - 1)
        return self.steps.map(lambda value: value[index[:, None], columns])

    def visible(self) -> Steps:
        """The closed steps (B, max length) that can still influence an action; `mask` marks the real ones."""
        return self.steps.window(0, int(self.length.max(initial=0)))

    def select(self, index: np.ndarray) -> Context:
        """A copy of the rows `index` (repeats allowed); changing it never changes this one."""
        cache = None
        if self.cache is not None:
            cache = self.cache.select(torch.as_tensor(index, device=self.cache.lengths.device))
        return Context(self.steps.rows(index), self.length[index], cache)

    def repeat(self, count: int) -> Context:
        """`count` copies of every row, the copies of one row next to each other."""
        return self.select(np.repeat(np.arange(self.rows), count))

    @property
    def _here(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.rows), np.minimum(self.length, self.window - 1)

    def _start(self, index: np.ndarray) -> None:
        """Before a lifetime's first step the previous action and reward are zero."""
        self.steps.prev_action[index, 0] = 0
        self.steps.prev_reward[index, 0] = 0
        self.steps.first[index, 0] = True

    def _follow(self, index: np.ndarray) -> None:
        """What the rows `index` know before their next step, from the step just closed."""
        steps, now = self.steps, self.length[index]
        last = (index, now - 1)
        steps.prev_action[index, now] = steps.action[last]
        steps.prev_reward[index, now] = steps.reward[last]
        steps.first[index, now] = steps.terminated[last] | steps.truncated[last]
