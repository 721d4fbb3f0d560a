"""Training batches: windows of fresh lifetimes, or of histories in a store.

A batch depends on (seed, update) only, so a resumed run sees the batches of an uninterrupted one, and every process
of a distributed run can take its rows of the same global batch. Axis letters: B rows, T steps, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch

from icrl_agents.core.action_masks import check_given
from icrl_agents.core.printable import printable
from icrl_agents.core.reward_range import with_reward_range
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import ACTION_MASK, Steps, check_steps
from icrl_agents.histories.columns import GIVEN
from icrl_agents.histories.store import HistoryStore
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.rewards import RewardCodec
from icrl_agents.sources.collection import check_together, lifetimes
from icrl_agents.sources.source import Source


class Windows(Protocol):
    """Training batches, indexed by the update."""

    def batch(self, update: int) -> Steps:
        """Global batch (B, T) of update 0, 1, 2, ..."""


class WindowSpec(NamedTuple):
    """Size, seed and alignment of a batch of windows."""

    window: int  # T; a longer lifetime gives one window, from its start with probability 1/2, else from anywhere
    batch_size: int  # B
    seed: int  # seed of lifetimes, tasks and window positions
    episode_aligned: bool = False  # whether windows start at the start of an episode


class FreshWindows:
    """Windows of lifetimes that are generated on the fly and used once: a small model cannot overfit them.

    Args:
        env_id: environment id.
        source: learner that generates the lifetimes.
        tasks: task ids; each lifetime has a task drawn uniformly from them.
        episodes: episodes in a lifetime.
        spec: size, seed and alignment of the batches.
        chunk: number of lifetimes generated in parallel, much faster than batch by batch.

    Raises:
        ValueError: the source learns one task at a time, and there are several.
    """

    def __init__(
        self,
        env_id: str,
        source: Source,
        tasks: Sequence[int] | np.ndarray,
        episodes: int,
        spec: WindowSpec,
        chunk: int = 512,
    ):
        check_together(source, np.asarray(tasks))
        self.env_id, self.source, self.tasks = env_id, source, np.asarray(tasks)
        source.hypotheses = self.tasks
        self.episodes, self.spec = episodes, spec
        self.batches_per_chunk = max(1, chunk // spec.batch_size)
        self._chunk: tuple[int, Steps] | None = None

    def batch(self, update: int) -> Steps:
        number, place = divmod(update, self.batches_per_chunk)  # chunk, batch within the chunk
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = (number, self._make(number))
        start = place * self.spec.batch_size
        return self._chunk[1].rows(slice(start, start + self.spec.batch_size))

    def _make(self, number: int) -> Steps:
        rng = np.random.default_rng([self.spec.seed, number])  # any chunk can be recomputed by its number
        tasks = rng.choice(self.tasks, self.batches_per_chunk * self.spec.batch_size)
        steps = lifetimes(self.env_id, self.source, tasks, self.episodes, int(rng.integers(2**31)))
        return cut_windows(with_reward_range(steps), self.spec.window, rng, self.spec.episode_aligned)


def draw_starts(spare: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Start (B,) of a window in each lifetime: 0 with probability 1/2, as in acting, else uniform in 0..spare."""
    return np.where(rng.random(rows) < 0.5, 0, rng.integers(0, spare + 1, rows))


def align(start: np.ndarray, first: np.ndarray) -> np.ndarray:
    """First step (B,) of the episode that contains step `start` (B,); `first` (B, T) marks first steps."""
    places = np.where(first, np.arange(first.shape[1]), 0)  # (B, T)
    return np.maximum.accumulate(places, 1)[np.arange(len(start)), start]  # last episode start up to each step


def cut_windows(steps: Steps, window: int, rng: np.random.Generator, aligned: bool = False) -> Steps:
    """One window (B, window) of every lifetime (B, T), half of them from its start; whole lifetimes if T <= window."""
    rows, total = steps.reward.shape
    start = draw_starts(max(total - window, 0), rows, rng)  # (B,)
    start = align(start, steps.first) if aligned else start
    columns = start[:, None] + np.arange(min(window, total))  # (B, window)
    return steps.map(lambda value: value[np.arange(rows)[:, None], columns])  # (B, T, ...) -> (B, window, ...)


