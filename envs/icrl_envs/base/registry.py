"""Registry of families: maps environment ids to their tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator, register
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from icrl_envs.base.checks import check_choice, check_int, nearest, short
from icrl_envs.base.family import Family, TaskSet
from icrl_envs.base.gym.family import GymFamily, check_registered
from icrl_envs.base.gym.tasks import Tasks
from icrl_envs.base.rows import build_rules
from icrl_envs.base.rules import Rules
from icrl_envs.base.split import Split, check_split, keep_order
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

_TASKS: dict[str, TaskSet] = {}
_MADE: set[str] = set()  # ids that `register_rules` registered with Gymnasium

FAMILIES: Mapping[str, TaskSet] = MappingProxyType(_TASKS)
"""All tasks of each registered id; `FAMILIES[id].family` is the family."""


def find_family(env_id: str) -> Family:
    """Return the family of an id.

    Raises:
        ValueError: no family of that id is registered; the message suggests the nearest one.
    """
    if isinstance(env_id, str) and env_id in _TASKS:
        return _TASKS[env_id].family
    hint = nearest(str(env_id), _TASKS)
    raise ValueError(
        f"no family of tasks is registered as {short(env_id)}{hint}: icrl_envs.FAMILIES lists all, "
        "icrl_envs.register_family adds one."
    )


def register_family(family: Family | str, tasks: Tasks | None = None, **settings: Any) -> TaskSet:
    """Register a family under its `env_id`, and return all its tasks. A call that fails changes nothing.

    Args:
        family: a family, or the Gymnasium id of a `GymFamily`.
        tasks: with an id, a list of tasks, or ranges or a function that they are drawn from; see `GymFamily`.
        settings: with an id, other settings of `GymFamily`: horizon, lifetime, split or test_tasks, num_tasks, seed,
            pass_task, vectorization, bandit.

    Raises:
        ValueError: the family is incomplete, or a different one is registered under its id.
    """
    if isinstance(family, str):
        if tasks is None:
            raise ValueError(f"register_family({short(family)}): give tasks, a list of dicts or ranges to draw from.")
        family = GymFamily(family, tasks, **settings)
    elif tasks is not None or settings:
        raise ValueError("tasks and other settings belong to a Gymnasium id: a Family brings its own, leave them out.")
    check_family(family)
    if (known := _TASKS.get(family.env_id)) is not None:
        if known.family != family:
            raise _taken(family.env_id)
        return known
    _TASKS[family.env_id] = family.tasks
    return family.tasks


def register_rules(
    rules_class: type[Rules], env_id: str, horizon: int, split: Split | None = None, **kwargs: Any
) -> TaskSet:
    """Register array rules and their environments under an id, and return all tasks. A failed call changes nothing.

    `gymnasium.make(env_id)` then makes `<Name>Env` and `gymnasium.make_vec(env_id)` makes `<Name>VectorEnv` from the
    module of `rules_class`, truncated after `horizon` steps.

    Args:
        rules_class: a subclass of `Rules` that takes `horizon` and `kwargs`.
        env_id: an unregistered id, such as "my/Room-v0".
        horizon: maximum number of steps in an episode.
        split: published split; None: the set "train" of `named`, which comes first, is for training.
        kwargs: other arguments of `rules_class`.

    Raises:
        ValueError: an argument is not allowed, an environment class is missing, or the id is taken.
    """
    if not isinstance(env_id, str):
        raise ValueError(f"env_id={short(env_id)}: give an id such as 'my/Room-v0'.")
    kwargs = {**kwargs, "horizon": horizon}
    rules, task = build_rules(rules_class, kwargs)
    if task:
        raise ValueError(f"{', '.join(task)} fixes one task of {rules_class.__name__}: leave it out.")
    rules.env_id, rules.published = env_id, _train_first(rules) if split is None else check_split(split)
    if (known := _TASKS.get(env_id)) is not None and _same_rules(known.family, rules, kwargs):
        return known
    if env_id in gymnasium.registry:
        raise _taken(env_id)
    tasks = check_family(rules, new_id=True)
    single, vector = _entry_points(rules_class)
    try:
        register(env_id, single, vector_entry_point=vector, max_episode_steps=horizon, kwargs=kwargs)
    except gymnasium.error.Error as error:
        raise ValueError(f"env_id={short(env_id)}: {short(str(error))}; give one such as 'my/Room-v0'.") from error
    _TASKS[env_id] = tasks
    _MADE.add(env_id)
    return tasks


def unregister_family(env_id: str) -> None:
    """Unregister a family, and its Gymnasium id if `register_rules` made it. ValueError for an unknown id."""
    find_family(env_id)  # ValueError for an unknown id
    if env_id in _MADE:
        gymnasium.registry.pop(env_id, None)
        _MADE.remove(env_id)
    del _TASKS[env_id]


class Registration(NamedTuple):
    """A family with the Gymnasium id of its environments, as one process sends it to another."""

    spec: EnvSpec
    family: Family
    made: bool  # whether `register_rules` registered the id


def registration(env_id: str) -> Registration:
    """Return what another process needs to know the family of an id; ValueError for an unknown id."""
    return Registration(gymnasium.spec(env_id), find_family(env_id), env_id in _MADE)


def restore(registrations: Iterable[Registration]) -> None:
    """Register the families of another process, as far as they are not known yet."""
    for spec, family, made in registrations:
        if spec.id not in gymnasium.registry and isinstance(spec.entry_point, str):
            with suppress(Exception):  # its module may register the id itself, which is a warning after we have
                load_env_creator(spec.entry_point)
        gymnasium.registry.setdefault(spec.id, spec)
        if spec.id not in _TASKS:
            _TASKS[spec.id] = family.tasks
            _MADE.update({spec.id} if made else ())


def env_family(env: gymnasium.Env | VectorEnv) -> Family | None:
    """Return the family of an environment or vector environment, wrapped or not; None if none is registered.

    Environments of array rules in this process return their own rules, with the arguments given to make(); others
    return the family of their id.
    """
    inner: Any = env.unwrapped
    row = inner.envs[0].unwrapped if isinstance(inner, SyncVectorEnv) else inner  # all rows share a family
    spec = inner.spec or row.spec
    if isinstance(row, ArrayEnv | ArrayVectorEnv):
        if spec is not None and spec.id in _TASKS:
            row.rules.published = _TASKS[spec.id].family.published  # of the id, not of the class
        return row.rules
    if spec is None and isinstance(inner, AsyncVectorEnv):  # rows are in other processes
        spec = inner.get_attr("spec")[0]
    return _TASKS[spec.id].family if spec is not None and spec.id in _TASKS else None


def check_family(family: Any, new_id: bool = False) -> TaskSet:
    """Return the tasks of a family; ValueError unless it is complete.

    Args:
        family: object to check.
        new_id: whether its id is still to be registered with Gymnasium; otherwise it must be registered.
    """
    if not isinstance(family, Family):
        raise ValueError(f"family={short(family)}: give a Family, or a Gymnasium id and its tasks.")
    for name in ("observation_space", "action_space", "horizon", "num_tasks", "task_names"):
        if getattr(family, name, None) is None:
            raise ValueError(f"{family.name} sets no {name}: set it in the class or in __init__.")
    if not new_id:
        check_registered(family.env_id)
    for space in (family.observation_space, family.action_space):
        if not isinstance(space, spaces.Space):
            raise ValueError(f"{family.name} has the space {short(space)}: give a gymnasium.spaces.Space.")
        if space.shape is None and isinstance(family, Rules):
            raise ValueError(f"{family.name} has the space {short(space)}: rules need one whose elements are arrays.")
    for name in ("horizon", "lifetime", "num_tasks"):
        check_int(getattr(family, name), name, 1, 2**62)
    check_choice(family.bandit, "bandit", (False, True))
    family.tasks.split()  # must leave a task on each side
    return family.tasks


def _entry_points(rules_class: type[Rules]) -> tuple[str, str]:
    """Gymnasium entry points ("module:Class") of the environment and the vector environment of rules."""
    module, name = rules_class.__module__, rules_class.__name__
    for suffix, base in (("Env", ArrayEnv), ("VectorEnv", ArrayVectorEnv)):
        found = getattr(sys.modules[module], name + suffix, None)
        if not (isinstance(found, type) and issubclass(found, base) and found.rules_class is rules_class):
            raise ValueError(
                f"{module} has no environment of {name}: define class {name}{suffix}({base.__name__}) in it, "
                f"with rules_class = {name}."
            )
    return f"{module}:{name}Env", f"{module}:{name}VectorEnv"


def _train_first(rules: Rules) -> Split:
    """Split without a shuffle whose training part is the set "train"."""
    if "train" not in rules.named:
        raise ValueError(f"split=None: {rules.name} names no set 'train', give split=Split(0.9, seed=0).")
    return Split(len(rules.named["train"]) / rules.num_tasks, 0, keep_order)


def _same_rules(known: Family, rules: Rules, kwargs: dict[str, Any]) -> bool:
    same_class, same_split = type(known) is type(rules), known.published == rules.published
    return same_class and same_split and gymnasium.spec(rules.env_id).kwargs == kwargs


def _taken(env_id: str) -> ValueError:
    first = f", or call icrl_envs.unregister_family({env_id!r}) first" if env_id in _TASKS else ""
    return ValueError(
        f"{env_id} is already registered with something else: choose another id, such as a new version{first}."
    )
