"""Spaces of Meta-World's tasks: which entries of an observation are shown, and their bounds."""

from __future__ import annotations

from functools import cache

import numpy as np
from gymnasium import spaces

PUBLISHED, FRAME, FULL = "published", "frame", "full"
OBSERVATIONS = (PUBLISHED, FRAME, FULL)
TWO_OBJECTS = ("hammer", "stick-pull", "stick-push")
HAND_LOW, HAND_HIGH = (-0.525, 0.348, -0.0525, -1.0), (0.525, 1.025, 0.7, 1.0)  # places in metres, opening
ONE_OBJECT_SIZE, FRAME_SIZE = 11, 18  # entries of a frame with one object, and with two
REACH = 1.5  # metres; goals are within this distance along each axis
ACTION_BOX = spaces.Box(-1.0, 1.0, (4,), np.float32)


def frame_size(name: str, obs: str) -> int:
    """Return the number of entries of the current frame that a task's observation shows."""
    return ONE_OBJECT_SIZE if obs == PUBLISHED and name not in TWO_OBJECTS else FRAME_SIZE


@cache
def observation_box(size: int, obs: str, hide_goal: bool) -> spaces.Box:
    """Return the space of observations whose current frame has `size` entries; the place of an object is unbounded."""
    beside = [np.inf] * (size - len(HAND_LOW))
    low, high = [*HAND_LOW, *np.negative(beside)], [*HAND_HIGH, *beside]
    frames = 2 if obs == FULL else 1
    goal = [0.0 if hide_goal else REACH] * (3 if obs == FULL or not hide_goal else 0)
    bounds = [*low * frames, *np.negative(goal)], [*high * frames, *goal]
    return spaces.Box(*(np.array(bound, np.float32) for bound in bounds), dtype=np.float32)


def show(obs: np.ndarray, goal: np.ndarray, size: int, kind: str, hide_goal: bool) -> np.ndarray:
    """Return what an observation of `kind` shows of Meta-World's one (39,), whose goal is hidden, as float32."""
    seen = obs[:36] if kind == FULL else obs[:size]
    if not hide_goal:
        return np.concatenate([seen, goal], dtype=np.float32)
    return (obs if kind == FULL else seen).astype(np.float32)
