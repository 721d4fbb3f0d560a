"""Experts that succeed within the 100 steps of the published evaluation, where Meta-World's scripted ones are too slow.

Each is a function of observations (B, N) and tasks (B): an `expert` of `collect` and `train`, by its import path. An
observation begins with the hand, the opening of the gripper and the place of the object; a task is a dict with
`rand_vec`. Lengths are in metres. Axis letter: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GAIN = 25  # of the hand's move, as in Meta-World's policies: 1 is the largest move, of one centimetre
ABOVE = (0.0, 0.0, 0.08)  # from the object: where the hand waits until it is over it; Meta-World's rises by 30 cm
HOLE = (0.03, 0.0, 0.13)  # from the box of peg-insert-side
BEFORE, INSIDE = (0.25, 0.0, 0.02), (-0.3, 0.0, 0.02)  # from the hole: where to carry the peg first, and then
EDGE = (0.55, 0.01)  # x and z beyond sweep's goal


def insert_peg(obs: np.ndarray, tasks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The actions (B, 4) of an expert of peg-insert-side: it takes the peg, lines it up, and pushes it in along x.

    Meta-World's own lines up the hand instead of the peg.
    """
    peg, hole = obs[:, 4:7], _places(tasks)[:, 3:] + HOLE
    lined_up = np.abs(peg - hole - BEFORE)[:, 1:].max(1) <= 0.02
    return _carry(obs, hole + np.where(lined_up[:, None], INSIDE, BEFORE), 0.025)


def sweep_cube(obs: np.ndarray, tasks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The actions (B, 4) of an expert of sweep: it takes the cube, and pushes it over the edge along x."""
    y = _places(tasks)[:, 1]
    return _carry(obs, np.column_stack([np.full_like(y, EDGE[0]), y, np.full_like(y, EDGE[1])]), 0.05)


def _places(tasks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(B, 3 or 6) places of the object and, if it has one, the goal."""
    return np.array([task["rand_vec"] for task in tasks])


def _carry(obs: np.ndarray, to: np.ndarray, low: float) -> np.ndarray:
    """Actions (B, 4) that take the object, and carry it to the places (B, 3).

    Args:
        low: height of the hand over the object at which the gripper holds it.
    """
    hand, opening, thing = obs[:, :3], obs[:, 3], obs[:, 4:7]
    grip = hand - thing  # (B, 3) the hand, as seen from the object
    across, above = np.linalg.norm(grip[:, :2], axis=1), grip[:, 2]
    held = (across <= 0.05) & ((above <= low) | ((above <= low + 0.03) & (opening < 0.6)))
    to_thing = thing + np.where((across <= 0.03)[:, None], 0.0, ABOVE)
    move = GAIN * (np.where(held[:, None], to + grip, to_thing) - hand)
    closed = np.where((across <= 0.05) & (above <= 0.1), 1.0, -1.0)
    return np.clip(np.column_stack([move, closed]), -1, 1).astype(np.float32)
