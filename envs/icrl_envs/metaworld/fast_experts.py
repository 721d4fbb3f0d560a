"""Experts that succeed within the 100 steps of the published evaluation, where Meta-World's scripted ones are too slow.

Each is a function of observations (B, N) and tasks (B): an `expert` of `collect` and `train`, by its import path.
Lengths are in metres. Axis letter: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GAIN = 25  # of the hand's move, as in Meta-World's policies: 1 is the largest move, of one centimetre
HOLE = (0.03, 0.0, 0.13)  # place of the hole in the box of peg-insert-side
BEFORE, INSIDE = (0.25, 0.0, 0.02), (-0.3, 0.0, 0.02)  # where to carry the peg, from the hole: first, then


def insert_peg(obs: np.ndarray, tasks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The actions (B, 4) of an expert of peg-insert-side: it takes the peg, and pushes it into the box along x.

    Meta-World's own expert rises by 30 cm on its way to the peg, and lines up the hand instead of the peg.

    Args:
        obs: hand, opening of the gripper, place and quaternion of the peg, and more (B, N).
        tasks: dicts (B) with `rand_vec`, the places of peg and box.
    """
    hand, opening, peg = obs[:, :3], obs[:, 3], obs[:, 4:7]
    hole = np.array([task["rand_vec"] for task in tasks])[:, 3:] + HOLE  # (B, 3)
    grip = hand - peg  # (B, 3) the hand, as seen from the peg
    across, above = np.linalg.norm(grip[:, :2], axis=1), grip[:, 2]
    over = across <= 0.03
    held = over & ((above <= 0.025) | ((above < 0.06) & (opening < 0.5)))
    lined_up = np.abs(peg - hole - BEFORE)[:, 1:].max(1) <= 0.02
    carried = hole + np.where(lined_up[:, None], INSIDE, BEFORE) + grip
    to_peg = peg + np.where(over[:, None], 0.0, (0.0, 0.0, 0.08))
    move = GAIN * (np.where(held[:, None], carried, to_peg) - hand)
    closed = np.where((across < 0.04) & (above < 0.1), 1.0, -1.0)
    return np.clip(np.column_stack([move, closed]), -1, 1).astype(np.float32)
