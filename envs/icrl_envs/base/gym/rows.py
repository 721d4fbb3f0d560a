"""Vector environments whose rows are on different tasks of one Gymnasium id. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from icrl_envs.base.checked_row import CheckedRow
from icrl_envs.base.checks import short

SYNC, ASYNC, OWN = "sync", "async", "vector_entry_point"
VECTORIZATIONS = (SYNC, ASYNC, OWN)
MAX_PROCESSES = 128  # rows of an asynchronous vector environment, a process each


class Row:
    """Makes one row, in this process or in another, where the id may not be registered yet."""

    def __init__(self, make: Callable[[], gymnasium.Env], spec: EnvSpec):
        self.make, self.spec = make, spec

    def __call__(self) -> gymnasium.Env:
        """Make the environment."""
        gymnasium.registry.setdefault(self.spec.id, self.spec)
        return CheckedRow(self.make())


def single_rows(
    makes: Sequence[Callable[[], gymnasium.Env]], env_id: str, mode: AutoresetMode, processes: bool = False
) -> VectorEnv:
    """Return a vector environment of single ones, in this process or in one process each; ValueError for too many."""
    spec = gymnasium.spec(env_id)
    rows = [Row(make, spec) for make in makes]
    if processes and len(rows) > MAX_PROCESSES:
        raise ValueError(
            f"{len(rows)} rows of {env_id} need a process each, at most {MAX_PROCESSES} are started: lower the number "
            "of rows (batch_size, streams), or register the family with vectorization='sync'."
        )
    try:
        env: VectorEnv = (AsyncVectorEnv if processes else SyncVectorEnv)(rows, autoreset_mode=mode)
    except (AssertionError, RuntimeError) as error:
        why, fix = short(str(error), 160), "give tasks whose environments have the same observations and actions"
        raise ValueError(f"tasks of {env_id} cannot run side by side, {why}: {fix}.") from error
    env.spec = spec  # names the family of the rows, which may be in other processes
    return env


def own_rows(env_id: str, tasks: Sequence[dict[str, Any]], mode: AutoresetMode, limit: dict[str, Any]) -> VectorEnv:
    """Return `make_vec(env_id, B, tasks=[...])` of the id's own `vector_entry_point`; ValueError if it cannot be made.

    The entry point is called with `num_envs`, `tasks` (B dicts), `autoreset_mode` and `max_episode_steps`. Row i stays
    on `tasks[i]` in all its episodes, and the time limit is the entry point's own to keep.
    """
    ways = {"vectorization_mode": OWN, "autoreset_mode": mode, **limit}
    try:
        env = gymnasium.make_vec(env_id, num_envs=len(tasks), tasks=list(tasks), **ways)
    except Exception as error:
        why = short(f"{type(error).__name__}: {error}", 160)
        fix = "let it take num_envs, tasks, autoreset_mode and max_episode_steps, or declare vectorization='sync'"
        raise ValueError(f"the vector_entry_point of {env_id} failed with {why}: {fix}.") from error
    if env.num_envs != len(tasks):
        raise ValueError(f"the vector_entry_point of {env_id} made {env.num_envs} rows of {len(tasks)}: heed num_envs.")
    return env
