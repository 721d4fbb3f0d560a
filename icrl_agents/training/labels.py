"""Training batches in which the actions of only a few steps are known. Axis letters: B rows, T steps, N known steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from icrl_agents.core.reward_range import with_reward_range
from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.histories.parts import check_same_columns, stood_in
from icrl_agents.histories.shards import HistoryShards
from icrl_agents.methods.base.trainable import LABELLED
from icrl_agents.training.windows import Spaces, Windows, WindowSpec, checked, codecs_of, concatenate, index_tasks

DRAWING, BATCHES = 1, 2  # separate the random streams of the known steps and of their batches


class LabelledSteps:
    """Rows (B, T) of steps whose actions are known, drawn with replacement; each step is an episode of its own.

    Args:
        shards: recorded histories.
        tasks: task ids whose steps may be drawn.
        labels: N, number of known steps, drawn once by the seed.
        spec: seed of the known steps and of the batches; its sizes are not read.
        spaces: observation and action space of the training environment.

    Raises:
        ValueError: the histories have fewer steps, values outside the spaces, or tasks that differ in legal actions.
    """

    def __init__(
        self, shards: HistoryShards, tasks: Sequence[int] | np.ndarray, labels: int, spec: WindowSpec, spaces: Spaces
    ):
        codecs, parts = codecs_of(shards, spaces), index_tasks(shards, tasks)
        check_same_columns(parts)
        ends = np.cumsum([part.layout.lengths.sum() for part in parts])
        if labels > ends[-1]:
            raise ValueError(f"labels={labels} steps, {shards.name} has {ends[-1]}: lower it")
        drawn = np.sort(np.random.default_rng([spec.seed, DRAWING]).choice(ends[-1], labels, replace=False))
        owner, self.seed, rows = np.searchsorted(ends, drawn, side="right"), spec.seed, []
        for number in np.unique(owner):
            places = drawn[owner == number] - (ends[number - 1] if number else 0)
            rows.append(_steps_at(checked(shards, parts[number], codecs, spec), places))
        self.steps = concatenate(rows)  # (N, 1)
        if ACTION_MASK in self.steps.static:
            raise ValueError(f"labels={labels} mix the steps of tasks that differ in their legal actions: leave it out")

    def rows(self, update: int, count: int, window: int) -> Steps:
        """Steps (count, window) for an update."""
        rng = np.random.default_rng([self.seed, update, BATCHES])
        chosen = self.steps.rows(rng.integers(len(self.steps.mask), size=count * window))
        static = {name: value[::window] for name, value in chosen.static.items()}
        return chosen.map(lambda value: value.reshape(count, window, *value.shape[2:]))._replace(static=static)


def _steps_at(steps: Steps, places: np.ndarray) -> Steps:
    """The real steps number `places` (N,) of histories (B, T), row after row, as episodes of one step: (N, 1)."""
    row, column = (index[places] for index in steps.mask.nonzero())
    static = {name: value[row] for name, value in steps.static.items()}
    alone = steps.map(lambda value: value[row, column][:, None])
    begin = np.ones((len(row), 1), bool)
    return with_reward_range(alone._replace(first=begin, start=begin, static=static))


class LabelledWindows:
    """Batches of two kinds of rows: steps whose actions are known, and windows of steps whose actions are unknown.

    A column gives the weight of each step's action: 0 where it is unknown, and such that the mean over a batch is that
    over its known steps.

    Args:
        windows: windows of unknown steps; None if all rows are of known ones.
        known: the known steps.
        batch_size: B, of the whole batch.
        window: T, if there are no `windows`.
    """

    def __init__(self, windows: Windows | None, known: LabelledSteps, batch_size: int, window: int):
        self.windows, self.known, self.batch_size, self.window = windows, known, batch_size, window
        self.pool = windows.pool if windows else 0

    def batch(self, update: int) -> Steps:
        if self.windows is None:
            return self.known.rows(update, self.batch_size, self.window)
        unknown = self.windows.batch(update)
        count, window = self.batch_size - len(unknown.mask), unknown.mask.shape[1]
        known = self.known.rows(update, count, window)
        weight = (unknown.mask.sum() + known.mask.sum()) / known.mask.sum()
        # of histories in other files, which may have other columns
        known, unknown = stood_in(known, _dtypes(unknown)), stood_in(unknown, _dtypes(known))
        shared = unknown.extras.keys() & known.extras.keys()
        return concatenate([_weighted(unknown, 0.0, shared), _weighted(known, weight, shared)])

    def close(self) -> None:
        if self.windows:
            self.windows.close()


def reweighted(steps: Steps) -> Steps:
    """A batch with weights of its known steps such that the mean over it is that over them, also after a cut."""
    if LABELLED not in steps.extras:
        return steps
    weight = steps.extras[LABELLED] * steps.mask
    return steps._replace(extras={**steps.extras, LABELLED: weight * (steps.mask.sum() / max(weight.sum(), 1e-9))})


def _dtypes(steps: Steps) -> dict[str, np.dtype]:
    return {name: value.dtype for name, value in steps.extras.items()}


def _weighted(steps: Steps, weight: float, shared: Collection[str]) -> Steps:
    """The steps with a column of weights and the `shared` ones."""
    extras = {name: value for name, value in steps.extras.items() if name in shared}
    return steps._replace(extras={**extras, LABELLED: np.full(steps.mask.shape, weight, np.float32)})


def known_rows(share: float, batch_size: int) -> int:
    """Rows of a batch that hold known steps; ValueError if no row is left for the others."""
    rows = batch_size if share == 1 else max(1, round(share * batch_size))
    if share < 1 and rows >= batch_size:
        raise ValueError(f"batch_size={batch_size} has no room for steps with and without labels: give at least 2")
    return rows
