"""Numbers of observations, for tables. Axis letters: B rows, S states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from icrl_agents.core.printable import printable

MAX_STATES = 4096  # larger state spaces need function approximation


def count_states(space: gymnasium.Space) -> int:
    """Number of observations that `state_index` counts; 0 in spaces that it refuses."""
    try:
        return state_index(space, "")[0]
    except ValueError:
        return 0


def state_index(space: gymnasium.Space, name: str) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """Number S of observations in an integer space, and the map from observations (B, ...) to indices 0..S-1 (B,).

    Args:
        name: name of the source, for messages.

    Raises:
        ValueError: the space is not one of integers, or S exceeds `MAX_STATES`.
    """
    if space.dtype is None or space.dtype.kind not in "iu":
        raise ValueError(
            f"source {name!r} needs observations of integers, the env has {printable(space)}: use source 'ppo'"
        )
    low = np.asarray(getattr(space, "low", getattr(space, "start", 0)), np.int64)
    # `n` is the number of values of a Discrete, but the number of entries (0 or 1) of a MultiBinary
    counted: Any = getattr(space, "n", None) if space.shape == () else None
    count = counted or getattr(space, "nvec", getattr(space, "high", 1) - low + 1)
    sizes = [int(size) for size in np.broadcast_to(count, space.shape or ()).reshape(-1)]
    if (states := math.prod(sizes)) > MAX_STATES:
        raise ValueError(
            f"source {name!r} holds {MAX_STATES} observations, {printable(space)} has more: use source 'ppo'"
        )
    strides = np.array([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], np.int64)
    return states, lambda obs: (obs - low).reshape(len(obs), -1) @ strides
