"""Validation of actions against their space, and spaces of one's own. Axis letters: B rows, A actions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces

from icrl_envs.base.checks import as_array, short


def check_action(action: Any, space: spaces.Space, rows: tuple[int, ...]) -> np.ndarray:
    """Return a checked copy of `action`: (*rows,) int64 for `Discrete`, else (*rows, *space.shape) of `space.dtype`.

    Args:
        action: one action, or one per row.
        space: space of one action.
        rows: () for one action, (B,) for one per row.

    Raises:
        ValueError: wrong shape or kind, or a value outside the space.
    """
    if isinstance(space, spaces.Discrete):
        return _check_discrete(action, space, rows)
    if isinstance(space, spaces.Box):
        return _check_box(action, space, rows)
    return _check_other(action, space, rows)


def own_space(space: spaces.Space) -> Any:
    """Return a copy of a space with a random generator of its own, so that no other environment's `seed` changes it."""
    found = copy.deepcopy(space)
    found.seed()
    return found


def all_legal(space: spaces.Space, rows: int) -> np.ndarray:
    """Return the mask (B, A) int8 of ones; A is 0 for spaces other than `Discrete`."""
    return np.ones((rows, int(space.n) if isinstance(space, spaces.Discrete) else 0), np.int8)


def _check_discrete(action, space, rows):
    array, low, high = as_array(action), int(space.start), int(space.start + space.n - 1)
    if array.dtype.kind not in "iu" or array.shape != rows:
        wanted = f"an integer array of shape {rows}" if rows else "one integer"
        raise ValueError(f"action={short(action)}: give {wanted} from {low} to {high}.")
    if array.min() < low or array.max() > high:
        bad = array[(array < low) | (array > high)].flat[0]
        raise ValueError(f"action={bad} is outside {space}: actions go from {low} to {high}.")
    return array.astype(np.int64)


def _check_box(action, space, rows):
    array, shape, real = as_array(action), (*rows, *space.shape), space.dtype.kind == "f"
    if array.dtype.kind not in ("iuf" if real else "iu") or array.shape != shape:
        numbers = "numbers" if real else "integers"
        raise ValueError(f"action={short(action)}: give {numbers} of shape {shape}, as in {short(space)}.")
    with np.errstate(over="ignore"):
        found = array.astype(space.dtype)
    checked = found if real else array  # float64 actions may be rounded to the bound; integers must not wrap around
    inside = (space.low <= checked) & (checked <= space.high)  # false for NaN
    if not inside.all():
        bad = checked[~inside].flat[0]
        raise ValueError(f"action has {bad:.6g}, outside {short(space)}: clip actions to its bounds.")
    return found


def _check_other(action, space, rows):
    array, shape = as_array(action), (*rows, *(space.shape or ()))
    if array.dtype.kind not in "iub" or array.shape != shape:
        raise ValueError(f"action={short(action)}: give integers of shape {shape}, as in {short(space)}.")
    found = array.astype(space.dtype)
    if not np.array_equal(found, array) or not all(one in space for one in (found if rows else [found])):
        raise ValueError(f"action={short(action)} is outside {short(space)}.")
    return found
