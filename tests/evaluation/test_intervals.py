"""Intervals are those of a slow loop that draws trainings, then tasks, then lives, and hold what they should."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from icrl_agents.evaluation import intervals
from icrl_agents.evaluation.intervals import (
    Sample,
    bootstrap,
    bootstrap_band,
    interquartile_mean,
    mean,
    ratio_of_means,
    share_of_optimum,
)

Statistic = Callable[[list[float]], float]


def plain_mean(values: list[float]) -> float:
    return sum(values) / len(values)


def plain_middle(values: list[float]) -> float:
    cut = len(values) // 4
    return plain_mean(sorted(values)[cut : len(values) - cut])


def slow(scores: np.ndarray, trainings: int, statistic: Statistic, count: int = 3000) -> tuple[float, float]:
    """Another implementation: plain loops over lists."""
    draw, lives = random.Random(1), len(scores) // trainings
    nested = scores.reshape(trainings, lives, -1).tolist()
    found = []
    for _ in range(count):
        tasks = [draw.randrange(scores.shape[1]) for _ in range(scores.shape[1])]
        values = []
        for _ in range(trainings):
            agent = nested[draw.randrange(trainings)]
            values += [agent[draw.randrange(lives)][task] for task in tasks for _ in range(lives)]
        found.append(statistic(values))
    found.sort()
    return found[round(0.025 * count)], found[round(0.975 * count)]


def measured(trainings: int, lives: int, tasks: int, seed: int = 0) -> np.ndarray:
    """Scores (R, N) of agents that differ by 1, on tasks that differ by 3, in lives that differ by 2."""
    rng = np.random.default_rng(seed)
    agents, goals = rng.normal(0, 1, (trainings, 1, 1)), rng.normal(0, 3, (1, 1, tasks))
    return (agents + goals + rng.normal(0, 2, (trainings, lives, tasks))).reshape(-1, tasks)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 30), (1, 20, 8), (3, 1, 12), (3, 5, 8), (4, 6, 1)])
@pytest.mark.parametrize(("statistic", "plain"), [(mean, plain_mean), (interquartile_mean, plain_middle)])
def test_intervals_are_those_of_a_slow_loop(shape, statistic, plain):
    scores = measured(*shape)
    value, low, high = bootstrap(statistic, scores, trainings=shape[0])
    assert value == pytest.approx(plain(scores.ravel().tolist()))
    tolerance = 0.07 * (high - low)  # two bootstraps of some thousand draws
    assert (low, high) == pytest.approx(slow(scores, shape[0], plain), abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "lives", "least"), [(30, 2, 0.91), (8, 5, 0.86)])
def test_they_hold_the_true_mean_about_as_often_as_they_say(tasks, lives, least):
    """95%, but for what percentiles of few tasks miss; lives alone would hold it in a fifth to a half of the cases."""
    found = [bootstrap(mean, measured(1, lives, tasks, seed) - agent_of(seed)) for seed in range(200)]
    held = np.mean([low <= 0 <= high for _, low, high in found])
    assert least <= held <= 0.98


def agent_of(seed: int) -> float:
    """By how much the only agent of `measured` is better than others, which its interval says nothing of."""
    return np.random.default_rng(seed).normal(0, 1, (1, 1, 1)).item()


def test_tasks_are_drawn_where_lives_do_not_differ():
    value, low, high = bootstrap(mean, np.tile([1.0, 9.0], (5, 1)))
    assert (value, low, high) == (5, 1, 9)
    assert bootstrap(mean, np.full((20, 1), 3.0)) == (3, 3, 3)


def test_all_trainings_live_the_same_drawn_tasks():
    """Else the tasks of three trainings would count as three times as many."""
    scores = np.tile(np.arange(10.0), (3, 1))
    assert bootstrap(mean, scores, trainings=3)[1:] == pytest.approx(bootstrap(mean, scores[:1])[1:], abs=0.15)


def test_what_belongs_together_is_drawn_together():
    scores = np.random.default_rng(0).exponential(size=(4, 6))
    assert tuple(bootstrap(ratio_of_means, 3 * scores, scores)) == pytest.approx((3, 3, 3))


def test_the_band_is_the_interval_at_every_point():
    runs = np.random.default_rng(0).normal(size=(6, 5, 4))
    low, high = bootstrap_band(runs, trainings=3)
    for point in range(4):
        assert bootstrap(mean, runs[:, :, point], trainings=3)[1:] == pytest.approx((low[point], high[point]))


def test_large_samples_are_drawn_in_blocks(monkeypatch):
    scores = measured(2, 3, 4)
    whole = bootstrap(mean, scores, trainings=2)
    monkeypatch.setattr(intervals, "MAX_DRAWN", 100)
    blocks = list(Sample(2, 4, 3).draws())
    assert {block.shape for block in blocks} == {(4, 24)}
    assert sum(map(len, blocks)) == intervals.RESAMPLES
    assert bootstrap(mean, scores, trainings=2)[1:] == pytest.approx(whole[1:], abs=0.1)


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (Sample(1, 8, 20), "8 tasks x 20 lives"),
        (Sample(3, 100), "3 trainings x 100 tasks"),
        (Sample(2, 1, 5), "2 trainings x 5 lives"),
        (Sample(1, 1, 1), "nothing"),
    ],
)
def test_they_say_what_was_drawn(sample, text):
    assert str(sample) == text


def test_a_share_of_an_optimum_below_zero_is_the_place_between_random_play_and_the_optimum():
    value, random, optimal = (
        np.array([3.0, -1.0, -8.0, 0.0, 1.0]),
        np.array([1.0, -16, -16, -4, 0]),
        np.array([4.0, -1, 0, 0, np.nan]),
    )
    np.testing.assert_allclose(share_of_optimum(value, random, optimal), [0.75, 1, 0.5, 1, np.nan])
