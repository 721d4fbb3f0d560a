"""Bootstrap intervals of statistics over trainings, tasks and lifetimes.

All three levels are resampled with replacement, nested: trainings, then tasks (the same for every training, since all
trainings are measured on the same tasks), then lifetimes of each drawn task. Tasks are resampled even if a curve has
all tasks of a family: the interval is about the mean over other samples of such tasks. A level with a single training,
task or lifetime adds no variance, so the interval ignores the variation between trainings, tasks or lifetimes.

Intervals are of 95% by percentiles. With few tasks those are too narrow: they hold the true mean of simulated samples
(`tests/evaluation/test_intervals.py`) in 87% of the cases with 8 tasks, in 93% with 30 and in 94% with 81.

Axis letters: R runs (trainings x lifetimes, grouped by training), N tasks, E points of a curve, K resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000  # bootstrap resamples per interval
QUANTILES = (2.5, 97.5)  # percentiles of a 95% interval
MAX_DRAWN = 1 << 22  # maximum number of indices in memory at a time
MIDDLE = 0.25  # trimmed share on each side of an interquartile mean


class Interval(NamedTuple):
    """An estimate and its bootstrap 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def share_of_optimum(value: Any, random: Any, optimal: Any) -> np.ndarray:
    """Returns divided by the optimum, element by element; NaN where it is NaN.

    Where the optimum is 0 or less, such as a sum of costs, a quotient says nothing: there 0 is random play, 1 the
    optimum.
    """
    base = np.where(np.asarray(optimal) > 0, 0.0, random)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.asarray(value) - base) / (optimal - base)


class Sample(NamedTuple):
    """Sizes of the resampled levels: `lives` lifetimes of each of `trainings` on each of `tasks`."""

    trainings: int
    tasks: int
    lives: int = 1

    def __str__(self) -> str:
        """Text such as "8 tasks x 20 lives", without the levels of size 1."""
        parts = [f"{count} {name}" for name, count in self._asdict().items() if count > 1]
        return " x ".join(parts) or "nothing"

    @property
    def size(self) -> int:
        return self.trainings * self.tasks * self.lives

    def draws(self) -> Iterator[np.ndarray]:
        """Blocks of flat indices (K, R * N) into scores (R, N), `RESAMPLES` in total; the same ones at every call."""
        rng, most = np.random.default_rng(0), max(1, MAX_DRAWN // self.size)
        for start in range(0, RESAMPLES, most):
            count = min(most, RESAMPLES - start)
            # axes: (K, trainings, lives, tasks)
            training = rng.integers(self.trainings, size=(count, self.trainings, 1, 1))
            task = rng.integers(self.tasks, size=(count, 1, 1, self.tasks))
            life = rng.integers(self.lives, size=(count, self.trainings, self.lives, self.tasks))
            yield ((training * self.lives + life) * self.tasks + task).reshape(count, self.size)


def sample_of(scores: np.ndarray, trainings: int = 1) -> Sample:
    """`Sample` of scores (R, N, ...) from `trainings` agents."""
    return Sample(trainings, scores.shape[1], len(scores) // trainings)


def bootstrap(statistic: Callable[..., Any], *scores: np.ndarray, trainings: int = 1) -> Interval:
    """A statistic of scores with its 95% interval.

    Args:
        statistic: function of arrays (K, R * N), one for each of `scores`, to (K,), such as `mean`.
        scores: arrays (R, N); the resampling is paired, with the same runs and tasks for all of them.
        trainings: number of agents in the R runs, with the same number of runs each.
    """
    flat = [np.asarray(one, float).reshape(1, -1) for one in scores]
    drawn = [statistic(*(one[0][places] for one in flat)) for places in sample_of(scores[0], trainings).draws()]
    low, high = np.percentile(np.concatenate(drawn), QUANTILES)
    return Interval(float(statistic(*flat)[0]), float(low), float(high))


def bootstrap_band(runs: np.ndarray, trainings: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of the mean of runs (R, N, E) at every point: (low, high), (E,) each."""
    sample = sample_of(runs, trainings)
    points = runs.reshape(sample.size, -1)  # (R * N, E)
    # counts turn the resampling of all E points into one matrix product
    means = np.concatenate([_counts(places) @ points / sample.size for places in sample.draws()])  # (RESAMPLES, E)
    low, high = np.percentile(means, QUANTILES, axis=0)
    return low, high


class Scores:
    """Numbers of the episodes of lifetimes: their means by episode, with intervals."""

    runs: np.ndarray  # (R, N, E)
    trainings: int

    @property
    def mean(self) -> np.ndarray:
        """(E,) mean over tasks and runs."""
        return self.runs.mean((0, 1))

    @property
    def sample(self) -> Sample:
        """Numbers of trainings, tasks and lifetimes that the intervals resample."""
        return sample_of(self.runs, self.trainings)

    def at(self, first: int, last: int | None = None) -> Interval:
        """Mean over tasks, runs and episodes `first`..`last` (from 1, inclusive; default `last` = `first`)."""
        return bootstrap(mean, self.within(first, last), trainings=self.trainings)

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Bootstrap 95% interval of `mean` at every episode: (low, high), (E,) each."""
        return bootstrap_band(self.runs, self.trainings)

    def within(self, first: int, last: int | None = None) -> np.ndarray:
        """(R, N) means over those episodes; ValueError for episodes that there are not."""
        last = first if last is None else last
        if not 1 <= first <= last <= self.runs.shape[2]:
            raise ValueError(f"episodes {first}..{last} are not within 1..{self.runs.shape[2]}: evaluate more episodes")
        return self.runs[:, :, first - 1 : last].mean(2)


@dataclass(frozen=True)
class Rates(Scores):
    """Shares of lifetimes, such as those with a success, by episode."""

    runs: np.ndarray  # (R, N, E) 0 or 1
    trainings: int = 1


def mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(1)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Means (K,) of scores (K, R * N) without their lowest and highest quarter."""
    from scipy.stats import trim_mean

    return trim_mean(scores, MIDDLE, axis=1)


def ratio_of_means(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    return scores.mean(1) / others.mean(1)


def _counts(places: np.ndarray) -> np.ndarray:
    """Number of occurrences (K, size) of each index in `places` (K, size)."""
    count, size = places.shape
    cells = places + size * np.arange(count)[:, None]  # one bin range per resample
    return np.bincount(cells.ravel(), minlength=count * size).reshape(count, size)
