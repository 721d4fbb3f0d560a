"""Where the marks of confident runs stand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.methods.base.transforms import END, START, confident_runs
from tests.fakes import lifetimes

BOTH = START + END


def history(chances: list[float], ends: tuple[int, ...] = (), update: list[int] | None = None) -> Steps:
    """One row whose actions had these probabilities, with episode ends after the steps `ends`."""
    count = len(chances)
    no = np.zeros((1, count), bool)
    ended = np.isin(np.arange(count), ends)[None]
    extras = {"log_prob": np.log(np.array([chances], np.float32))}
    extras |= {} if update is None else {"update": np.array([update])}
    cells = np.zeros((1, count, 2), np.int32)
    return stack_steps(cells, no.astype(np.int64), no.astype(np.float32), cells, no, ended, extras=extras)


def marks(steps: Steps, threshold: float = 0.7, least: int = 3, causal: bool = False) -> list[int]:
    return confident_runs(steps, threshold, least, causal)[0].tolist()


def plain_runs(steps: Steps, row: int, threshold: float, least: int) -> list[tuple[int, int]]:
    """The runs [start, stop) of a row, found step by step."""
    found, start = [], None
    for t in range(steps.mask.shape[1] + 1):
        real = t < steps.mask.shape[1]
        sure = real and steps.mask[row, t] and math.exp(steps.extras["log_prob"][row, t]) >= threshold
        border = real and (steps.first[row, t] or (t and np.ptp(steps.extras["update"][row, t - 1 : t + 1])))
        if start is not None and (border or not sure):
            found += [(start, t)] if t - start >= least else []
            start = None
        if start is None and sure:
            start = t
    return found


def plain_marks(steps: Steps, threshold: float, least: int) -> np.ndarray:
    found = np.zeros(steps.mask.shape, np.int64)
    for row in range(len(found)):
        for start, stop in plain_runs(steps, row, threshold, least):
            found[row, start] += START
            if stop < found.shape[1]:
                found[row, stop] += END
    return found


def plain_causal_marks(steps: Steps, threshold: float, least: int) -> np.ndarray:
    """What an observer writes down who before each step sees whether it begins an episode or a policy, then waits."""
    found = np.zeros(steps.mask.shape, np.int64)
    for row in range(len(found)):
        streak, inside = 0, False
        for t in range(found.shape[1]):
            update = steps.extras["update"][row]
            if steps.first[row, t] or (t and update[t] != update[t - 1]):
                streak = 0
            if inside != (streak >= least):
                inside = not inside
                found[row, t] = START if inside else END
            sure = steps.mask[row, t] and math.exp(steps.extras["log_prob"][row, t]) >= threshold
            streak = streak + 1 if sure else 0
    return found


def random_steps(seed: int) -> Steps:
    """Rows that are sure more or less often, with episodes, updates, and padding on the right and in between."""
    rng = np.random.default_rng(seed)
    steps = lifetimes(rows=20, count=60, seed=seed, ends=0.1)
    chance = rng.random((20, 60)) ** rng.choice([0.1, 0.3, 1.0], (20, 1))
    update = (rng.random((20, 60)) < 0.1).cumsum(1)
    mask = np.arange(60) < rng.integers(0, 61, 20)[:, None]
    mask[:4] = rng.random((4, 60)) < 0.95
    mask[4:8] = True
    return steps._replace(mask=mask, extras={"log_prob": np.log(chance).astype(np.float32), "update": update})


@pytest.mark.slow
@pytest.mark.parametrize("least", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_marks_are_those_of_a_plain_loop(seed: int, least: int):
    steps = random_steps(seed)
    for start in (0, 7):  # a window may cut a run
        window = steps.window(start, None)
        whole, causal = (confident_runs(window, 0.6, least, causal) for causal in (False, True))
        np.testing.assert_array_equal(whole, plain_marks(window, 0.6, least))
        np.testing.assert_array_equal(causal, plain_causal_marks(window, 0.6, least))
        assert {START, END, BOTH} <= set(whole.flat)
        assert {0, START, END} == set(causal.flat)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_causal_marks_follow_from_the_steps_before(seed: int):
    steps, rng = random_steps(seed), np.random.default_rng(seed)
    all_marks = confident_runs(steps, 0.6, 3, causal=True)
    for t in range(60):
        other = steps.extras["log_prob"].copy()
        other[:, t:] = np.log(rng.random((20, 60 - t)))
        mask = steps.mask.copy()
        mask[:, t:] = False
        for changed in (steps._replace(extras={**steps.extras, "log_prob": other}), steps._replace(mask=mask)):
            found = confident_runs(changed, 0.6, 3, causal=True)
            np.testing.assert_array_equal(found[:, : t + 1], all_marks[:, : t + 1])


S, U = 0.9, 0.2  # sure, unsure


class TestPublished:
    """The marks of the public code, on windows without borders."""

    def test_from_the_first_step_to_one_past_the_last(self):
        assert marks(history([U, S, S, S, U, U])) == [0, START, 0, 0, END, 0]

    def test_a_run_at_the_end_has_no_end(self):
        assert marks(history([U, S, S, S])) == [0, START, 0, 0]

    def test_a_run_cut_by_the_window_starts_with_it(self):
        assert marks(history([U, S, S, S, S, S, U]).window(3, None)) == [START, 0, 0, END]

    def test_a_short_run_is_none(self):
        assert marks(history([S, S, U, S, S])) == [0] * 5

    def test_the_guides_example_has_no_run_of_ten(self):
        assert marks(history([S] * 6 + [U] * 5 + [S] * 4), least=10) == [0] * 15

    def test_the_threshold_itself_is_sure(self):
        assert marks(history([0.7, 0.7, 0.7, 0.699])) == [START, 0, 0, END]


class TestBorders:
    def test_runs_end_with_their_episode(self):
        assert marks(history([S] * 5, ends=(1,))) == [0, 0, START, 0, 0]
        assert marks(history([S] * 6, ends=(2,))) == [START, 0, 0, BOTH, 0, 0]

    def test_runs_end_with_an_update(self):
        assert marks(history([S] * 7, update=[4, 4, 4, 5, 5, 5, 5])) == [START, 0, 0, BOTH, 0, 0, 0]

    def test_padding_is_never_sure(self):
        steps = history([S] * 6)
        assert marks(steps._replace(mask=np.arange(6)[None] < 2)) == [0] * 6
        assert marks(steps._replace(mask=np.arange(6)[None] < 4)) == [START, 0, 0, 0, END, 0]

    def test_what_is_not_known_is_not_sure(self):
        with np.errstate(divide="ignore"):
            assert marks(history([S, S, 0.0, S, math.nan, S])) == [0] * 6


class TestCausal:
    def test_start_once_the_run_is_long_enough(self):
        assert marks(history([U, S, S, S, S, U, U, U]), causal=True) == [0, 0, 0, 0, START, 0, END, 0]

    def test_a_run_of_just_the_length(self):
        assert marks(history([S, S, S, U, U]), causal=True) == [0, 0, 0, START, END]

    def test_a_new_episode_is_seen_at_once(self):
        assert marks(history([S] * 8, ends=(3,)), causal=True) == [0, 0, 0, START, END, 0, 0, START]

    def test_a_run_that_is_over_when_it_is_known_is_not_marked(self):
        assert marks(history([S] * 4, ends=(2,)), causal=True) == [0] * 4
