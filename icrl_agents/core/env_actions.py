"""Legal-action masks read from an environment's `action_mask()`. Axis letters: B rows, A actions."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from icrl_agents.core.arrays import to_array
from icrl_agents.core.families import Capability, Rules, env_family
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import num_actions


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
        ValueError: what `action_mask()` returns is no mask of the env's actions.
    """
    inner = env.unwrapped
    if not has_action_masks(env):
        return None
    given = inner.action_mask() if _has_task_mask(inner) else inner.call("action_mask")
    if isinstance(env, VectorEnv):
        return read_mask(given, env.num_envs, env.single_action_space)
    return read_mask(given, 1, env.action_space)


def read_mask(given: Any, rows: int, space: gymnasium.Space) -> np.ndarray | None:
    """Legal-action mask (B, A) bool from what `action_mask()` returned, (A,) or (B, A); None: all actions are legal.

    Args:
        space: action space of one row.

    Raises:
        ValueError: another shape, a value besides 0 and 1, or a row without a legal action.
    """
    array, actions = to_array(given, "the env's action_mask()"), num_actions(space)
    shapes = ((actions,), (rows, actions))
    binary = array.dtype.kind in "biuf" and bool(((array == 0) | (array == 1)).all())
    if binary and not actions and array.all():
        return None
    if not actions:
        raise ValueError(f"the env has an action_mask() and actions {printable(space, 60)}: masks are for Discrete(n)")
    if not binary or array.shape not in shapes:
        raise ValueError(
            f"the env's action_mask() is {printable(given, 60)} of shape {array.shape}, expected 0 or 1 for each "
            f"action, {shapes[0]} or {shapes[1]}: check the env"
        )
    mask = np.broadcast_to(array.astype(bool), shapes[1])
    if not mask.any(1).all():
        row = int((~mask.any(1)).argmax())
        raise ValueError(f"row {row} has no legal action in the env's action_mask(): check the env")
    return None if mask.all() else mask.copy()


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
