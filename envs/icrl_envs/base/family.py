"""Family: the interface of a Gymnasium id with many tasks; TaskSet: a sequence of such tasks.

Axis letters: B rows, N tasks, A actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, overload

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from icrl_envs.base.capability import Belief, Capability, UndeclaredError
from icrl_envs.base.checked_row import CheckedRow
from icrl_envs.base.checks import check_int, reject_unknown
from icrl_envs.base.flat import flat_env
from icrl_envs.base.split import DeclaredTest, Split

Sets = Mapping[str, range]


class VectorRows(NamedTuple):
    """A vector environment, and the options of its first reset, after which row i is on the i-th task."""

    env: VectorEnv
    options: dict[str, Any] | None = None


class Family(ABC):
    """Tasks that share a Gymnasium id, spaces and a horizon.

    Tasks have ids 0, 1, ...; `make(i)` makes an environment of task i. A subclass sets the attributes below that have
    no default, in its class or in `__init__`, and defines `task_kwargs`; `register_family` registers it under its id.
    `Rules` is the subclass for dynamics on arrays, `GymFamily` the one for an existing Gymnasium environment.

    Optional parts are declared in `capabilities` and queried by `offers`. A declared capability requires the method of
    its name, and the infos and environment methods listed in `Capability`; a method that is not declared raises
    `UndeclaredError` (a ValueError) of one line.

    Attributes:
        env_id: registered Gymnasium id.
        observation_space: space of one environment, the same in all tasks.
        action_space: space of one environment, the same in all tasks.
        horizon: maximum number of steps in an episode.
        lifetime: number of episodes in the published evaluation of a learner.
        lasting: what outlives an episode besides the task, as the rest of a sentence about the id; "" for nothing.
        bandit: whether an action influences its own reward and nothing else.
        num_tasks: N; the published split divides the tasks 0 to N - 1.
        task_names: names of the values that make a task, which are arguments of make() unless `make` is overridden.
        capabilities: declared optional parts.
        published: published split.
        named: task ids of the published named sets, all below N.
        extra: task ids of named sets outside the split, from N on.
        training: names of sets that may replace the training tasks.
        max_rows: most rows that `make_rows` makes; None for any number.
        install: optional dependency group of icrl-agents that its environments need, such as "mujoco".
    """

    env_id: str = ""
    observation_space: spaces.Space
    action_space: spaces.Space
    horizon: int
    lifetime: int = 50
    lasting: str = ""
    bandit: bool = False
    num_tasks: int
    task_names: tuple[str, ...]
    capabilities: frozenset[Capability] = frozenset()
    published: Split = Split()
    named: Sets = MappingProxyType({})
    extra: Sets = MappingProxyType({})
    training: tuple[str, ...] = ()
    max_rows: int | None = None
    install: str = ""

    @abstractmethod
    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return the make() arguments of a task, plain data such as numbers, strings and tuples of them.

        They include all `task_names`, and other arguments that make() needs, such as a time limit.
        """

    def make(self, task_id: int, **kwargs: Any) -> gymnasium.Env:
        """Make an environment of a task, with flat observations.

        `kwargs` are further arguments of `gymnasium.make`, such as render_mode.
        """
        (task,) = self.check_ids([task_id])
        return flat_env(gymnasium.make(self.env_id, **{**self.task_kwargs(task), **kwargs}))

    def make_rows(self, task_ids: Any, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorRows:
        """Return a vector environment with a row for each task id (B,), repeats allowed."""
        rows = [lambda task=task: CheckedRow(self.make(task)) for task in self.check_ids(task_ids)]
        return VectorRows(SyncVectorEnv(rows, autoreset_mode=autoreset_mode))

    def check_ids(self, task_ids: Iterable[Any]) -> list[int]:
        """Return task ids, one or more, as ints; ValueError for one that is no task."""
        ids = [check_int(task, "task", 0, self.known_tasks - 1) for task in task_ids]
        if not ids:
            raise ValueError(f"no tasks for the rows of {self.name}: give one or more ids.")
        return ids

    def task_text(self, task_id: int) -> str:
        """Return the values that make a task, such as "length=0.3, gravity=12"."""
        values = self.task_kwargs(task_id)
        return ", ".join(f"{name}={values[name]}" for name in self.task_names)

    @property
    def definition(self) -> dict[str, Any] | None:
        """Arguments of `register_family` as plain data; None for a family that is defined by code."""
        return None

    @property
    def checksum(self) -> str | None:
        """Checksum of the tasks and of their split; None for a family that is defined by code."""
        return None

    @property
    def name(self) -> str:
        """Name in messages: the id, or the class name without an id."""
        return self.env_id or type(self).__name__

    @property
    def sets(self) -> dict[str, range]:
        """Task ids of all named sets."""
        return {**self.named, **self.extra}

    @property
    def set_tasks(self) -> int:
        """Number of tasks in the split and in all sets; their ids are 0 to `set_tasks - 1`."""
        return max([self.num_tasks, *(ids.stop for ids in self.extra.values())])

    @property
    def known_tasks(self) -> int:
        """Number of tasks with an id; user-defined tasks may add some."""
        return self.set_tasks

    @cached_property
    def tasks(self) -> TaskSet:
        """All tasks of the split."""
        return TaskSet(self, np.arange(self.num_tasks))

    @property
    def rules(self) -> Any:
        """The array dynamics (`Rules`) of a family that has some; ValueError for other families."""
        raise ValueError(f"{self.name} has no array rules: it is a {type(self).__name__}, ask the family itself.")

    def offers(self, capability: Capability) -> bool:
        """Return whether the family declares a capability."""
        return capability in self.capabilities

    def undeclared(self, capability: Capability) -> NoReturn:
        """Raise UndeclaredError, the default of every optional method."""
        declared = ", ".join(sorted(self.capabilities)) or "none"
        raise UndeclaredError(
            f"{self.name} does not declare {capability.value} (declared: {declared}): do without, "
            f"or define it in the family and add Capability.{capability.name} to its capabilities."
        )

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return the highest expected return (N,) float64 of one episode in known tasks (N,)."""
        self.undeclared(Capability.OPTIMAL_RETURN)

    def random_return(self, task: np.ndarray) -> np.ndarray:
        """Return the expected return (N,) float64 of one episode of uniformly random legal actions in tasks (N,)."""
        self.undeclared(Capability.RANDOM_RETURN)

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> Belief:
        """Return the prior belief of B learners that know the dynamics, but not the task.

        Args:
            rows: B.
            rng: generator of all samples.
            sharpness: preference of samples for hypotheses that are quick to test, a float or (B,); 0 samples from
                the posterior itself, infinity searches in one order without chance, see `draw_hypotheses`.
        """
        self.undeclared(Capability.BELIEF)

    def action_mask(self, task: np.ndarray) -> np.ndarray:
        """Return (N, A) int8, 1 for the legal actions of tasks (N,)."""
        self.undeclared(Capability.ACTION_MASKS)


class TaskSet:
    """A sequence of tasks: `tasks[i]` are the `task_kwargs` of the i-th one, `tasks.make(i)` is its environment.

    Args:
        family: family of the tasks, which translates ids to arguments.
        ids: task ids (N,), in order.
    """

    def __init__(self, family: Family, ids: Any):
        self.family = family
        self.ids = np.array(ids, np.int64)  # (N,)
        self.ids.flags.writeable = False

    @property
    def env_id(self) -> str:
        """The family's Gymnasium id."""
        return self.family.env_id

    @property
    def rules(self) -> Any:
        """The array dynamics (`Rules`) of a family that has some; ValueError for other families."""
        return self.family.rules

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | TaskSet:
        """Return the make() arguments of one task, or a `TaskSet` for a slice."""
        if isinstance(index, slice):
            return TaskSet(self.family, self.ids[index])
        return self.family.task_kwargs(int(self.ids[index]))

    def make(self, index: int, **kwargs: Any) -> gymnasium.Env:
        """Make an environment of the i-th task; `kwargs` are further arguments of `gymnasium.make`."""
        return self.family.make(int(self.ids[index]), **kwargs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the make() arguments."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Return the id and the number of tasks."""
        return f"TaskSet({self.env_id!r}, {len(self)} of {self.family.set_tasks} tasks)"

    def split(self, fraction: float | None = None, seed: int | None = None) -> tuple[TaskSet, TaskSet]:
        """Shuffle these tasks and divide them into (train, test); by default as published.

        Args:
            fraction: share of training tasks, above 0 and below 1; rounded to whole tasks.
            seed: seed of the shuffle.

        Raises:
            ValueError: a part would be empty, or tasks that are declared as test tasks would be training tasks.
        """
        published = self.family.published
        fraction = published.fraction if fraction is None else fraction
        seed = published.seed if seed is None else check_int(seed, "seed", 0, 2**32 - 1)
        cut = round(len(self) * fraction) if 0 < fraction < 1 else 0  # 0 for NaN too
        if not 0 < cut < len(self):
            raise ValueError(
                f"fraction={fraction} of {len(self)} tasks leaves one part empty: "
                "give a fraction between 0 and 1 that leaves at least one task on each side."
            )
        ids = self.ids.tolist()
        published.shuffle(ids, seed)
        if isinstance(published.shuffle, DeclaredTest) and 0 < (most := published.shuffle.trainable(ids)) < cut:
            raise ValueError(
                f"fraction={fraction} of {len(self)} tasks takes declared test tasks for training: give at most "
                f"{most / len(self):.4g}."
            )
        return TaskSet(self.family, ids[:cut]), TaskSet(self.family, ids[cut:])

    def named(self, name: str) -> TaskSet:
        """Return a named set; ValueError if the family has none of that name."""
        reject_unknown([name], tuple(self.family.sets), "set of tasks")
        return TaskSet(self.family, self.family.sets[name])

    def without(self, other: TaskSet) -> TaskSet:
        """Return the tasks that are not in `other`."""
        return self.among(~np.isin(self.ids, other.ids))

    def among(self, mask: np.ndarray) -> TaskSet:
        """Return the tasks where `mask` (N,) is true."""
        return TaskSet(self.family, self.ids[mask])
