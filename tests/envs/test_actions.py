"""Actions are checked by their space, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs.base.actions import all_legal, check_action

from tests.conftest import one_line

SPACES = {
    "discrete": spaces.Discrete(4),
    "from three": spaces.Discrete(4, start=3),
    "box": spaces.Box(-2, 2, (3, 2), np.float32),
    "half-open box": spaces.Box(0, np.inf, (2,), np.float64),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "several": spaces.MultiDiscrete([2, 5]),
    "bits": spaces.MultiBinary(3),
}


@pytest.mark.parametrize("name", SPACES)
def test_samples_are_accepted_as_copies(name):
    space = SPACES[name]
    space.seed(0)
    rows = np.stack([space.sample() for _ in range(5)])
    found, one = check_action(rows, space, (5,)), check_action(rows[2], space, ())
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(one, rows[2])
    assert found.dtype == one.dtype == space.dtype
    assert not np.shares_memory(found, rows)
    assert check_action(rows.tolist(), space, (5,)).shape == rows.shape


OUTSIDE = {
    "from three": (2, "actions go from 3 to 6"),
    "box": (np.full((3, 2), 2.1), "action has 2.1"),
    "half-open box": ([-1.0, 0.0], "action has -1, outside Box"),
    "bytes": ([0, 256], "action has 256"),
    "several": ([1, 5], "is outside MultiDiscrete"),
    "bits": ([0, 1, 2], "is outside MultiBinary"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_actions_outside_are_refused(name):
    action, words = OUTSIDE[name]
    one_line(lambda: check_action(action, SPACES[name], ()), ValueError, words)
    rows = np.stack([np.asarray(action), np.asarray(action)])
    one_line(lambda: check_action(rows, SPACES[name], (2,)), ValueError, "outside")


@pytest.mark.parametrize("name", ["bytes", "several", "bits"])
def test_floats_are_no_integers(name):
    action = np.zeros(SPACES[name].shape)
    one_line(lambda: check_action(action, SPACES[name], ()), ValueError, "integers of shape")


def test_every_action_is_legal_where_none_is_numbered():
    assert all_legal(SPACES["discrete"], 2).tolist() == [[1] * 4] * 2
    assert all_legal(SPACES["box"], 2).shape == (2, 0)
