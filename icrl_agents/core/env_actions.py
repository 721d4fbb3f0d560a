"""Legal-action masks read from an environment's `action_mask()`. Axis letters: B rows, A actions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from icrl_agents.core.families import Capability, env_family


def legal_actions(env: Any) -> np.ndarray | None:
    """Legal-action mask (B, A) bool of a single or vector env after its reset.

    None where all actions are legal or the env has no `action_mask()`.

    Raises:
        ResetNeeded: the env has action masks but was not reset, so it has no task yet.
    """
    inner = env.unwrapped
    if not tells_actions(env):
        return None
    mask = np.atleast_2d(inner.action_mask()) if _tells(inner) else np.stack(inner.call("action_mask"))
    return None if mask.all() else mask.astype(bool)


def tells_actions(env: Any) -> bool:
    """Whether an env, or each row of a vector env, has an `action_mask()`."""
    family, inner = env_family(env), env.unwrapped
    if family is not None:
        return family.offers(Capability.ACTION_MASKS)
    return _tells(inner) or (isinstance(inner, SyncVectorEnv | AsyncVectorEnv) and _rows_tell(inner))


def _tells(env: Any) -> bool:
    """Whether `action_mask()` takes no argument; Taxi's takes a state and depends on it, not on the task."""
    told = getattr(env, "action_mask", None)
    if not callable(told):
        return False
    try:
        inspect.signature(told).bind()
    except TypeError:
        return False
    return True


def _rows_tell(env: SyncVectorEnv | AsyncVectorEnv) -> bool:
    """Whether the rows have an `action_mask()`; rows in worker processes are not inspectable, so build one here."""
    if isinstance(env, SyncVectorEnv):
        return all(_tells(row.unwrapped) for row in env.envs)
    row = env.env_fns[0]()
    tells = _tells(row.unwrapped)
    row.close()
    return tells
