"""Training batches: windows of fresh lifetimes, or of histories in a store.

A batch depends on (seed, update) only, so a resumed run sees the batches of an uninterrupted one, and every process
of a distributed run can take its rows of the same global batch. Axis letters: B rows, T steps, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch

from icrl_agents.core.action_masks import check_given
from icrl_agents.core.families import find_family
from icrl_agents.core.printable import printable
from icrl_agents.core.reward_range import with_reward_range, with_timesteps
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import ACTION_MASK, Steps, check_steps
from icrl_agents.histories.columns import MAX_READ_BYTES
from icrl_agents.histories.parts import Part, check_same_columns
from icrl_agents.histories.shards import HistoryShards
from icrl_agents.histories.store import HistoryStore
from icrl_agents.methods.base.trainable import TASK
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.rewards import RewardCodec
from icrl_agents.sources.collection import check_together, lifetimes
from icrl_agents.sources.source import Source

CHUNK_BYTES = 1 << 29  # memory of the observations of a chunk of fresh lifetimes
Spaces = tuple[gymnasium.Space, gymnasium.Space]  # of observations and of actions
COPIES = 3  # of an observation in `Steps`: obs, prev_obs and next_obs


class Windows(Protocol):
    """Training batches, indexed by the update."""

    pool: int  # MB of histories that a stream holds; 0 without a stream

    def batch(self, update: int) -> Steps:
        """Global batch (B, T) of update 0, 1, 2, ..."""

    def close(self) -> None:
        """Stop reading; there are no more batches."""


class WindowSpec(NamedTuple):
    """Size, seed and alignment of a batch of windows."""

    window: int  # T; a longer lifetime gives one window, from its start with probability 1/2, else from anywhere
    batch_size: int  # B
    seed: int  # seed of lifetimes, tasks and window positions
    episode_aligned: bool = False  # whether windows start at the start of an episode
    with_tasks: bool = False  # whether batches have the static value `TASK` (B,), the task id of each row


class FreshWindows:
    """Windows of lifetimes that are generated on the fly and used once: a small model cannot overfit them.

    Args:
        env_id: environment id.
        source: learner that generates the lifetimes.
        tasks: task ids; each lifetime has a task drawn uniformly from them.
        episodes: episodes in a lifetime.
        spec: size, seed and alignment of the batches.
        chunk: number of lifetimes generated in parallel, much faster than batch by batch; fewer if their observations
            take more than `CHUNK_BYTES`.

    Raises:
        ValueError: the source learns one task at a time, and there are several.
    """

    pool = 0

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
        family = find_family(env_id)
        obs_bytes = math.prod(family.observation_space.shape or ()) * np.dtype(family.observation_space.dtype).itemsize
        most = CHUNK_BYTES // max(1, COPIES * obs_bytes * family.horizon * episodes)
        self.batches_per_chunk = max(1, min(chunk, most) // spec.batch_size)
        self._chunk: tuple[int, Steps] | None = None

    def batch(self, update: int) -> Steps:
        number, place = divmod(update, self.batches_per_chunk)  # chunk, batch within the chunk
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = (number, self._make(number))
        start = place * self.spec.batch_size
        return self._chunk[1].rows(slice(start, start + self.spec.batch_size))

    def close(self) -> None:
        """Nothing is open."""

    def _make(self, number: int) -> Steps:
        rng = np.random.default_rng([self.spec.seed, number])  # any chunk can be recomputed by its number
        tasks = rng.choice(self.tasks, self.batches_per_chunk * self.spec.batch_size)
        pool = self.tasks if len(np.unique(tasks)) < 2 else None  # a few lifetimes may have no other task to change to
        steps = lifetimes(self.env_id, self.source, tasks, self.episodes, int(rng.integers(2**31)), pool)
        steps = with_tasks(with_timesteps(with_reward_range(steps)), tasks if self.spec.with_tasks else None)
        return cut_windows(steps, self.spec.window, rng, self.spec.episode_aligned)


def draw_starts(
    lengths: np.ndarray, window: int, rng: np.random.Generator, first: np.ndarray | None = None
) -> np.ndarray:
    """Start (B,) of a window in each lifetime: 0 with probability 1/2, as in acting, else uniform up to the last one.

    Args:
        lengths: steps (B,) of the lifetimes. A window reaches beyond a lifetime that is shorter; an aligned one also
            beyond others, as the last one begins with the first episode that begins in their last `window` steps.
        first: (B, T) bool, first steps of episodes, with which aligned windows begin; None: windows begin anywhere.
    """
    last = np.maximum(lengths - window, 0)  # (B,)
    if first is not None:
        begins = first & (np.arange(first.shape[1]) < lengths[:, None])  # (B, T)
        places = np.where(begins, np.arange(first.shape[1]), 0)
        # the first episode that begins there or later, else the last one: the end of a lifetime is in some window
        later = np.where(begins & (places >= last[:, None]), places, first.shape[1]).min(1)
        last = np.where(later < first.shape[1], later, places.max(1))
    most = int(last[0]) if (last == last[0]).all() else last
    start = np.where(rng.random(len(lengths)) < 0.5, 0, rng.integers(0, most + 1, len(lengths)))
    return start if first is None else align(start, first)


def align(start: np.ndarray, first: np.ndarray) -> np.ndarray:
    """First step (B,) of the episode that contains step `start` (B,); `first` (B, T) marks first steps."""
    places = np.where(first, np.arange(first.shape[1]), 0)  # (B, T)
    return np.maximum.accumulate(places, 1)[np.arange(len(start)), start]  # last episode start up to each step


def cut_windows(steps: Steps, window: int, rng: np.random.Generator, aligned: bool = False) -> Steps:
    """One window (B, window) of every lifetime (B, T), half of them from its start; whole lifetimes if T <= window."""
    rows, total = steps.reward.shape
    lengths = steps.mask.sum(1)
    start = draw_starts(lengths, min(window, total), rng, steps.first if aligned else None)  # (B,)
    return cut_padded(steps, np.arange(rows), start, lengths, min(window, total))


class StoreWindows:
    """Windows of recorded histories, drawn uniformly; all histories are held in memory.

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

    pool = 0

    def __init__(
        self,
        store: HistoryStore | HistoryShards,
        tasks: Sequence[int] | np.ndarray,
        spec: WindowSpec,
        spaces: Spaces | None = None,
    ):
        shards = store if isinstance(store, HistoryShards) else HistoryShards(store)
        codecs, parts = codecs_of(shards, spaces), index_tasks(shards, tasks)
        _require_room(shards, parts)
        self.histories = [checked(shards, part, codecs, spec) for part in parts]
        check_same_columns(parts)
        self.lengths = [part.layout.lengths for part in parts]  # (streams,) each
        self.places = [(i, int(j)) for i, lengths in enumerate(self.lengths) for j in np.flatnonzero(lengths)]
        if not self.places:
            raise ValueError(f"the histories of {shards.name} have no steps: collect them again")
        self.spec = spec._replace(window=min(spec.window, max(int(lengths.max()) for lengths in self.lengths)))

    def batch(self, update: int) -> Steps:
        rng = np.random.default_rng([self.spec.seed, update])  # any batch can be recomputed by its number
        return concatenate([self._draw(rng) for _ in range(self.spec.batch_size)])

    def close(self) -> None:
        """Nothing is open."""

    def _draw(self, rng: np.random.Generator) -> Steps:
        number, stream = self.places[int(rng.integers(len(self.places)))]
        length = int(self.lengths[number][stream])
        first = self.histories[number].first[stream, None] if self.spec.episode_aligned else None
        start = draw_starts(np.array([length]), self.spec.window, rng, first)
        return cut_padded(self.histories[number], np.array([stream]), start, np.array([length]), self.spec.window)


