"""Sequences of episodes: their numbers, and the mixing of episodes of different tasks. Pure functions.

Axis letters: B rows, T steps, E episodes of a batch, n episodes of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.steps import Steps

NO_TASK = -1  # task of rows whose episodes are in no other sequence
SEGMENT = "segment"  # extra column (B, T): number of the episode of each step in its sequence


def segments(first: Any, size: int) -> Any:
    """Number (B, T) of the episode of each step in its sequence, of an array or tensor `first` (B, T) bool.

    Every `size` consecutive episodes of a row form a sequence; those left over form a shorter one.
    """
    return (first.cumsum(1) - 1 * first[:, :1]) % size  # a row may begin in the middle of an episode


class Episodes(NamedTuple):
    """Complete episodes of a batch."""

    row: np.ndarray  # (E,)
    begin: np.ndarray  # (E,) column of the first step
    length: np.ndarray  # (E,) number of steps

    @classmethod
    def of(cls, steps: Steps) -> Episodes:
        place, total = np.arange(steps.mask.shape[1]), steps.mask.shape[1]
        ended = steps.ended
        end = np.minimum.accumulate(np.where(ended, place, total)[:, ::-1], 1)[:, ::-1]  # (B, T) total: not in sight
        row, begin = (steps.first & steps.mask & (end < total)).nonzero()
        return cls(row, begin, end[row, begin] - begin + 1)


def mix_episodes(steps: Steps, task: np.ndarray, size: int, mixed: np.ndarray, rng: np.random.Generator) -> Steps:
    """NumPy steps (B, T) with the column `SEGMENT`, in which the rows `mixed` hold sequences of different tasks.

    Such a sequence is up to `size` - 1 complete episodes of randomly drawn other tasks, and then one of the row itself.
    No two episodes of a sequence share a task, so with few tasks it is shorter. Rows without a complete episode, which
    hold a part of a single one, stay.

    Args:
        task: task id (B,) of each row, or `NO_TASK`.
        size: maximum number of episodes in a sequence.
        mixed: (B,) bool.
    """
    episodes = Episodes.of(steps)
    ids = np.setdiff1d(task[episodes.row], [NO_TASK])
    known = {int(one): np.flatnonzero(task[episodes.row] == one) for one in ids}
    row, column = (np.array(index) for index in np.broadcast_arrays(*np.indices(steps.mask.shape, sparse=True)))
    segment, mask = segments(steps.first, size), steps.mask.copy()
    for one in np.flatnonzero(mixed & np.isin(np.arange(len(task)), episodes.row)):
        own = np.flatnonzero(episodes.row == one)
        others = [places for name, places in known.items() if name != task[one]]
        drawn, segment[one] = _draw_sequences(own, others, episodes.length, size, mask.shape[1], rng)
        row[one], column[one] = episodes.row[drawn[0]], episodes.begin[drawn[0]] + drawn[1]
        mask[one] = True
    found = steps.map(lambda value: value[row, column])
    return found._replace(mask=mask, extras={**found.extras, SEGMENT: segment})


def _draw_sequences(
    own: np.ndarray, others: list[np.ndarray], length: np.ndarray, size: int, total: int, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Sequences of episodes that fill `total` steps, the last one cut.

    Args:
        own: episodes (n,) of the row.
        others: episodes (n,) of each other task.
        length: steps (E,) of each episode.

    Returns:
        Episode (T,) of each step, and the step (T,) within it.
        Number (T,) of the episode in its sequence.
    """
    drawn: list[np.ndarray] = []
    numbers: list[int] = []
    while not drawn or length[drawn].sum() < total:
        donors = [others[place] for place in rng.permutation(len(others))[: size - 1]] + [own]
        drawn += [places[rng.integers(len(places))] for places in donors]
        numbers += range(len(donors))
    count = length[drawn]
    within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    return (np.repeat(drawn, count)[:total], within[:total]), np.repeat(numbers, count)[:total]
