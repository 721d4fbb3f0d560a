"""Legal-action masks: which actions are available in each row. Axis letters: B rows, A actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK, Steps, holds_actions

MAX_ACTIONS = 4096  # largest action set in a `reset` argument, and for methods with one vector per action


def read_action_set(action_set: Any, num_actions: Any, rows: int, most: int | None) -> np.ndarray | None:
    """Legal-action mask (B, A) bool of `rows` rows from the arguments of `reset`; None if both are None.

    Args:
        action_set: legal action indices, such as [0, 3, 7], or a mask (A,) or (B, A) of bool, or of int8 as Gymnasium's
            masks.
        num_actions: the actions 0..num_actions - 1 are legal; one number, or one per row (B,).
        most: A of the agent's action space; None: A follows from the arguments.

    Raises:
        ValueError: both arguments are given, one is malformed, or a row has no legal action.
    """
    if action_set is None and num_actions is None:
        return None
    if action_set is not None and num_actions is not None:
        raise ValueError("action_set and num_actions describe the same: give one of them")
    mask = _counted(num_actions, rows, most) if action_set is None else _listed(action_set, rows, most)
    if not mask.any(1).all():
        raise ValueError(f"row {int((~mask.any(1)).argmax())} has no legal action: give each row one or more")
    return mask


def _counted(num_actions: Any, rows: int, most: int | None) -> np.ndarray:
    """Legal-action mask (B, A) of the actions 0 to `num_actions` - 1."""
    count = np.asarray(num_actions)
    top = MAX_ACTIONS if most is None else most
    if count.dtype.kind not in "iu" or count.shape not in ((), (rows,)) or count.min() < 1 or count.max() > top:
        raise ValueError(
            f"num_actions={printable(num_actions)}: give a whole number from 1 to {top}, or {rows} of them"
        )
    return np.arange(most or count.max()) < np.broadcast_to(count, rows)[:, None]


def _listed(action_set: Any, rows: int, most: int | None) -> np.ndarray:
    """Legal-action mask (B, A) of a mask (A,) or (B, A), or of action numbers."""
    try:
        given = np.atleast_1d(list(action_set) if isinstance(action_set, set | frozenset) else action_set)
    except ValueError:  # ragged
        given = np.empty(0)
    count = given.shape[-1]
    top = MAX_ACTIONS if most is None else most
    one_per_action = 0 < count <= top and most in (None, count)  # as a mask has
    if one_per_action and given.dtype == np.int8 and given.size and given.min() >= 0 and given.max() <= 1:
        given = given.astype(bool)  # a mask as Gymnasium writes it; other integers are action numbers
    if one_per_action and given.dtype == bool and given.shape in ((count,), (rows, count)):
        return np.broadcast_to(given, (rows, count)).copy()
    if given.dtype.kind in "iu" and given.ndim == 1 and len(given) and _numbers(given, top):
        mask = np.zeros((rows, most or int(given.max()) + 1), bool)
        mask[:, given] = True
        return mask
    raise ValueError(
        f"action_set={printable(action_set)}: give different actions from 0 to {top - 1}, such as [0, 2, 5], "
        f"or bools of shape ({most or 'A'},) or ({rows}, {most or 'A'})"
    )


def _numbers(given: np.ndarray, top: int) -> bool:
    """Whether the entries are distinct actions below `top`; repeated entries suggest a mask of integers."""
    return given.min() >= 0 and given.max() < top and len(np.unique(given)) == len(given)


def widened(legal: np.ndarray | None, history: Steps) -> np.ndarray | None:
    """Legal-action mask (B, A) padded to cover all actions of a history, which may be illegal now."""
    return legal if legal is None else padded(legal, actions_in(history))


def padded(legal: np.ndarray, count: int) -> np.ndarray:
    """Legal-action mask (B, A) padded with False to `count` or more columns."""
    return np.pad(legal, ((0, 0), (0, max(0, count - legal.shape[1]))))


def actions_in(history: Steps) -> int:
    """Number of actions that a history spans: its highest action plus 1, `prev_action` included."""
    before = history.prev_action[history.mask & ~history.start]
    return 1 + int(np.concatenate([history.action[history.mask], before, [-1]]).max())


def check_given(steps: Steps, options: int | None, where: str) -> None:
    """Refuse (ValueError) NumPy steps whose action masks are malformed, or whose actions are illegal.

    Args:
        options: `Codec.options` of the actions: their number, None for any number, 0 for spaces without masks.
        where: subject of the error message.
    """
    if ACTION_MASK not in steps.static:
        return
    mask, rows = np.asarray(steps.static[ACTION_MASK]), len(steps.mask)
    width = mask.shape[-1] if options is None and mask.ndim else options
    if options == 0 or mask.dtype != bool or mask.shape != (rows, width) or not mask.any(1).all():
        raise ValueError(
            f"{where}: action_mask is {mask.dtype} {mask.shape}, expected bool ({rows}, {width}) with a legal "
            "action in each row; collect them again"
        )
    check_legal(steps, where)


def check_legal(steps: Steps, where: str = "the histories") -> None:
    """Refuse (ValueError) NumPy steps with an illegal action: its log-probability would be -inf."""
    if ACTION_MASK not in steps.static:
        return
    mask, rows = steps.static[ACTION_MASK], np.arange(len(steps.mask))[:, None]
    others = {name: value for name, value in steps.extras.items() if holds_actions(name)}
    for name, action in {"action": steps.action, **others}.items():
        illegal = steps.mask & ~mask[rows, np.where(steps.mask, action, 0)]  # (B, T)
        if illegal.any():
            row = int(illegal.any(1).argmax())
            raise ValueError(
                f"{where}: {name} {action[row][illegal[row]][0]} in a task with the actions "
                f"{printable(np.flatnonzero(mask[row]))}: make them with a source that keeps to action sets"
            )


def choose_any(allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform sample (B,) from the `allowed` (B, A) bool actions of each row."""
    return np.where(allowed, rng.random(allowed.shape), -1.0).argmax(1)
