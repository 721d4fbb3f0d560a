"""Lifetimes whose task changes: rows that go on with another task after some episodes. Axis letter: B rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from icrl_agents.core.families import Capability, TaskRows, find_family, is_native, make_tasks
from icrl_agents.core.steps import CHANGED, Steps

NEVER = 1 << 30  # number of episodes after which no task changes


class ChangingTasks(VectorWrapper):
    """Vector environment whose row i has the task `first[i]` for `after[i]` episodes, and then `later[i]`.

    Nothing tells the change but the rewards. Args:
        env: native rows of a family, which leave the resets of ended episodes to the caller (DISABLED).
        first, later: (B,) task ids.
        after: (B,) number of episodes, `NEVER` for rows that stay.
    """

    def __init__(self, env: VectorEnv, first: np.ndarray, later: np.ndarray, after: np.ndarray):
        super().__init__(env)
        self._first, self._later, self.after = first, later, after
        self._episode = np.zeros(env.num_envs, np.int64)  # (B,) number of the running episode

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode in the rows `options["reset_mask"]`, or without it new lifetimes in all rows."""
        mask = (options or {}).get("reset_mask")
        self._episode = np.zeros_like(self.after) if mask is None else self._episode + np.asarray(mask, bool)
        task = np.where(self._episode < self.after, self._first, self._later)
        return super().reset(seed=seed, options={**(options or {}), "task": task})


def with_changes(steps: Steps, after: np.ndarray) -> Steps:
    """NumPy steps (B, T) of whole lifetimes with the column `CHANGED`: the task is another than at the start."""
    return steps._replace(extras={**steps.extras, CHANGED: steps.first.cumsum(1) > np.asarray(after)[:, None]})


def make_changing_tasks(env_id: str, first: np.ndarray, later: np.ndarray, after: np.ndarray) -> TaskRows:
    """`make_tasks` for rows whose task changes, see `ChangingTasks`, in autoreset mode DISABLED.

    Raises:
        ValueError: the family is not one of array rules, or its tasks differ in their legal actions.
    """
    family = find_family(env_id)
    if not is_native(family) or family.offers(Capability.ACTION_MASKS):
        why = "tasks differ in their actions" if is_native(family) else "rows are environments that keep their task"
        raise ValueError(f"the task of {env_id} cannot change within a lifetime ({why}): leave changes out")
    rows = make_tasks(env_id, first, AutoresetMode.DISABLED)
    return TaskRows(ChangingTasks(rows.env, np.asarray(first), np.asarray(later), np.asarray(after)), rows.options)


def draw_changes(
    tasks: np.ndarray, share: float, episodes: int, rng: np.random.Generator, pool: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Arguments of `make_changing_tasks`: a `share` of the rows `tasks` (B,) gets another task after some episode.

    Args:
        pool: ids of the tasks that rows may get; None: those of the other rows.

    Raises:
        ValueError: there is one task only, or one episode.
    """
    count = len(np.unique(tasks if pool is None else pool))
    if count < 2 or episodes < 2:
        raise ValueError(
            f"changes={share} with {count} tasks at a time and lifetimes of {episodes} episodes: it "
            "takes two or more of both, so leave changes out"
        )
    change = rng.random(len(tasks)) < share
    after = np.where(change, rng.integers(1, episodes, len(tasks)), NEVER)
    later = rng.permutation(tasks) if pool is None else rng.choice(pool, len(tasks))
    return {"first": tasks, "later": later, "after": after}
