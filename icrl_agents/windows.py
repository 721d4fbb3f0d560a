"""What a training update sees: batches of windows of lifetimes, made fresh or drawn from a store.

A batch depends only on (seed, update), so a resumed run continues with exactly the batches it would have seen, and
every process of a distributed run can take its rows of the same global batch. Axis letters: B rows, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from icrl_agents.history import HistoryStore
from icrl_agents.sources.source import Source
from icrl_agents.steps import Steps


class Windows(Protocol):
    """Batches by the number of the update."""

    def batch(self, update: int) -> Steps:
        """The global batch (B, T) of update 0, 1, 2, ..."""


class FreshWindows:
    """Windows of lifetimes that are made on the fly and seen once: a small model cannot overfit them.

    Args:
        env_id, source, tasks: what makes the lifetimes; each one is on a task drawn uniformly from `tasks` (ids).
        episodes: length of a lifetime.
        window: T; a lifetime longer than it gives one window, half of the time its beginning, else from anywhere.
        batch_size: B.
        seed: of everything.
        chunk: lifetimes made at a time, which is much faster than batch by batch.
    """

    def __init__(
        self,
        env_id: str,
        source: Source,
        tasks: Sequence[int] | np.ndarray,
        episodes: int,
        window: int,
        batch_size: int,
        seed: int,
        chunk: int = 512,
    ):
        self.env_id, self.source, self.tasks = env_id, source, np.asarray(tasks)
        self.episodes, self.window, self.batch_size, self.seed = episodes, window, batch_size, seed
        self.batches_per_chunk = max(1, chunk // batch_size)
        self._chunk: tuple[int, Steps] | None = None

    def batch(self, update: int) -> Steps:
        number, place = divmod(update, self.batches_per_chunk)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = (number, self._make(number))
        start = place * self.batch_size
        return self._chunk[1].rows(slice(start, start + self.batch_size))

    def _make(self, number: int) -> Steps:
        from icrl_agents.collection import lifetimes

        rng = np.random.default_rng([self.seed, number])
        tasks = rng.choice(self.tasks, self.batches_per_chunk * self.batch_size)
        steps = lifetimes(self.env_id, self.source, tasks, self.episodes, int(rng.integers(2**31)))
        return cut_windows(steps, self.window, rng)


def cut_windows(steps: Steps, window: int, rng: np.random.Generator) -> Steps:
    """One window (B, window) of every lifetime: half of them beginnings, where acting begins as well."""
    rows, total = steps.reward.shape
    spare = max(total - window, 0)
    start = np.where(rng.random(rows) < 0.5, 0, rng.integers(0, spare + 1, rows))
    columns = start[:, None] + np.arange(min(window, total))
    return steps.map(lambda value: value[np.arange(rows)[:, None], columns])


class StoreWindows:
    """Windows of a `HistoryStore`, every history equally likely; all histories are held in memory.

    Args:
        store: the histories.
        tasks: the ids to train on; the store's other tasks are left alone.
        window, batch_size, seed: as in `FreshWindows`.

    Raises:
        ValueError: the store has none of `tasks`, or no history is as long as the window.
    """

    def __init__(self, store: HistoryStore, tasks: Sequence[int] | np.ndarray, window: int, batch_size: int, seed: int):
        wanted = {int(task) for task in tasks}
        found = [task for task in store.tasks if task in wanted]
        if not found:
            raise ValueError(f"{store.path} has none of the {len(tasks)} training tasks: collect the train split")
        self.histories = [store[task, :] for task in found]
        longest = max(history.mask.shape[1] for history in self.histories)
        if longest < window:
            raise ValueError(
                f"window={window}, but the longest history of {store.path} has {longest} steps: set window"
            )
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self.lengths = [history.mask.sum(1) for history in self.histories]  # (streams,) each

    def batch(self, update: int) -> Steps:
        rng = np.random.default_rng([self.seed, update])
        return concatenate([self._draw(rng) for _ in range(self.batch_size)])

    def _draw(self, rng: np.random.Generator) -> Steps:
        number = int(rng.integers(len(self.histories)))
        history, lengths = self.histories[number], self.lengths[number]
        stream = int(rng.integers(len(lengths)))
        start = int(rng.integers(max(lengths[stream] - self.window, 0) + 1))
        return history.rows(slice(stream, stream + 1)).window(start, start + self.window)


def concatenate(parts: list[Steps]) -> Steps:
    """Rows of `parts`, which have the same T and the same extras, one after the other."""
    fields: list[Any] = [np.concatenate(column) for column in zip(*(part[:-1] for part in parts), strict=True)]
    extras = {name: np.concatenate([part.extras[name] for part in parts]) for name in parts[0].extras}
    return Steps._make([*fields, extras])
