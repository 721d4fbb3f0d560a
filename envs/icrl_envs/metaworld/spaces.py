"""Spaces of Meta-World's tasks: which entries of an observation are shown, and their bounds."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from icrl_envs.base.checks import check_choice

PUBLISHED, FRAME, FULL = "published", "frame", "full"
OBSERVATIONS = (PUBLISHED, FRAME, FULL)
TWO_OBJECTS = ("hammer", "stick-pull", "stick-push")
HAND_LOW, HAND_HIGH = (-0.525, 0.348, -0.0525, -1.0), (0.525, 1.025, 0.7, 1.0)  # places in metres, opening
ONE_OBJECT_SIZE, FRAME_SIZE = 11, 18  # entries of a frame with one object, and with two
REACH = 1.5  # metres; goals are within this distance along each axis
ACTION_BOX = spaces.Box(-1.0, 1.0, (4,), np.float32)


class View(NamedTuple):
    """What is shown of Meta-World's observation (39,): two frames (18,) each, and the place of the goal."""

    size: int  # entries of the current frame
    full: bool  # whether the frame before and the goal follow, as in Meta-World
    hide_goal: bool

    @classmethod
    def of(cls, name: str, obs: str, hide_goal: bool) -> View:
        """Return the view that an environment's arguments ask for; ValueError for other values."""
        check_choice(obs, "obs", OBSERVATIONS)
        check_choice(hide_goal, "hide_goal", (False, True))
        one = obs == PUBLISHED and name not in TWO_OBJECTS
        return cls(ONE_OBJECT_SIZE if one else FRAME_SIZE, obs == FULL, bool(hide_goal))

    def show(self, obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Return what is shown, float32, of an observation (39,) whose goal is hidden and at `goal` (3,)."""
        seen = obs[: 2 * FRAME_SIZE] if self.full else obs[: self.size]
        if not self.hide_goal:
            return np.concatenate([seen, goal], dtype=np.float32)
        return (obs if self.full else seen).astype(np.float32)


@cache
def observation_box(view: View) -> spaces.Box:
    """Return the space of a view; the places of objects are unbounded."""
    beside = [np.inf] * (view.size - len(HAND_LOW))
    low, high = [*HAND_LOW, *np.negative(beside)], [*HAND_HIGH, *beside]
    frames = 2 if view.full else 1
    goal = [0.0 if view.hide_goal else REACH] * (3 if view.full or not view.hide_goal else 0)
    lows, highs = [*low * frames, *np.negative(goal)], [*high * frames, *goal]
    return spaces.Box(np.array(lows, np.float32), np.array(highs, np.float32), dtype=np.float32)
