"""Legal-action masks of an agent's rows, from the arguments of `reset`, else the env, else a history.

Axis letters: B rows, A actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import VectorEnv

from icrl_agents.core.action_masks import padded, read_action_set, widened
from icrl_agents.core.env_actions import has_action_masks, legal_actions
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method

Env = gymnasium.Env | VectorEnv


class ActionSets(NamedTuple):
    """Legal-action masks of a session, and the env from which the masks of new tasks are read."""

    mask: np.ndarray | None  # (B, A) bool; None: all actions are legal
    env: Env | None = None  # env with an `action_mask()`; None: the mask has another source

    @classmethod
    def of(
        cls, method: Method, rows: int, asked: np.ndarray | None, env: Env | None, history: Steps | None
    ) -> ActionSets:
        """Action sets of a new session: the mask `asked` (B, A) for, else that of the env, else that of the history.

        The history's mask is only used without an env.
        """
        if env is not None and asked is None:
            mask, source = from_env(method, env, rows), env if has_action_masks(env) else None
        else:
            mask, source = asked, None
        if mask is None and env is None and history is not None:
            mask = from_history(method, history, rows)
        return cls(mask, source)

    def widened(self, history: Steps) -> ActionSets:
        return self._replace(mask=widened(self.mask, history))


def from_arguments(method: Method, action_set: Any, num_actions: Any, rows: int) -> np.ndarray | None:
    """Legal-action mask (B, A) given to `reset`, or None."""
    if (action_set is not None or num_actions is not None) and method.action.options == 0:
        raise ValueError(
            f"action_set and num_actions are about actions 0, 1, ...; {printable(method.action_space)} has others"
        )
    return read_action_set(action_set, num_actions, rows, method.action.options)


def from_env(method: Method, env: Env, rows: int) -> np.ndarray | None:
    """Legal-action mask (B, A) of an env that was reset; None if all actions of the method are legal."""
    space: Any = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    try:
        mask = legal_actions(env)
    except ResetNeeded:
        raise ResetNeeded("the env has action sets but no task yet: call env.reset() before agent.reset(env)") from None
    if mask is None and space != method.action_space:  # variable actions: the size of the env's space is the set
        return np.ones((rows, space.n), bool)
    return mask


def from_history(method: Method, history: Steps, rows: int) -> np.ndarray | None:
    """Legal-action mask (B, A) of recorded steps, or None."""
    mask = history.static.get(ACTION_MASK)
    if mask is None or method.action.options == 0:
        return None
    found, actions = np.asarray(mask), method.action.options
    if found.dtype != bool or found.ndim != 2 or len(found) != rows or found.shape[1] != (actions or found.shape[1]):
        raise ValueError(
            f"the history's action_mask has dtype {found.dtype} and shape {found.shape}, expected bool "
            f"({rows}, {actions or 'A'}): give action_set or num_actions instead"
        )
    return from_arguments(method, found, None, rows)


def of_new_tasks(method: Method, asked: np.ndarray | None, rows: int, env: Env | None) -> np.ndarray | None:
    """Legal-action mask (B, A) for rows that begin new tasks; None: unchanged."""
    if asked is not None or env is None:
        return asked
    space: Any = method.action_space
    mask = from_env(method, env, rows)
    return np.ones((rows, space.n), bool) if mask is None else mask


def redraw(
    method: Method, context: Context, index: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
) -> None:
    """Draw the static values of new lifetimes in the rows `index`, with `mask` (B, A), or the current one if None.

    Raises:
        ValueError: the mask has another number of actions than the static values of the other rows.
    """
    steps = context.steps
    static = {name: value.copy() for name, value in steps.static.items()}
    if mask is not None and ACTION_MASK not in static:  # no mask so far: all actions were legal in all rows
        static[ACTION_MASK] = np.ones_like(mask)
    held = static.get(ACTION_MASK)
    if mask is not None:
        held = padded(mask, static[ACTION_MASK].shape[1])
    new = method.draw_static(len(index), None if held is None else held[index], rng)
    if any(name not in static or static[name].shape[1:] != value.shape[1:] for name, value in new.items()):
        raise ValueError(
            "reset(mask=...) cannot bring sets among another number of actions: reset() all rows with them"
        )
    for name, value in new.items():
        static[name][index] = value
    context.steps = steps._replace(static=static)
