"""Flat observations of environments with Dict or Tuple observations."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, TransformObservation

from icrl_envs.base.checks import short


def flat_env(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return `env` with its Dict or Tuple observations as float32 vectors, in the order of `gymnasium.spaces.flatten`.

    Discrete parts become one-hot vectors, nested parts are flattened too. Other environments are returned as they are.

    Raises:
        ValueError: actions are a Dict or Tuple, or a part of an observation has no fixed size.
    """
    if isinstance(env.action_space, spaces.Dict | spaces.Tuple):
        raise ValueError(f"actions of {short(env.action_space)}: give one array, such as a Box, by an ActionWrapper.")
    if not isinstance(env.observation_space, spaces.Dict | spaces.Tuple):
        return env
    if not env.observation_space.is_np_flattenable:
        shown = short(env.observation_space)
        raise ValueError(f"observations of {shown} have parts without a fixed size: remove them.")
    flat: Any = FlattenObservation(env)
    low, high = (bound.astype(np.float32) for bound in (flat.observation_space.low, flat.observation_space.high))
    return TransformObservation(flat, np.float32, spaces.Box(low, high, dtype=np.float32))
