"""The tasks of an environment id: the set of them and its split into training and test tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from icrl_envs.checks import as_array, reject_unknown, short

if TYPE_CHECKING:
    from icrl_envs.rules import Rules

Shuffle = Callable[[list[int], int], None]  # shuffles a list in place from a seed


def python_shuffle(ids: list[int], seed: int) -> None:
    """Shuffle as `random.seed(seed); random.shuffle(ids)` does."""
    random.Random(seed).shuffle(ids)


def numpy_shuffle(ids: list[int], seed: int) -> None:
    """Shuffle as `numpy.random.RandomState(seed).shuffle(ids)` does."""
    np.random.RandomState(seed).shuffle(ids)


def keep_order(ids: list[int], seed: int) -> None:
    """Leave seed 0, the published split, in the order of ids; shuffle as `python_shuffle` for others."""
    if seed:
        python_shuffle(ids, seed)


class TaskSet:
    """A sequence of tasks: `tasks[i]` gives the `make(env_id, **kwargs)` arguments of the i-th one.

    Args:
        env_id: the registered id the tasks belong to.
        rules: the id's rules; they translate ids to arguments, so that no list of dicts is kept.
        fraction: share of training tasks in the published split.
        seed: seed of the published split.
        shuffle: the published shuffle.
        ids: the task ids in here, in order; default all of them.
    """

    def __init__(
        self,
        env_id: str,
        rules: Rules,
        fraction: float,
        seed: int,
        shuffle: Shuffle = python_shuffle,
        ids: np.ndarray | None = None,
    ):
        self.env_id, self.rules = env_id, rules
        self.fraction, self.seed, self.shuffle = fraction, seed, shuffle
        self.ids = np.array(np.arange(rules.num_tasks) if ids is None else ids, np.int64)  # (N,)
        self.ids.flags.writeable = False

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | TaskSet:
        """Give a task's make() arguments, or for a slice the set of those tasks."""
        if isinstance(index, slice):
            return self._with(self.ids[index])
        return self.rules.task_kwargs(int(self.ids[index]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go through the make() arguments."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Say what is in here."""
        return f"TaskSet({self.env_id!r}, {len(self)} of {self.rules.set_tasks} tasks)"

    def split(self, fraction: float | None = None, seed: int | None = None) -> tuple[TaskSet, TaskSet]:
        """Shuffle these tasks and cut them into (train, test); what is not given is as published.

        Args:
            fraction: share of training tasks, above 0 and below 1; rounded to whole tasks.
            seed: of the shuffle; the same seed gives the same split.

        Raises:
            ValueError: if a part would be empty.
        """
        fraction = self.fraction if fraction is None else fraction
        cut = round(len(self) * fraction) if 0 < fraction < 1 else 0  # 0 also for nan
        if not 0 < cut < len(self):
            raise ValueError(
                f"fraction={fraction} of {len(self)} tasks leaves one part empty: "
                "give a fraction between 0 and 1 that leaves at least one task on each side."
            )
        ids = self.ids.tolist()
        self.shuffle(ids, self.seed if seed is None else seed)
        return self._with(ids[:cut]), self._with(ids[cut:])

    def named(self, name: str) -> TaskSet:
        """Give the set of that name; ValueError if the family has none of it."""
        reject_unknown([name], tuple(self.rules.sets), "set of tasks")
        return self._with(self.rules.sets[name])

    def without(self, other: TaskSet) -> TaskSet:
        """Give the tasks that are not in another set."""
        return self.among(~np.isin(self.ids, other.ids))

    def among(self, mask: np.ndarray) -> TaskSet:
        """Give the tasks where `mask` (N,) is true."""
        return self._with(self.ids[mask])

    def _with(self, ids):
        return TaskSet(self.env_id, self.rules, self.fraction, self.seed, self.shuffle, ids)


def read_tasks(task: Any, rules: Rules, num: int) -> np.ndarray:
    """Read `options["task"]`: one dict or id for all of `num` rows, or one a row. Gives task ids (num,).

    Raises:
        ValueError: if it is something else, or there is no such task.
    """
    if isinstance(task, Mapping):
        return np.full(num, rules.task_id(**task), np.int64)
    if isinstance(task, Sequence) and len(task) == num and all(isinstance(item, Mapping) for item in task):
        return np.array([rules.task_id(**item) for item in task], np.int64)
    ids = as_array(task)
    if ids.dtype.kind not in "iu" or ids.shape not in ((), (num,)):
        raise ValueError(
            f"options['task']={short(task)}: give a dict such as {rules.task_kwargs(0)}, "
            f"or {num} of them (one a row), or an integer array of {num} task ids."
        )
    if ids.min() < 0 or ids.max() >= rules.known_tasks:
        raise ValueError(f"options['task']={short(task)}: task ids go from 0 to {rules.known_tasks - 1}.")
    return np.broadcast_to(ids, num).astype(np.int64)
