"""Access to task families; no other file reads the registry. Axis letters: N tasks, A actions."""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import gymnasium
import icrl_envs
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from icrl_envs import Capability, Family, Registration, Rules, TaskSet, env_family, register_family, restore

from icrl_agents.core.checks import check_known
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import num_actions

__all__ = [
    "Capability",
    "Family",
    "Registration",
    "Rules",
    "TaskRows",
    "TaskSet",
    "all_families",
    "check_same_tasks",
    "check_tasks",
    "checksum_of",
    "define",
    "env_family",
    "env_spaces",
    "find_family",
    "is_family",
    "is_native",
    "legal_mask",
    "make_tasks",
    "register_family",
    "restore",
    "restore_family",
    "sendable",
    "tasks_checksum",
]


def find_family(env_id: str) -> Family:
    """Task family registered under an environment id.

    Raises:
        ValueError: the id is not registered; the message names the nearest one, or how to register it.
    """
    if not is_family(env_id) and env_id in gymnasium.registry:
        raise ValueError(
            f"{env_id} is a Gymnasium environment without tasks: call icrl_envs.register_family('{env_id}', tasks) in "
            "the module of --env MODULE:ID, or give --tasks FILE.toml"
        )
    check_known([env_id], icrl_envs.FAMILIES, "environment id")
    return icrl_envs.FAMILIES[env_id].family


def env_spaces(env_id: str) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Observation and action space of a single environment."""
    family = find_family(env_id)
    return family.observation_space, family.action_space


def check_tasks(env_id: str, tasks: Any) -> list[int]:
    """Ids as ints; ValueError unless all are whole numbers (2.9 and True are not), tasks of the id, each given once.

    Tasks that this process added to a family are not among them: other processes do not know those.
    """
    known = find_family(env_id).set_tasks
    rule = f"give a list of whole numbers within 0..{known - 1}, such as a task set's ids"
    try:
        given = [] if isinstance(tasks, Mapping) else list(tasks)
        ids = [operator.index(task) for task in given if not isinstance(task, bool | np.bool_)]
    except TypeError:
        ids = given = []
    if not ids or len(ids) != len(given):
        raise ValueError(f"tasks={str(tasks)[:80]!r} are not task ids: {rule}")
    if len(set(ids)) < len(ids):
        raise ValueError(f"tasks has {len(ids)} ids, {len(set(ids))} of them different: give each id once")
    if strange := [task for task in ids if not 0 <= task < known]:
        raise ValueError(f"tasks has {strange[0]}, which is no task of {env_id}: {rule}")
    return ids


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


def make_tasks(env_id: str, tasks: Any, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> TaskRows:
    """A vector environment with one row for each task id of `tasks` (B,), repeats allowed.

    Families of array rules run natively; of others every row is an environment of its own, in this process unless the
    family says otherwise. Episodes are reset in the step that ends them (SAME_STEP), whatever Gymnasium's default is.

    Raises:
        ValueError: the id is not registered, or the family cannot run as many rows.
    """
    return TaskRows(*find_family(env_id).make_rows(np.asarray(tasks, np.int64), autoreset_mode))


def is_native(family: Family) -> bool:
    """Whether rows of the family are stepped together, at a small part of the cost of environments of their own."""
    return isinstance(family, Rules)


def legal_mask(family: Family, tasks: Any) -> np.ndarray:
    """Legal-action masks (N, A) bool of the tasks (N,); all True in a family without action masks.

    A is 0 in an action space other than Discrete(n) with start 0.
    """
    ids = np.asarray(tasks, np.int64)
    if family.offers(Capability.ACTION_MASKS):
        return family.action_mask(ids).astype(bool)
    return np.ones((len(ids), num_actions(family.action_space)), bool)


# ---- families of a user -----------------------------------------------------------------------------------------

MAX_DEFINITION = 1 << 18  # bytes of the tasks in an agent's facts; longer lists are recorded by their checksum


def define(env_id: str) -> dict[str, Any]:
    """Facts of an agent or store that say which tasks the family has: {} for one that is defined by code.

    The tasks themselves are left out if they take more than `MAX_DEFINITION` bytes.
    """
    found = find_family(env_id).definition if is_family(env_id) else None
    if found is None:
        return {}
    if len(json.dumps(found)) > MAX_DEFINITION:
        found = {name: value for name, value in found.items() if name not in ("tasks", "test_tasks")}
    return {"family": found}


def tasks_checksum(env_id: str) -> str | None:
    """Checksum of the tasks of a family and of their split; None for one that is defined by code or unknown."""
    return find_family(env_id).checksum if is_family(env_id) else None


def checksum_of(facts: Mapping[str, Any]) -> str | None:
    """Checksum of the tasks in what `define` recorded; None without one. The facts may be from an untrusted file."""
    family = facts.get("family")
    found = family.get("checksum") if isinstance(family, Mapping) else None
    return found if isinstance(found, str) else None


def check_same_tasks(env_id: str, facts: Mapping[str, Any], what: str) -> None:
    """Refuse (ValueError) facts of other tasks or another split than the family registered as `env_id`.

    Args:
        facts: of an agent or store on the same id; those without a checksum pass.
        what: what the facts belong to, for the message, such as "the agent was trained".
    """
    theirs, ours = checksum_of(facts), tasks_checksum(env_id)
    if theirs is not None and ours is not None and theirs != ours:
        raise ValueError(
            f"{what} on other tasks of {env_id} (checksum {theirs[:8]!r}) than those that are registered "
            f"({ours[:8]!r}), so tasks it has seen would pass for held out: give the tasks of its training, or leave "
            "--tasks out"
        )


def restore_family(env_id: str, facts: Mapping[str, Any]) -> None:
    """Register the family that `define` recorded in the facts of a checkpoint, for an id known to Gymnasium.

    Raises:
        ValueError: the id is not registered with Gymnasium, or the facts do not say all that it takes.
    """
    shown = printable(env_id)
    family = facts.get("family")
    if env_id not in gymnasium.registry:
        raise ValueError(f"the environment {shown} is not registered: give --env MODULE:{shown}, the module that does")
    if not isinstance(family, Mapping) or not isinstance(family.get("tasks"), list):
        raise ValueError(f"{shown} has no tasks here and the agent does not hold them: give --tasks FILE.toml")
    if ":" in str(way := family.get("pass_task", "")):
        raise ValueError(
            f"tasks of {shown} are set by the function {printable(way)}: give --env MODULE:{shown}, a module that "
            "calls icrl_envs.register_family"
        )
    try:
        register_family(env_id, **{str(name): value for name, value in family.items() if name != "checksum"})
    except TypeError as error:
        raise ValueError(f"the agent's record of the tasks of {shown} is damaged: {printable(error)}") from None


def sendable(env_ids: Iterable[str]) -> list[Registration]:
    """What worker processes need to know families that are not the package's.

    Raises:
        ValueError: a family cannot be sent to another process, such as one with a lambda.
    """
    found = [icrl_envs.registration(env_id) for env_id in dict.fromkeys(env_ids) if env_id not in icrl_envs.BUILT_IN]
    for one in found:
        try:
            pickle.dumps(one)
        except Exception as error:
            raise ValueError(
                f"the family {one.spec.id} cannot be sent to worker processes ({printable(error, 120)}): define its "
                "class and functions at the top of a module, or use one process"
            ) from None
    return found
