"""Lifetimes whose task changes, or pays nothing at first, up to some episode. Axis letters: B rows, T steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from icrl_agents.core.families import Capability, TaskRows, find_family, is_native, make_tasks
from icrl_agents.core.steps import Steps

CHANGED = "task_changed"  # extra column (B, T) bool of lifetimes whose task may change: it has changed
NEVER = 1 << 30  # number of episodes after which no task changes


class ChangingTasks(VectorWrapper):
    """Vector environment whose row i has the task `first[i]` for `after[i]` episodes, and then `later[i]`.

    Nothing tells the change but the rewards.

    Args:
        env: native rows of a family, which leave the resets of ended episodes to the caller (DISABLED).
        first, later: (B,) task ids.
        after: (B,) number of episodes, `NEVER` for rows that stay.
        silent: (B,) bool, rows whose rewards are 0 for these episodes.
    """

    def __init__(self, env: VectorEnv, first: np.ndarray, later: np.ndarray, after: np.ndarray, silent: np.ndarray):
        super().__init__(env)
        self._first, self._later, self.after, self.silent = first, later, after, silent
        self._episode = np.zeros(env.num_envs, np.int64)  # (B,) number of the running episode

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode in the rows `options["reset_mask"]`, or without it new lifetimes in all rows."""
        mask = (options or {}).get("reset_mask")
        self._episode = np.zeros_like(self.after) if mask is None else self._episode + np.asarray(mask, bool)
        task = np.where(self._episode < self.after, self._first, self._later)
        return super().reset(seed=seed, options={**(options or {}), "task": task})

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, *ends, info = super().step(actions)
        return obs, np.where(self.silent & (self._episode < self.after), 0.0, reward), *ends, info


def with_changes(steps: Steps, rows: ChangingTasks) -> Steps:
    """NumPy steps (B, T) of whole lifetimes in `rows` with the column `CHANGED`."""
    moved = ~rows.silent[:, None] & (steps.first.cumsum(1) > np.asarray(rows.after)[:, None])  # (B, T)
    return steps._replace(extras={**steps.extras, CHANGED: moved})


def make_changing_tasks(
    env_id: str, first: np.ndarray, later: np.ndarray, after: np.ndarray, silent: np.ndarray | None = None
) -> TaskRows:
    """`make_tasks` for rows whose task changes, see `ChangingTasks`, in autoreset mode DISABLED.

    Raises:
        ValueError: the family is not one of array rules, or its tasks differ in their legal actions.
    """
    family = find_family(env_id)
    if not is_native(family) or family.offers(Capability.ACTION_MASKS):
        why = "tasks differ in their actions" if is_native(family) else "rows are environments that keep their task"
        raise ValueError(f"the task of {env_id} cannot change within a lifetime ({why}): leave changes and late out")
    rows = make_tasks(env_id, first, AutoresetMode.DISABLED)
    silent = np.zeros(len(first), bool) if silent is None else silent
    env = ChangingTasks(rows.env, np.asarray(first), np.asarray(later), np.asarray(after), np.asarray(silent))
    return TaskRows(env, rows.options)


def draw_changes(
    tasks: np.ndarray,
    share: float,
    episodes: int,
    rng: np.random.Generator,
    pool: np.ndarray | None = None,
    late: float = 0.0,
) -> dict[str, np.ndarray]:
    """Arguments of `make_changing_tasks`: a `share` of the rows `tasks` (B,) gets another task after some episode.

    Args:
        pool: ids of the tasks that rows may get, each another one than its own; None: those of the rows.
        late: share of the rows that keep their task, which pays nothing before some episode.

    Raises:
        ValueError: there is one episode, or one task only for rows that shall get another.
    """
    count = len(np.unique(tasks if pool is None else pool))
    if episodes < 2 or (share and count < 2):
        given = f"changes={share}" if share else f"late={late}"
        raise ValueError(
            f"{given} with {count} tasks at a time and lifetimes of {episodes} episodes: it takes two or more "
            f"{'of both' if share else 'episodes'}, so leave it out"
        )
    kind = rng.random(len(tasks))  # (B,) below `share`: another task; from there to `share + late`: a silent beginning
    after = np.where(kind < share + late, rng.integers(1, episodes, len(tasks)), NEVER)
    silent = (kind >= share) & (kind < share + late)
    others = _other(tasks, np.unique(tasks if pool is None else pool), rng) if share else tasks
    return {"first": tasks, "later": np.where(silent, tasks, others), "after": after, "silent": silent}


def _other(tasks: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tasks (B,) of the sorted `pool`, drawn uniformly from those that differ from `tasks` (B,)."""
    place = np.searchsorted(pool, tasks)
    inside = pool[np.minimum(place, len(pool) - 1)] == tasks
    drawn = rng.integers(0, len(pool) - inside)
    return pool[drawn + (inside & (drawn >= place))]
