"""Legal-action masks read from an environment's `action_mask()`. Axis letters: B rows, A actions."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from icrl_agents.core.families import Capability, Rules, env_family


@runtime_checkable
class MaskedEnv(Protocol):
    """An environment that is no registered family and says which actions are legal."""

    def action_mask(self) -> np.ndarray:
        """The legal actions (A,) or (B, A) of the current tasks."""


def legal_actions(env: Any) -> np.ndarray | None:
    """Legal-action mask (B, A) bool of a single or vector env after its reset.

    None where all actions are legal or the env has no `action_mask()`.

    Raises:
        ResetNeeded: the env has action masks but was not reset, so it has no task yet.
    """
    inner = env.unwrapped
    if not has_action_masks(env):
        return None
    mask = np.atleast_2d(inner.action_mask()) if _has_task_mask(inner) else np.stack(inner.call("action_mask"))
    return None if mask.all() else mask.astype(bool)


def has_action_masks(env: Any) -> bool:
    """Whether an env, or each row of a vector env, has an `action_mask()`."""
    family, inner = env_family(env), env.unwrapped
    declared = family is not None and family.offers(Capability.ACTION_MASKS)
    if declared or isinstance(family, Rules):
        return declared
    return _has_task_mask(inner) or (isinstance(inner, SyncVectorEnv | AsyncVectorEnv) and _rows_have_mask(inner))


def _has_task_mask(env: Any) -> bool:
    """Whether `action_mask()` takes no argument; Taxi's takes a state and depends on it, not on the task."""
    if not isinstance(env, MaskedEnv):
        return False
    try:
        inspect.signature(env.action_mask).bind()
    except TypeError:
        return False
    return True


def _rows_have_mask(env: SyncVectorEnv | AsyncVectorEnv) -> bool:
    """Whether the rows have an `action_mask()`; rows in worker processes are not inspectable, so build one here."""
    if isinstance(env, SyncVectorEnv):
        return all(_has_task_mask(row.unwrapped) for row in env.envs)
    row = env.env_fns[0]()
    found = _has_task_mask(row.unwrapped)
    row.close()
    return found
