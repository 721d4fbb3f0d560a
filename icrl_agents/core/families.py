"""Access to task families; no other file reads the registry. Axis letters: N tasks, A actions."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gymnasium
import icrl_envs
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from icrl_envs import Capability, Family, Rules, TaskSet, env_family, register_family

from icrl_agents.core.checks import check_known
from icrl_agents.core.spaces import num_actions

__all__ = [
    "Capability",
    "Family",
    "Rules",
    "TaskRows",
    "TaskSet",
    "all_families",
    "env_family",
    "find_family",
    "is_family",
    "legal_mask",
    "make_tasks",
    "register_family",
]


def find_family(env_id: str) -> Family:
    """Task family registered under an environment id.

    Raises:
        ValueError: the id is not registered; the message names the nearest one.
    """
    check_known([env_id], icrl_envs.FAMILIES, "environment id")
    return icrl_envs.FAMILIES[env_id].family


def is_family(env_id: Any) -> bool:
    """Whether a task family is registered under `env_id`; the value may come from an untrusted file."""
    return isinstance(env_id, str) and env_id in icrl_envs.FAMILIES


def all_families() -> list[Family]:
    """All registered task families, in order of registration."""
    return [tasks.family for tasks in icrl_envs.FAMILIES.values()]


class TaskRows(NamedTuple):
    """A vector environment, and the options of its first reset, after which row i is on the i-th task."""

    env: VectorEnv
    options: dict[str, Any] | None


def make_tasks(env_id: str, tasks: Any) -> TaskRows:
    """A vector environment with one row for each task id of `tasks` (B,), repeats allowed.

    Families of array rules run natively; of others every row is an environment of its own, in this process, that
    resets in the step that ends its episode (SAME_STEP), as native ones do.
    """
    family, ids = find_family(env_id), np.asarray(tasks, np.int64)
    if isinstance(family, Rules):
        return TaskRows(gymnasium.make_vec(env_id, num_envs=len(ids)), {"task": ids})
    rows = [partial(_flat_row, env_id, **family.task_kwargs(int(task))) for task in ids]
    return TaskRows(SyncVectorEnv(rows, autoreset_mode=AutoresetMode.SAME_STEP), None)


def _flat_row(env_id: str, **kwargs: Any) -> gymnasium.Env:
    return icrl_envs.flat_env(gymnasium.make(env_id, **kwargs))


def legal_mask(family: Family, tasks: Any) -> np.ndarray:
    """Legal-action masks (N, A) bool of the tasks (N,); all True in a family without action masks.

    A is 0 in an action space other than Discrete(n) with start 0.
    """
    ids = np.asarray(tasks, np.int64)
    if family.offers(Capability.ACTION_MASKS):
        return family.action_mask(ids).astype(bool)
    return np.ones((len(ids), num_actions(family.action_space)), bool)
