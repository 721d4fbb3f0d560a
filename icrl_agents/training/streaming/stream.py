"""StreamedWindows: batches from histories larger than memory. Axis letters: B rows, T steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.histories.parts import MASK, check_same_columns
from icrl_agents.histories.shards import HistoryShards
from icrl_agents.training.streaming.blocks import LEAST, MB, MOST, Block, Sizes, cut_blocks
from icrl_agents.training.streaming.order import Group, Order
from icrl_agents.training.windows import (
    WindowSpec,
    checked,
    codecs_of,
    concatenate,
    cut_padded,
    draw_starts,
    index_tasks,
)


class Loaded(NamedTuple):
    """The windows of a group, mixed."""

    group: Group
    windows: Steps


class StreamedWindows:
    """Windows of recorded histories that need not fit into memory.

    In a pass every history is read once and gives the same number of windows: as many as cover a history of mean
    length. Half of them start with the history, as in `StoreWindows`. Blocks of neighbouring histories are read in a
    random order; the windows of consecutive blocks that fill half of the pool are mixed, while a thread reads the
    blocks of the other half. Batches depend on the seed, the histories and the pool only.

    Values are checked when they are read, lengths and columns at the start.

    Args:
        shards: recorded histories.
        tasks: task ids to train on; other tasks are not read.
        spec: size, seed and alignment of the batches.
        spaces: observation and action space of the training environment; default those of the histories.
        pool: memory of the mixed windows in MB (2**20 bytes).

    Raises:
        ValueError: the histories have none of `tasks`, no step of them, or differ in columns; or the pool is too small.
    """

    def __init__(
        self,
        shards: HistoryShards,
        tasks: Sequence[int] | np.ndarray,
        spec: WindowSpec,
        spaces: tuple[gymnasium.Space, gymnasium.Space] | None,
        pool: int,
    ):
        self.shards, self.pool, self.codecs = shards, pool, codecs_of(shards, spaces)
        parts = index_tasks(shards, tasks)
        check_same_columns(parts)
        if not any(part.layout.lengths.any() for part in parts):
            raise ValueError(f"the histories of {shards.name} have no steps: collect them again")
        self.masks = next((part.layout.columns[MASK][1] for part in parts if MASK in part.layout.columns), None)
        sizes = Sizes.of(parts, spec.window)
        self.spec, self.visits = spec._replace(window=sizes.window), sizes.visits
        half = pool * MB // 2
        self.blocks = cut_blocks(parts, min(MOST, half // LEAST))
        counts = np.array([len(block.filled) for block in self.blocks]) * sizes.visits
        if (need := 2 * int(counts.max()) * sizes.bytes) > pool * MB:
            raise ValueError(f"pool={pool} MB is too small for these histories: give at least {need // MB + 1}")
        self.order = Order(counts, half // sizes.bytes, spec.seed)
        self._loaded: Loaded | None = None
        self._ahead = Ahead(self._load)

    def batch(self, update: int) -> Steps:
        """Global batch (B, T) of an update.

        Raises:
            ValueError: a file was damaged since the start, or holds values outside the spaces.
        """
        place, stop = update * self.spec.batch_size, (update + 1) * self.spec.batch_size
        pieces = []
        while place < stop:
            group, windows = self._at(place)
            rows = np.arange(place, min(stop, group.first + group.size)) - group.first
            pieces.append(windows.rows(rows))  # a copy: a view would keep the whole group in memory
            place += len(rows)
        return concatenate(pieces)

    def close(self) -> None:
        """Stop the reading thread, after the block that it reads, and close the files."""
        self._ahead.close()
        self.shards.close()

    def _at(self, place: int) -> Loaded:
        """The group of the window `place`; the next one is then read in the background."""
        found = self._loaded
        if found is None or not found.group.first <= place < found.group.first + found.group.size:
            group = self.order.group_at(place)
            found = self._loaded = None  # frees its memory for the group after the next one
            found = self._loaded = Loaded(group, self._ahead.take(group))
            self._ahead.begin(self.order.group(group.number + 1))
        return found

    def _load(self, group: Group, stop: threading.Event) -> Steps | None:
        places = np.split(self.order.mixed(group), np.cumsum(group.counts)[:-1])
        mixed: Steps | None = None
        for number, where in zip(group.blocks.tolist(), places, strict=True):
            if stop.is_set():
                return None
            windows = self._cut(self.blocks[number], self.order.generator(group.turn, number))
            mixed = empty_like(windows, group.size) if mixed is None else mixed
            put(mixed, where, windows)
        return mixed

    def _cut(self, block: Block, rng: np.random.Generator) -> Steps:
        """Windows of a block: `visits` of each history."""
        history = checked(self.shards, block.part, self.codecs, self.spec, block.rows)
        rows, lengths = np.repeat(block.filled, self.visits), np.repeat(block.lengths, self.visits)
        start = draw_starts(lengths, self.spec.window, rng, history.first[rows] if self.spec.episode_aligned else None)
        windows = cut_padded(history, rows, start, lengths, self.spec.window)
        if self.masks is None:
            return windows
        free = {ACTION_MASK: np.ones((len(rows), *self.masks), bool)}  # without a mask all actions are legal
        return windows._replace(static={**free, **windows.static})


class Ahead:
    """Loads one group ahead of time, in a thread.

    Args:
        load: called with a group and an event; it returns early once the event is set.
    """

    def __init__(self, load: Callable[[Group, threading.Event], Steps | None]):
        self.load = load
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, "histories")
        self._pending: tuple[int, Future[Steps | None]] | None = None

    def begin(self, group: Group) -> None:
        """Start to load a group."""
        self._pending = group.number, self._thread.submit(self.load, group, self._stop)

    def take(self, group: Group) -> Steps:
        """The group, which was begun or is loaded now; raises what loading raises."""
        pending, self._pending = self._pending, None
        if pending is not None and pending[0] != group.number:
            self._halt(pending[1])
            pending = None
        steps = pending[1].result() if pending else self.load(group, self._stop)
        assert steps is not None
        return steps

    def close(self) -> None:
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)

    def _halt(self, future: Future[Steps | None]) -> None:
        """End loading: two threads must not read the files at once."""
        self._stop.set()
        if not future.cancel():
            future.exception()
        self._stop = threading.Event()


def empty_like(windows: Steps, rows: int) -> Steps:
    """Uninitialised steps (rows, T) with the dtypes and shapes of `windows` (B, T)."""

    def room(value: Any) -> np.ndarray:
        return np.empty((rows, *value.shape[1:]), value.dtype)

    return windows.map(room)._replace(static={name: room(value) for name, value in windows.static.items()})


def put(into: Steps, rows: np.ndarray, windows: Steps) -> None:
    """Write windows (B, T) to the rows (B,) of a larger record."""

    def assign(targets: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            targets[name][rows] = value

    assign(into.columns, windows.columns)
    assign(into.extras, windows.extras)
    assign(into.static, windows.static)
