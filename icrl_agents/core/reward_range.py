"""What a lifetime has come to before each step: the range of its rewards, and the progress of the current episode.

Axis letters: B rows, T steps, n selected steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from icrl_agents.core.steps import EARNED, HIGHEST, LOWEST, TIMESTEP, Steps

UNSEEN: Mapping[str, float] = MappingProxyType({LOWEST: np.inf, HIGHEST: -np.inf})  # before the first reward
AT_START: Mapping[str, float] = MappingProxyType({**UNSEEN, TIMESTEP: 0.0, EARNED: 0.0})  # before the first step


class RewardRange(NamedTuple):
    """Lowest and highest reward of each row, infinite (low > high) where there is none yet."""

    low: np.ndarray  # (B, 1) float32
    high: np.ndarray  # (B, 1) float32


def range_before(steps: Steps) -> RewardRange:
    """Range of the rewards before the first of NumPy steps (B, T); unseen if the steps have no column of it."""
    none = {name: np.full((len(steps.mask), 1), value, np.float32) for name, value in UNSEEN.items()}
    return RewardRange(*(np.asarray(steps.extras.get(name, none[name]))[:, :1] for name in (LOWEST, HIGHEST)))


def with_reward_range(steps: Steps, before: RewardRange | None = None) -> Steps:
    """NumPy steps (B, T) with the columns `reward_low` and `reward_high`.

    They hold the extremes of all rewards of the lifetime before each step, so they reveal nothing of its outcome.

    Args:
        before: range of the rewards before these steps; None: `range_before(steps)`.
    """
    columns = {}
    first, extremes = range_before(steps) if before is None else before, (np.minimum, np.maximum)
    for (name, unseen), start, extreme in zip(UNSEEN.items(), first, extremes, strict=True):
        reward = np.where(steps.mask, steps.reward, np.float32(unseen))[:, :-1]
        known = np.concatenate([start, reward], 1)[:, : steps.mask.shape[1]]
        columns[name] = extreme.accumulate(known, 1).astype(np.float32)
    return steps._replace(extras={**steps.extras, **columns})


def with_timesteps(steps: Steps) -> Steps:
    """NumPy steps (B, T) with the column `timestep`: the number of steps of the episode before each step.

    The first step of a row counts as the first one of an episode.
    """
    return steps._replace(extras={**steps.extras, TIMESTEP: (_places(steps) - _starts(steps)).astype(np.int32)})


def with_earned(steps: Steps) -> Steps:
    """NumPy steps (B, T) with the column `earned`: the sum of the rewards of the episode before each step."""
    before = np.cumsum(np.where(steps.mask, steps.reward, 0), 1, np.float64)
    before = np.concatenate([np.zeros((len(before), 1)), before[:, :-1]], 1)[:, : before.shape[1]]  # of all episodes
    earned = before - np.take_along_axis(before, _starts(steps), 1)
    return steps._replace(extras={**steps.extras, EARNED: earned.astype(np.float32)})


def _places(steps: Steps) -> np.ndarray:
    return np.arange(steps.mask.shape[1])


def _starts(steps: Steps) -> np.ndarray:
    """First step (B, T) of the episode of each step."""
    return np.maximum.accumulate(np.where(steps.first, _places(steps), 0), 1)


def after_step(before: Mapping[str, np.ndarray], reward: np.ndarray, ended: np.ndarray) -> dict[str, np.ndarray]:
    """Columns (n,) of this module after steps with `reward` (n,) that `ended` (n,) episodes or not, given those before.

    Columns that are not in `before` are not tracked.
    """
    rules = {
        LOWEST: lambda known: np.minimum(known, reward),
        HIGHEST: lambda known: np.maximum(known, reward),
        TIMESTEP: lambda known: np.where(ended, 0, known + 1),
        EARNED: lambda known: np.where(ended, 0, known + reward),
    }
    return {name: rule(before[name]) for name, rule in rules.items() if name in before}
