"""Legal-action masks as an environment tells them. Axis letters: B rows, A actions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from icrl_agents.core.families import Capability, env_family


def legal_actions(env: Any) -> np.ndarray | None:
    """Which actions are legal in the rows of an env that was reset, (B, A) bool; None if all are, or it does not say.

    Read off its `action_mask()`, as single environments or vector environments have it.

    Raises:
        ResetNeeded: the env has action sets, but no task yet.
    """
    inner = env.unwrapped
    if not tells_actions(env):
        return None
    mask = np.atleast_2d(inner.action_mask()) if _tells(inner) else np.stack(inner.call("action_mask"))
    return None if mask.all() else mask.astype(bool)


def tells_actions(env: Any) -> bool:
    """Whether an env says which actions are legal: it has an `action_mask()`, or its rows do."""
    family, inner = env_family(env), env.unwrapped
    if family is not None:
        return family.offers(Capability.ACTION_MASKS)
    return _tells(inner) or (isinstance(inner, SyncVectorEnv | AsyncVectorEnv) and _rows_tell(inner))


def _tells(env: Any) -> bool:
    """Whether it has an `action_mask()` of its tasks; one that takes a state, as Taxi's, is something else."""
    told = getattr(env, "action_mask", None)
    if not callable(told):
        return False
    try:
        inspect.signature(told).bind()
    except TypeError:
        return False
    return True


def _rows_tell(env: SyncVectorEnv | AsyncVectorEnv) -> bool:
    """Whether its environments have an `action_mask()`; those in other processes cannot be asked, so one is made."""
    if isinstance(env, SyncVectorEnv):
        return all(_tells(row.unwrapped) for row in env.envs)
    row = env.env_fns[0]()
    tells = _tells(row.unwrapped)
    row.close()
    return tells
