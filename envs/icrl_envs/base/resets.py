"""Arguments of a vector environment's `reset`: seeds and the rows to reset. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from icrl_envs.base.checks import check_int, short


def read_seeds(seed: Any, num: int) -> list[int | None]:
    """Return one seed per row, None for rows without one: `seed + i` of an integer, or a sequence of B."""
    if seed is None:
        return [None] * num
    if isinstance(seed, (int, np.integer)):
        first = check_int(seed, "seed", 0, 2**63)
        return [first + row for row in range(num)]
    given = list(seed) if isinstance(seed, (list, tuple, np.ndarray)) else []
    if len(given) != num:
        raise ValueError(f"seed={short(seed)}: give an integer, or a list of {num} of them.")
    return [None if one is None else check_int(one, "seed", 0, 2**63) for one in given]


def read_reset_mask(options: Mapping[str, Any], num: int, started: bool) -> np.ndarray:
    """Return the rows (B,) bool to reset; ResetNeeded where some have not `started` and some are left out."""
    if "reset_mask" not in options:
        return np.ones(num, bool)
    mask = options["reset_mask"]
    if getattr(mask, "dtype", None) != np.bool_ or mask.shape != (num,) or not mask.any():
        raise ValueError(f"options['reset_mask']={short(mask)}: give ({num},) bools, one of them True.")
    if not started and not mask.all():
        raise ResetNeeded("the first reset must reset all rows: call reset() without options['reset_mask'].")
    return mask
