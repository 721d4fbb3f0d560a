"""Sequences of episodes: their numbers, mixing episodes of different tasks, and showing parts of them. Pure functions.

Axis letters: B rows, T steps, L steps after a rearrangement, E episodes of a batch, n episodes of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.steps import Steps

NO_TASK = -1  # task of rows whose episodes are in no other sequence
SEGMENT = "segment"  # extra column (B, T): number of the episode of each step in its sequence
LEARNED = "learned"  # extra column (B, T) bool of rearranged rows: steps whose actions are learned


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


class Part(NamedTuple):
    """Consecutive steps of one episode of a row."""

    begin: int  # column of the first step
    length: int  # number of steps
    shown: bool = False  # as a demonstration: it begins like an episode, and its actions are not learned


def _episodes(first: np.ndarray, count: int) -> list[Part]:
    """Episodes among the first `count` steps of a row with `first` (T,) bool; the outer ones may be incomplete."""
    begins = np.union1d(np.flatnonzero(first[:count]), np.arange(min(count, 1)))
    return [Part(*one) for one in zip(begins.tolist(), np.diff(begins, append=count).tolist(), strict=True)]


def _part(episode: Part, size: int, place: float) -> Part:
    """Up to `size` steps of an episode; a uniform `place` in [0, 1) makes all starts that leave so many as likely."""
    length = min(episode.length, size)
    return Part(episode.begin + int(place * (episode.length - length + 1)), length, shown=True)


def cut_parts(steps: Steps, size: int, place: np.ndarray) -> Steps:
    """NumPy steps (B, L): of each episode of the rows (B, T) up to `size` consecutive steps, which begin like episodes.

    Args:
        place: (B, n) in [0, 1), where in each episode its part begins.
    """
    counts = steps.mask.sum(1).tolist()
    rows = [
        [_part(episode, size, float(at)) for episode, at in zip(_episodes(first, count), places, strict=False)]
        for first, count, places in zip(steps.first, counts, place, strict=True)
    ]
    return _joined(steps, rows)[0]


def follow_parts(steps: Steps, size: int, known: np.ndarray, alone: np.ndarray, rng: np.random.Generator) -> Steps:
    """NumPy steps (B, L) in which each episode follows random parts of the earlier episodes of its sequence.

    [e0 e1 e2] becomes [e0], [p0 e1], [p0 p1 e2]; the two p0 are drawn independently. Steps have the columns
    `SEGMENT`, the numbers of their episodes, and `LEARNED`, true for the `known` (B, T) steps of whole episodes.

    Args:
        size: maximum number of steps in a part.
        alone: (B,) bool, rows that stay as they are.
    """
    rows = []
    for row, count in enumerate(steps.mask.sum(1).tolist()):
        episodes = [Part(0, count)] if alone[row] else _episodes(steps.first[row], count)
        parts: list[Part] = []
        for place, episode in enumerate(episodes):
            before = episodes[place - int(steps.extras[SEGMENT][row, episode.begin]) : place]
            parts += [*(_part(one, size, rng.random()) for one in before), episode]
        rows.append(parts)
    found, shown = _joined(steps._replace(extras={**steps.extras, LEARNED: known}), rows)
    return found._replace(extras={**found.extras, LEARNED: found.extras[LEARNED] & found.mask & ~shown})


def _joined(steps: Steps, rows: Sequence[Sequence[Part]]) -> tuple[Steps, np.ndarray]:
    """Steps (B, L) of the parts of each row, one after the other, and which of them are shown (B, L) bool."""
    total = max(sum(part.length for part in parts) for parts in rows)
    column = np.zeros((len(rows), total), np.int64)
    shown, begins, mask = (np.zeros(column.shape, bool) for _ in range(3))
    for row, parts in enumerate(rows):
        end = 0
        for part in parts:
            begin, end = end, end + part.length
            column[row, begin:end] = part.begin + np.arange(part.length)
            shown[row, begin:end], begins[row, begin : begin + 1] = part.shown, part.shown
        mask[row, :end] = True
        if end:
            column[row, end:] = column[row, end - 1]  # padding repeats the last step
    found = steps.map(lambda value: value[np.arange(len(rows))[:, None], column])
    return found._replace(first=found.first | begins, mask=mask), shown