class StoreWindows:
    """Windows of histories drawn uniformly from a `HistoryStore`; all histories are held in memory.

    Half of the windows start with the history, as in `FreshWindows`. Windows are at most as long as the longest
    history; shorter histories are padded with their last step, masked.

    Args:
        store: recorded histories.
        tasks: task ids to train on; other tasks of the store are not read.
        spec: size, seed and alignment of the batches.
        spaces: observation and action space of the training environment; default those of the store.

    Raises:
        ValueError: the store has none of `tasks`, no step of them, or values outside the spaces.
    """

    def __init__(
        self,
        store: HistoryStore,
        tasks: Sequence[int] | np.ndarray,
        spec: WindowSpec,
        spaces: tuple[gymnasium.Space, gymnasium.Space] | None = None,
    ):
        wanted = {int(task) for task in tasks}
        found = [task for task in store.tasks if task in wanted]
        if not found:
            raise ValueError(
                f"{store.path} has none of the {len(tasks)} training tasks: collect the split or set of tasks that you "
                "train on"
            )
        codecs = _codecs(store, spaces)
        store.require_room(found)
        self.histories = [_checked(store, task, codecs) for task in found]
        _check_together(self.histories, found, store)
        self.lengths = [history.mask.sum(1) for history in self.histories]  # (streams,) each
        self.places = [(i, int(j)) for i, lengths in enumerate(self.lengths) for j in np.flatnonzero(lengths)]
        if not self.places:
            raise ValueError(f"the histories of {store.path} have no steps: collect them again")
        self.spec = spec._replace(window=min(spec.window, max(int(lengths.max()) for lengths in self.lengths)))

    def batch(self, update: int) -> Steps:
        rng = np.random.default_rng([self.spec.seed, update])  # any batch can be recomputed by its number
        return concatenate([self._draw(rng) for _ in range(self.spec.batch_size)])

    def _draw(self, rng: np.random.Generator) -> Steps:
        number, stream = self.places[int(rng.integers(len(self.places)))]
        length = int(self.lengths[number][stream])
        start = draw_starts(max(length - self.spec.window, 0), 1, rng)
        start = align(start, self.histories[number].first[stream, None]) if self.spec.episode_aligned else start
        columns = start[0] + np.arange(self.spec.window)
        # padding repeats the last step, as zeros may lie outside the spaces
        row = self.histories[number].rows(slice(stream, stream + 1))
        row = row.map(lambda value: value[:, np.minimum(columns, length - 1)])
        return row._replace(mask=(columns < length)[None])  # (1, T)


def _checked(store: HistoryStore, task: int, codecs: dict[str, Codec]) -> Steps:
    """Histories of a task; ValueError for values outside the spaces or illegal actions."""
    history, where = store[task, :], f"{store.path}, task {task}"
    check_steps(history, codecs, where)
    check_given(history, codecs["action"].options, where)
    return with_reward_range(history)


def _check_together(histories: list[Steps], tasks: list[int], store: HistoryStore) -> None:
    """ValueError for tasks whose histories differ in columns and so fit no common batch; action masks are optional."""
    wanted = _signature(histories[0])
    for task, history in zip(tasks, histories, strict=True):
        found = _signature(history)
        for name in sorted((wanted.keys() ^ found.keys()) - {MASK}):
            one = f"only one of the tasks {tasks[0]} and {task} has '{printable(name)}'"
            raise ValueError(f"{store.path}: {one}: {AGAIN}")
        for name in wanted.keys() & found.keys():
            if wanted[name] != found[name]:
                one, other = printable(wanted[name]), printable(found[name])
                raise ValueError(f"{store.path}: '{printable(name)}' is {one}, but {other} in task {task}: {AGAIN}")
        wanted = {**found, **wanted}  # the first tasks may have no action mask


MASK = f"{GIVEN}action_mask"  # optional: without it all actions are legal
AGAIN = "collect all tasks in the same way"


def _signature(steps: Steps) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Dtype and shape of one entry in each column."""
    columns = {name: (value.dtype, value.shape[2:]) for name, value in {**steps.columns, **steps.extras}.items()}
    return columns | {GIVEN + name: (value.dtype, value.shape[1:]) for name, value in steps.static.items()}


def _codecs(store: HistoryStore, spaces: tuple[gymnasium.Space, gymnasium.Space] | None) -> dict[str, Codec]:
    """Codec that checks each field; ValueError if the store has other spaces."""
    own = store.spaces
    names = ("observation", "action")
    for name, has, wanted in zip(names, own, own if spaces is None else spaces, strict=True):
        if space_to_json(has) != space_to_json(wanted):
            raise ValueError(
                f"{store.path} has the {name} space {printable(has)}, the environment {printable(wanted)}: "
                "collect histories of this one"
            )
    try:
        with torch.random.fork_rng(devices=[]):  # their unused weights must not shift the draws of an agent's weights
            obs, action = (make_codec(space, width=1, predicts=False) for space in own)
            return {"obs": obs, "next_obs": obs, "action": action, "reward": RewardCodec(width=1, predicts=False)}
    except ValueError as error:
        raise ValueError(f"{store.path}: {error}") from None


def concatenate(parts: list[Steps]) -> Steps:
    """Concatenate `parts` along the rows; all have the same T and the same extra columns."""

    def join(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}

    masks = [part.static[ACTION_MASK] for part in parts if ACTION_MASK in part.static]
    if masks:  # parts without a mask get one of all legal actions
        parts = [_with_mask(part, masks[0].shape[1]) for part in parts]
    extras, static = join([part.extras for part in parts]), join([part.static for part in parts])
    return Steps(**join([part.columns for part in parts]), extras=extras, static=static)


def _with_mask(steps: Steps, actions: int) -> Steps:
    return steps._replace(static={ACTION_MASK: np.ones((len(steps.mask), actions), bool), **steps.static})