def cut_padded(steps: Steps, rows: np.ndarray, start: np.ndarray, lengths: np.ndarray, window: int) -> Steps:
    """Windows (B, window) of the histories `rows` (B,) from step `start` (B,), padded from step `lengths` (B,) on.

    Padding repeats the last step, as zeros may lie outside the spaces; it is masked.
    """
    columns = start[:, None] + np.arange(window)  # (B, window)
    places = rows[:, None], np.minimum(columns, lengths[:, None] - 1)
    static = {name: value[rows] for name, value in steps.static.items()}
    return steps.map(lambda value: value[places])._replace(mask=columns < lengths[:, None], static=static)


def index_tasks(shards: HistoryShards, tasks: Sequence[int] | np.ndarray) -> list[Part]:
    """The histories of `tasks`, whose values are not read; ValueError without any."""
    parts = shards.index(int(task) for task in tasks)
    if not parts:
        raise ValueError(
            f"{shards.name} has none of the {len(tasks)} training tasks: collect the split or set of tasks that you "
            "train on"
        )
    return parts


def _require_room(shards: HistoryShards, parts: Sequence[Part]) -> None:
    if (nbytes := sum(part.layout.nbytes for part in parts)) > MAX_READ_BYTES:
        way = "stream them (--set pool=2000), or read fewer tasks"
        raise ValueError(f"{shards.name} takes {nbytes} bytes of memory, at most {MAX_READ_BYTES} are read: {way}")


def with_tasks(steps: Steps, tasks: np.ndarray | int | None) -> Steps:
    """NumPy steps (B, T) with the static value `TASK`: the ids `tasks`, (B,) or one for all rows; None: without."""
    if tasks is None:
        return steps
    ids = np.broadcast_to(np.asarray(tasks, np.int64), len(steps.mask)).copy()
    return steps._replace(static={**steps.static, TASK: ids})


def checked(
    shards: HistoryShards, part: Part, codecs: dict[str, Codec], spec: WindowSpec, rows: slice = slice(None)
) -> Steps:
    """Histories `rows` of a part; ValueError for values outside the spaces or illegal actions."""
    history, where = shards.read(part, rows), f"{part.store.path}, task {part.task}"
    check_steps(history, codecs, where)
    check_given(history, codecs["action"].options, where)
    return with_tasks(with_timesteps(with_reward_range(history)), part.task if spec.with_tasks else None)


def codecs_of(shards: HistoryShards, spaces: Spaces | None) -> dict[str, Codec]:
    """Codec that checks each field; ValueError if the histories have other spaces."""
    own = shards.spaces
    names = ("observation", "action")
    for name, has, wanted in zip(names, own, own if spaces is None else spaces, strict=True):
        if space_to_json(has) != space_to_json(wanted):
            raise ValueError(
                f"{shards.name} has the {name} space {printable(has)}, the environment {printable(wanted)}: "
                "collect histories of this one"
            )
    try:
        with torch.random.fork_rng(devices=[]):  # their unused weights must not shift the draws of an agent's weights
            obs, action = (make_codec(space, width=1, predicts=False) for space in own)
            return {"obs": obs, "next_obs": obs, "action": action, "reward": RewardCodec(width=1, predicts=False)}
    except ValueError as error:
        raise ValueError(f"{shards.name}: {error}") from None


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
