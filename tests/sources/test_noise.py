"""Noise distillation with Box actions."""

import gymnasium
import numpy as np
import pytest

from icrl_agents.core.spaces import box_range
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from tests.sources.reach import GOALS, REACH, Reach, registered


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def live(episodes: int = 4, **settings):
    tasks = np.repeat(np.arange(len(GOALS)), 6)
    return lifetimes(REACH, make_source("noise", REACH, settings), tasks, episodes, 0)


def by_episode(values: np.ndarray) -> np.ndarray:
    """(B, episodes, 20, ...) of values (B, episodes * 20, ...)."""
    return values.reshape(len(values), -1, 20, *values.shape[2:])


def test_behaviour_goes_from_drift_to_the_expert_and_labels_are_the_expert():
    steps = live()
    assert steps.action.dtype == np.float64
    assert "log_prob" not in steps.extras
    gap = np.abs(by_episode(steps.action - steps.extras["expert_action"])).mean((0, 2, 3))
    assert (np.diff(gap) < 0).all()
    assert gap[-1] < 0.35 * gap[0]
    returns = by_episode(steps.reward).sum(2).mean(0)
    assert (np.diff(returns) > 0).all()
    expert = live(start=0.0, spread=0.0)
    np.testing.assert_array_equal(expert.action, expert.extras["expert_action"])
    assert returns[-1] > returns[0] + 0.6 * (by_episode(expert.reward).sum(2).mean() - returns[0])


def test_lifetimes_end_at_levels_of_their_own():
    steps = live(spread=0.5)
    noise = by_episode(steps.action - steps.extras["expert_action"])[:, -1].std((1, 2))  # (B,)
    assert np.quantile(noise, 0.9) > 3 * np.quantile(noise, 0.1)
    same = live(spread=0.0)
    np.testing.assert_array_equal(same.action[:, -20:], same.extras["expert_action"][:, -20:])


def test_drift_has_the_spread_and_correlation_of_its_settings_around_the_middle_of_the_range():
    steps = live(end=1.0, spread=0.0, correlation=0.8, scale=0.2)
    drift = by_episode(steps.action)  # (B, E, 20, 2)
    space = Reach.action_space
    middle = (space.high + space.low) / 2
    x = (drift - middle) / (space.high - middle)
    assert x.mean((0, 1, 2)) == pytest.approx(0, abs=0.02)
    assert x[:, :, 0].std() == pytest.approx(0.2, rel=0.1)
    assert x[:, :, -1].std() == pytest.approx(0.2, rel=0.1)
    assert (x[:, :, 1:] * x[:, :, :-1]).mean() / x.var() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("low", "high", "centre", "unit"),
    [(-1, 3, 1, 2), (-np.inf, np.inf, 0, 1), (2, np.inf, 3, 1), (-np.inf, 2, 1, 1)],
)
def test_ranges_of_bounded_and_unbounded_boxes(low, high, centre, unit):
    found = box_range(gymnasium.spaces.Box(low, high, (2,)))
    assert found.centre.tolist() == [centre] * 2
    assert found.unit.tolist() == [unit] * 2
    assert box_range(gymnasium.spaces.Discrete(3)) is None
    assert box_range(gymnasium.spaces.Box(0, 3, (2,), np.int64)) is None


def test_shares_above_one_are_refused():
    with pytest.raises(ValueError, match=r"end=0\.8 \+ spread=0\.3 exceeds 1"):
        make_source("noise", REACH, {"end": 0.8})
