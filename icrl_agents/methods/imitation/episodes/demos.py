"""Demonstrations of an acting agent, and the cache that begins with them.

Axis letters: B rows, P capacity of a prompt in steps, L steps, N demonstrated steps of all rows, n selected rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from icrl_agents.core.arrays import under
from icrl_agents.core.steps import TIMESTEP, Steps
from icrl_agents.methods.base.transforms import return_to_go
from icrl_agents.methods.imitation.episodes.method import RETURN_TO_GO
from icrl_agents.methods.imitation.episodes.segments import SEGMENT, segments
from icrl_agents.nn.cache import Cache

DONE = "done"  # extra column (B, T, ...) of demonstrations: their actions, or latent actions


def numbered(steps: Steps, done: np.ndarray) -> Steps:
    """Demonstrations (B, T) with the columns `SEGMENT`, `RETURN_TO_GO` and `DONE`; `done` (B, T, ...) is the last."""
    segment = np.where(steps.mask, segments(steps.first & steps.mask, 1 << 30), 0)
    to_go, _ = return_to_go(steps.map(torch.as_tensor))
    return steps._replace(extras={**steps.extras, SEGMENT: segment, RETURN_TO_GO: to_go.numpy(), DONE: done})


def check_room(steps: Steps, demos: int, prompt: int) -> None:
    """Refuse (ValueError) `numbered` demonstrations of more than `demos` episodes or `prompt` steps in a row."""
    length = steps.mask.sum(1)
    number = np.where(length > 0, steps.extras[SEGMENT].max(1, initial=0) + 1, 0)
    if (number > demos).any():
        raise ValueError(
            f"demo has {number.max()} episodes in row {number.argmax()}, the agent takes at most demos={demos}: give "
            "fewer, such as those of demo.window(0, steps)"
        )
    if (length > prompt).any():
        raise ValueError(
            f"demo has {length.max()} steps in row {length.argmax()}, the agent takes at most prompt={prompt}: give "
            "fewer or shorter episodes"
        )


class Demos(NamedTuple):
    """Demonstrated steps of each row: the columns that their tokens are made of. Arrays are replaced, never changed."""

    length: np.ndarray  # (B,) number of steps
    obs: np.ndarray  # (B, P, ...) like the others
    before: np.ndarray  # what was done before: an action, or a latent action
    first: np.ndarray  # bool
    timestep: np.ndarray  # int32
    segment: np.ndarray  # int64, number of the demonstration
    to_go: np.ndarray  # float32, return to go

    @classmethod
    def none(cls, rows: int, capacity: int, obs_space: gymnasium.Space, done: np.ndarray) -> Demos:
        """No demonstrations in `rows` rows of up to `capacity` steps; `done` is an example of what was done before."""
        obs = np.zeros((rows, capacity, *(obs_space.shape or ())), obs_space.dtype)
        before = np.zeros((rows, capacity, *done.shape), done.dtype)
        empty = (np.zeros((rows, capacity), kind) for kind in (bool, np.int32, np.int64, np.float32))
        return cls(np.zeros(rows, np.int64), obs, before, *empty)

    @classmethod
    def of(cls, steps: Steps, begun: np.ndarray) -> Demos:
        """Demonstrations of `numbered` steps (B, T); `begun` (B, 1, ...) was done before the first one of each row."""
        before = np.concatenate([begun, steps.extras[DONE][:, :-1]], 1)
        told = (steps.extras[name] for name in (TIMESTEP, SEGMENT, RETURN_TO_GO))
        return cls(steps.mask.sum(1), steps.obs, before, steps.first, *told)

    @property
    def held(self) -> np.ndarray:
        """(B, P) bool: demonstrated steps."""
        return np.arange(self.obs.shape[1]) < self.length[:, None]

    @property
    def number(self) -> np.ndarray:
        """(B,) number of demonstrations."""
        return np.where(self.length > 0, self.segment.max(1, initial=0) + 1, 0)

    def rows(self, index: np.ndarray) -> Demos:
        return Demos(*(value[index] for value in self))

    def put(self, index: np.ndarray, part: Demos) -> Demos:
        """Copy with the rows `index` (n,) replaced by those of `part`, whose capacity P may differ."""
        replaced = Demos(*(value.copy() for value in self))
        replaced.length[index] = part.length
        for mine, theirs in zip(replaced[1:], part[1:], strict=True):
            count = min(mine.shape[1], theirs.shape[1])
            mine[index, :count] = theirs[:, :count]
        return replaced

    def steps(self, before: str, action: np.ndarray) -> Steps:
        """Steps (B, L) up to the longest demonstration; outcomes and rewards, which no token is made of, are empty.

        Args:
            before: name of the column of what was done before.
            action: any action, in place of those that are not told.
        """
        count = int(self.length.max(initial=0))
        obs, first = self.obs[:, :count], self.first[:, :count]
        action = np.broadcast_to(action, (*first.shape, *action.shape)).copy()
        none, zero = np.zeros(first.shape, bool), np.zeros(first.shape, np.float32)
        extras = {TIMESTEP: self.timestep, SEGMENT: self.segment, RETURN_TO_GO: self.to_go, before: self.before}
        return Steps(
            obs=obs,
            prev_obs=obs,
            prev_action=action,
            prev_reward=zero,
            first=first,
            start=none,
            action=action,
            reward=zero,
            next_obs=obs,
            terminated=none,
            truncated=none,
            mask=self.held[:, :count],
            extras={name: value[:, :count] for name, value in extras.items()},
        )


@dataclass
class PromptedCache:
    """`Memory` of a prompt and the current episode, one entry per row; the prompt stays until `forget`."""

    cache: Cache  # tokens of the demonstrations, then those of the current episode
    demos: Demos

    def select(self, index: np.ndarray) -> PromptedCache:
        return PromptedCache(self.cache.select(index), self.demos.rows(index))

    def draft(self) -> PromptedCache:
        return PromptedCache(self.cache.draft(), self.demos)

    def wipe(self) -> None:
        self.cache.wipe()

    def drop(self, index: np.ndarray) -> None:
        self.cache.drop(index, self.demos.length[index])

    def forget(self, index: np.ndarray) -> None:
        self.cache.forget(index)
        length = self.demos.length.copy()
        length[index] = 0
        self.demos = self.demos._replace(length=length)

    def assign(self, index: np.ndarray, part: PromptedCache) -> None:
        self.cache.assign(index, part.cache)  # acting has left the demonstrations as they were selected

    def arrays(self) -> dict[str, np.ndarray]:
        cached = {f"cache_{name}": value for name, value in self.cache.arrays().items()}
        length, *columns = self.demos
        told = {f"demo_{name}": value[self.demos.held] for name, value in zip(self._names(), columns, strict=True)}
        return {**cached, "demo_length": length, **told}

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        length, capacity = arrays["demo_length"], self.demos.obs.shape[1]
        if length.min() < 0 or length.max() > capacity:
            raise ValueError(f"demonstrations of {length.min()} to {length.max()} steps, expected 0..{capacity}")
        cached = under("cache_", arrays)
        if ((cached["lengths"] > 0) & (cached["lengths"] < length)).any():
            raise ValueError("a part of a prompt is cached, expected all of it or none")
        self.cache.fill(cached)
        self.demos = self.demos._replace(length=length.copy())
        held, columns = self.demos.held, self.demos._asdict()
        for name in self._names():
            packed = arrays[f"demo_{name}"]
            if len(packed) != held.sum():
                raise ValueError(f"{len(packed)} entries in demo_{name}, expected {held.sum()}")
            columns[name][held] = packed

    @staticmethod
    def _names() -> tuple[Any, ...]:
        """Columns of demonstrations, without the length."""
        return Demos._fields[1:]
