"""GymFamily: a family from an existing Gymnasium environment and a list of tasks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from icrl_envs.base.checks import check_choice, check_int, nearest, reject_unknown, short
from icrl_envs.base.family import Family, VectorRows
from icrl_envs.base.flat import flat_env
from icrl_envs.base.gym.pass_task import MAKE, PassTask, check_way, way_name
from icrl_envs.base.gym.rows import ASYNC, MAX_PROCESSES, OWN, SYNC, VECTORIZATIONS, own_rows, single_rows
from icrl_envs.base.gym.tasks import Tasks, check_tasks, checksum, read_tasks, task_key
from icrl_envs.base.split import DeclaredTest, Split, check_split


@dataclass(frozen=True)
class GymSettings:
    """Settings of a `GymFamily`, all optional."""

    horizon: int | None = None  # maximum number of steps in an episode; default the id's time limit
    lifetime: int = 50  # episodes in the evaluation of a learner
    split: Any = None  # (share of training tasks, seed of the shuffle); default (0.9, 0)
    test_tasks: Sequence[Mapping[str, Any]] | None = None  # held-out tasks, beside which all `tasks` are for training
    num_tasks: int | None = None  # number of tasks to draw; default 100
    seed: int = 0  # seed of the draws
    pass_task: str | Callable[[Any, dict[str, Any]], None] = MAKE  # how a task reaches the environment
    vectorization: str = SYNC  # how rows are run
    bandit: bool = False  # whether an action influences its own reward and nothing else


SETTINGS = tuple(field.name for field in fields(GymSettings))


class GymFamily(Family):
    """Tasks of a registered Gymnasium id, each a dict of values.

        gymnasium.register("my/Poles-v0", PoleEnv, max_episode_steps=200)  # PoleEnv(length=0.5)
        family = GymFamily("my/Poles-v0", {"length": {"low": 0.2, "high": 2.0}}, num_tasks=200)
        register_family(family)

    Spaces are read from one environment, made with the first task; Dict and Tuple observations are flattened, see
    `flat_env`. No capability is declared: a subclass that knows more, such as the optimal return, sets `capabilities`
    and defines their methods.

    Args:
        env_id: a registered Gymnasium id.
        tasks: a list of dicts with the same names and plain values (numbers, strings, lists of them, no tuples), no
            duplicates; or ranges or a function to draw them from, once and by a seed, see `read_tasks`.
        settings: fields of `GymSettings`:
            horizon: maximum number of steps in an episode; default the id's time limit, which another value overrides.
            lifetime: number of episodes in the evaluation of a learner.
            split: share of training tasks, and seed of the shuffle.
            test_tasks: held-out tasks, in place of `split`; all `tasks` are then for training.
            num_tasks, seed: how many tasks to draw, and the seed of the draws.
            pass_task: how a task reaches an environment: "make" (arguments of `gymnasium.make`), "options" (of every
                reset), "attributes" (of the unwrapped environment), or a function `set_task(env, task)`, called with
                the unwrapped environment when it is made and before every reset.
            vectorization: "sync" (rows in this process), "async" (a process for each row, at most 128), or
                "vector_entry_point" (the id's own, called with `tasks`, a dict for each row).
            bandit: whether an action influences its own reward and nothing else.

    Raises:
        ValueError: an argument is not allowed, or no environment can be made with the first task.
    """

    def __init__(self, env_id: str, tasks: Tasks, **settings: Any):
        reject_unknown(settings, SETTINGS, "setting of a family")
        given = GymSettings(**settings)
        self.env_id = check_registered(env_id)
        self._way = check_way(given.pass_task)
        self._vectorization = check_choice(given.vectorization, "vectorization", VECTORIZATIONS)
        self._check_vectorization()
        self._tasks, self.published = _tasks_and_split(tasks, given)
        self.num_tasks, self.task_names = len(self._tasks), tuple(self._tasks[0])
        self.max_rows = MAX_PROCESSES if self._vectorization == ASYNC else None
        self._limit: dict[str, Any] = {}  # argument of make() that overrides the id's time limit
        self.observation_space, self.action_space, limit = self._describe_env()
        if given.horizon is None and limit is None:
            raise ValueError(f"{env_id} has no time limit: give horizon=..., the steps of an episode.")
        self.horizon = check_int(limit if given.horizon is None else given.horizon, "horizon", 1, 10**9)
        self._limit = {} if self.horizon == limit else {"max_episode_steps": self.horizon}
        self.lifetime, self.bandit = check_int(given.lifetime, "lifetime", 1, 10**9), given.bandit

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return a copy of a task and of the time limit, if it is not the id's own."""
        return copy.deepcopy(self._tasks[task_id]) | self._limit

    def make(self, task_id: int, **kwargs: Any) -> gymnasium.Env:
        """Make an environment that stays on a task; `kwargs` are further arguments of `gymnasium.make`."""
        if self._way == MAKE:
            return super().make(task_id, **kwargs)
        (task,) = self.check_ids([task_id])
        env = gymnasium.make(self.env_id, **{**self._limit, **kwargs})
        return flat_env(PassTask(env, copy.deepcopy(self._tasks[task]), self._way))

    def make_rows(self, task_ids: Any, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorRows:
        """Return a vector environment whose row i stays on task `task_ids[i]`, run as `vectorization` says."""
        ids = self.check_ids(task_ids)
        if self._vectorization == OWN:
            tasks = [copy.deepcopy(self._tasks[task]) for task in ids]
            return VectorRows(own_rows(self.env_id, tasks, autoreset_mode, self._limit))
        makes = [partial(self.make, task) for task in ids]
        env: VectorEnv = single_rows(makes, self.env_id, autoreset_mode, self._vectorization == ASYNC)
        return VectorRows(env)

    @property
    def definition(self) -> dict[str, Any]:
        """Arguments of `register_family` as plain data, with the checksum of the tasks and of their split."""
        fraction, seed, shuffle = self.published
        count = shuffle.num_train if isinstance(shuffle, DeclaredTest) else self.num_tasks
        held_out = {"test_tasks": self._copy(count, None)} if count < self.num_tasks else {"split": [fraction, seed]}
        return {
            "tasks": self._copy(0, count),
            **held_out,
            "horizon": self.horizon,
            "lifetime": self.lifetime,
            "pass_task": way_name(self._way),
            "vectorization": self._vectorization,
            "bandit": self.bandit,
            "checksum": self.checksum,
        }

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the tasks and of their split into training and test tasks."""
        train, _ = self.tasks.split()
        return checksum([self._tasks, train.ids.tolist()])

    def __eq__(self, other: object) -> bool:
        """Return whether the other family has the same class, id, tasks, settings and split."""
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        """Return a hash consistent with `==`."""
        return hash((type(self), self._key()))

    def _key(self):
        lengths = self.horizon, self.lifetime, self.published, self.bandit
        return self.env_id, json.dumps(self._tasks), *lengths, self._way, self._vectorization

    def _copy(self, first: int, last: int | None) -> list[dict[str, Any]]:
        return copy.deepcopy(list(self._tasks[first:last]))

    def _check_vectorization(self) -> None:
        if self._vectorization != OWN:
            return
        if self._way != MAKE:
            raise ValueError(f"vectorization={OWN!r} hands tasks over by itself: leave pass_task out.")
        if gymnasium.spec(self.env_id).vector_entry_point is None:
            raise ValueError(f"{self.env_id} is registered without vector_entry_point: leave vectorization out.")

    def _describe_env(self) -> tuple[gymnasium.Space, gymnasium.Space, int | None]:
        """Spaces and time limit of an environment of the first task; ValueError if it cannot be made."""
        try:
            env = self.make(0, disable_env_checker=True)
            if self._way != MAKE:
                env.reset(seed=0)  # the first use of the task
        except Exception as error:
            why, task = short(f"{type(error).__name__}: {error}", 160), short(self._tasks[0])
            raise ValueError(f"{self.env_id} cannot be made with the task {task}: {why}") from error
        env.close()
        return env.observation_space, env.action_space, env.spec.max_episode_steps if env.spec else None


def check_registered(env_id: Any) -> str:
    """Return `env_id`; ValueError unless it is registered with Gymnasium."""
    if isinstance(env_id, str) and env_id in gymnasium.registry:
        return env_id
    hint = nearest(str(env_id), gymnasium.registry)
    raise ValueError(
        f"{short(env_id)} is no registered Gymnasium id{hint}: import the package that registers it, "
        "or call gymnasium.register first."
    )


def _tasks_and_split(tasks: Any, given: GymSettings) -> tuple[tuple[dict[str, Any], ...], Split]:
    """All tasks, those for training first if test tasks are declared, and their split."""
    train = read_tasks(tasks, given.num_tasks, given.seed)
    if given.test_tasks is None:
        return train, check_split((0.9, 0) if given.split is None else given.split)
    if given.split is not None:
        raise ValueError(f"split={short(given.split)} and test_tasks both say which tasks are held out: give one.")
    if not isinstance(given.test_tasks, Sequence) or isinstance(given.test_tasks, str | bytes):
        raise ValueError(f"test_tasks={short(given.test_tasks)}: give a list of one or more dicts.")
    test = check_tasks(given.test_tasks, least=1)
    known = {task_key(task, number, train[0]): number for number, task in enumerate(train)}
    for number, task in enumerate(test):
        if (common := known.get(task_key(task, number, train[0]))) is not None:
            raise ValueError(f"test task {number}, {short(task)}, is training task {common} too: leave one out.")
    return train + test, Split(len(train) / (len(train) + len(test)), 0, DeclaredTest(len(train)))
