"""The lowest and the highest reward of a lifetime so far. Axis letters: B rows, T steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from icrl_agents.core.steps import HIGHEST, LOWEST, Steps

UNSEEN: Mapping[str, float] = MappingProxyType({LOWEST: np.inf, HIGHEST: -np.inf})  # before the first reward


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
