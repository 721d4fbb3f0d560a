"""GymFamily: a family from an existing Gymnasium environment and a list of make() arguments."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from icrl_envs.base.checks import check_int, nearest, short
from icrl_envs.base.family import Family
from icrl_envs.base.gym.flat import flat_env
from icrl_envs.base.split import check_split


class GymFamily(Family):
    """Tasks of a registered Gymnasium id, each a dict of make() arguments.

        gymnasium.register("my/Poles-v0", PoleEnv, max_episode_steps=200)  # PoleEnv(length=0.5)
        family = GymFamily("my/Poles-v0", [{"length": 0.2 + 0.01 * number} for number in range(100)])
        register_family(family)

    Spaces are read from one environment, made with the first task; Dict and Tuple observations are flattened, see
    `flat_env`. No capability is declared: a subclass with more knowledge, such as an optimal return, sets
    `capabilities` and defines their methods.

    Args:
        env_id: a registered Gymnasium id.
        tasks: make() arguments of each task: the same names in all tasks, plain values (numbers, strings, lists or
            tuples of them), no duplicates.
        horizon: maximum number of steps in an episode; default the id's time limit, which another value overrides.
        lifetime: number of episodes in the evaluation of a learner.
        split: share of training tasks, and seed of the shuffle.
        bandit: whether an action influences its own reward and nothing else.

    Raises:
        ValueError: an argument is not allowed, or make() fails for the first task.
    """

    def __init__(
        self,
        env_id: str,
        tasks: Sequence[Mapping[str, Any]],
        horizon: int | None = None,
        lifetime: int = 50,
        split: tuple[float, int] = (0.9, 0),
        bandit: bool = False,
    ):
        self.env_id = check_registered(env_id)
        self._kwargs = check_tasks(tasks)
        self.num_tasks, self.task_names = len(self._kwargs), tuple(self._kwargs[0])
        env = make_env(env_id, self._kwargs[0])  # only for its spaces and time limit
        self.observation_space, self.action_space = env.observation_space, env.action_space
        limit = env.spec.max_episode_steps if env.spec else None
        env.close()
        if horizon is None and limit is None:
            raise ValueError(f"{env_id} has no time limit: give horizon=..., the steps of an episode.")
        self.horizon = check_int(limit if horizon is None else horizon, "horizon", 1, 10**9)
        # argument of make() that overrides the id's time limit
        self._limit = {} if self.horizon == limit else {"max_episode_steps": self.horizon}
        self.lifetime = check_int(lifetime, "lifetime", 1, 10**9)
        self.published, self.bandit = check_split(split), bandit

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return a copy of the make() arguments of a task."""
        return copy.deepcopy(self._kwargs[task_id]) | self._limit

    def __eq__(self, other: object) -> bool:
        """Return whether the other family has the same class, id, tasks, lengths and split."""
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        """Return a hash consistent with `==`."""
        return hash((type(self), self._key()))

    def _key(self):
        return self.env_id, json.dumps(self._kwargs), self.horizon, self.lifetime, self.published, self.bandit


def check_registered(env_id: Any) -> str:
    """Return `env_id`; ValueError unless it is registered with Gymnasium."""
    if isinstance(env_id, str) and env_id in gymnasium.registry:
        return env_id
    hint = nearest(str(env_id), gymnasium.registry)
    raise ValueError(
        f"{short(env_id)} is no registered Gymnasium id{hint}: import the package that registers it, "
        "or call gymnasium.register first."
    )


def check_tasks(tasks: Any) -> tuple[dict[str, Any], ...]:
    """Return a copy of the make() arguments of each task; ValueError unless they meet the rules of `GymFamily`."""
    if isinstance(tasks, str | bytes) or not isinstance(tasks, Sequence) or len(tasks) < 2:
        raise ValueError(f"tasks={short(tasks)}: give a list of two or more dicts of make() arguments.")
    seen: dict[str, int] = {}
    for number, task in enumerate(tasks):
        first = seen.setdefault(check_task(task, number, tasks[0]), number)  # JSON text as the key of a task
        if first != number:
            raise ValueError(f"tasks {first} and {number} are the same, {short(task)}: give each task once.")
    return tuple(copy.deepcopy(dict(task)) for task in tasks)


def check_task(task: Any, number: int, first: Mapping[str, Any]) -> str:
    """Return task `number` as JSON; ValueError unless it is plain data with the argument names of `first`."""
    if not isinstance(task, Mapping) or not task or not all(isinstance(name, str) for name in task):
        raise ValueError(f"task {number} is {short(task)}: give a dict of make() arguments, one or more.")
    if task.keys() != first.keys():
        ours, theirs = short(list(task)), short(list(first))
        raise ValueError(f"task {number} has the arguments {ours}, task 0 has {theirs}: give all tasks the same.")
    if "max_episode_steps" in task:
        raise ValueError(f"task {number} sets max_episode_steps, which all tasks share: give horizon=... instead.")
    try:
        return json.dumps(dict(task), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        fix = "give finite Python numbers, strings, or lists of them"
        raise ValueError(f"task {number} is {short(task)}: {fix}.") from None


def make_env(env_id: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Make one environment of a task; ValueError if the id does not accept these arguments."""
    try:
        return flat_env(gymnasium.make(env_id, disable_env_checker=True, **kwargs))
    except Exception as error:
        why = short(f"{type(error).__name__}: {error}")
        raise ValueError(f"{env_id} cannot be made with the task {short(dict(kwargs))}: {why}") from error
