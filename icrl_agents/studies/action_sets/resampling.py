"""Means over training seeds and tasks, and their intervals; learners are resampled alike, so differences are paired.

A mean and its resamples are one array (1 + RESAMPLES, ...): the mean over everything first.
Axis letters: R training seeds, N tasks, T points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from icrl_agents.evaluation.intervals import QUANTILES, RESAMPLES, Interval

Band = tuple[list[float], list[float], list[float]]  # (T,) each: mean, low and high of the 95% interval


def resampled(scores: Sequence[np.ndarray], number: int = 1) -> np.ndarray:
    """Means (1 + RESAMPLES, ...) of scores (R, N, ...): of all, then of resampled training seeds and tasks.

    `number` seeds the resampling of the tasks of a set; that of training seeds is the same in all sets.
    """
    of_runs = _weights(len(scores), 0)  # (1 + RESAMPLES, R)
    of_tasks = _weights(len(scores[0]), number)  # (1 + RESAMPLES, N)
    return sum(((of_runs[:, [r]] * of_tasks) @ score for r, score in enumerate(scores)), np.zeros(()))


def _weights(count: int, seed: int) -> np.ndarray:
    """Weights (1 + RESAMPLES, count): equal ones, then those of samples with replacement; rows sum to 1."""
    even = np.full(count, 1 / count)
    return np.vstack([even, np.random.default_rng(seed).multinomial(count, even, RESAMPLES) / count])


def interval(means: np.ndarray) -> Any:
    """`Interval` of means (1 + RESAMPLES,) from `resampled`; None for non-finite values."""
    if not np.isfinite(means).all():
        return None
    return Interval(*map(float, (means[0], *np.percentile(means[1:], QUANTILES))))


def divide(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Ratios, NaN where the denominator is zero."""
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)


def band(means: np.ndarray) -> Band:
    """Intervals at every point of means (1 + RESAMPLES, T), rounded for figures."""
    points = np.round([means[0], *np.percentile(means[1:], QUANTILES, axis=0)], 4)
    mean, low, high = points.tolist()  # (3, T)
    return mean, low, high
