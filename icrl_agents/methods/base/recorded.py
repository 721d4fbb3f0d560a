"""Checks of recorded steps that a caller gives to an acting agent. Axis letters: B rows, T steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from icrl_agents.core.steps import Steps, check_previous, check_steps
from icrl_agents.methods.base.method import Method


def check_recorded(method: Method, steps: Any, rows: int, what: str, acted: bool = True) -> Steps:
    """Checked steps (B, T) with padding that is valid in the spaces, and without static values.

    Args:
        what: name of the argument, for error messages.
        acted: whether its actions will be read; else they may be any.

    Raises:
        ValueError: not left-packed NumPy `Steps` of `rows` rows in the spaces of the method.
    """
    if not isinstance(steps, Steps) or not all(isinstance(value, np.ndarray) for value in steps.columns.values()):
        raise ValueError(f"{what} is a {type(steps).__name__}, expected Steps of NumPy arrays: such as store[task, :]")
    mask = steps.mask
    if len(mask) != rows:
        raise ValueError(
            f"{what} has {len(mask)} rows, the agent acts in {rows}: give one row for each that begins a task"
        )
    flags = (mask, steps.first, steps.start, steps.terminated, steps.truncated)
    if any(flag.dtype != bool for flag in flags) or any(v.shape[:2] != mask.shape for v in steps.columns.values()):
        raise ValueError(f"{what} has fields of other shapes than its mask {mask.shape}, or flags that are not bool")
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise ValueError(f"{what} has padding before its steps: move the steps to the front of each row")
    for name in method.extra_columns.keys() & steps.extras.keys():
        if np.shape(steps.extras[name]) != mask.shape:
            raise ValueError(f"{what} has {name} of shape {np.shape(steps.extras[name])}, expected {mask.shape}")
    codecs = {"obs": method.obs, "next_obs": method.obs, "reward": method.reward}
    codecs |= {"action": method.action} if acted else {}
    check_steps(steps, codecs, what)
    check_previous(steps, codecs, mask & ~steps.start, what)
    steps = method.tracked(steps)  # before a window cuts them
    extras = {name: steps.extras[name] for name in method.extra_columns if name in steps.extras}
    return _pad(steps._replace(extras=extras, static={}))


def _pad(steps: Steps) -> Steps:
    """Replace the padding by real steps, because other values may lie outside the spaces."""
    count = steps.mask.sum(1)  # (B,)
    if not count.any():
        return steps
    row = np.where(count > 0, np.arange(len(count)), count.argmax())  # (B,) empty rows copy the longest row
    column = np.minimum(np.arange(steps.mask.shape[1]), count[row, None] - 1)  # (B, T) padding copies the last step
    return steps.map(lambda value: value[row[:, None], column])._replace(mask=steps.mask)
