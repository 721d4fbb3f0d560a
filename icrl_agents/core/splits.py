"""Splits of a family's tasks: training, validation (for every choice) and test (measured once)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_known
from icrl_agents.core.families import TaskSet, find_family, legal_mask

TRAIN = "train"  # the set of tasks that agents are usually trained on
ALL = "all"  # every task of the family, those for training too
VALIDATION_SHARE = 0.1  # of the published train split; every choice is made on these tasks


class Splits(NamedTuple):
    """Disjoint task sets of one environment id."""

    train: TaskSet
    validation: TaskSet
    test: TaskSet

    def pick(self, name: str) -> TaskSet:
        """One of these, "all" tasks of the family, or a set that it names, such as "num_50" of the bandits."""
        check_known([name], self.names(), "split")
        if name == ALL:
            return self.test.family.tasks
        return getattr(self, name) if name in self._fields else self.test.named(name)

    def names(self) -> list[str]:
        """What can be picked."""
        return list(dict.fromkeys([*self._fields, ALL, *self.test.family.sets]))


def split_tasks(env_id: str, seed: int | None = None, task_set: str = TRAIN) -> Splits:
    """The published train/test split of `env_id` (or that of another `seed`), validation tasks taken out of train.

    Args:
        task_set: a set that the family names for training, in place of the training tasks; test tasks are then those
            with as many actions.

    Raises:
        ValueError: `env_id` is not one of this package's environments, or has no such set, or no other split of it.
    """
    family = find_family(env_id)
    rest, test = family.tasks.split(seed=seed)
    check_known([task_set], [TRAIN, *family.training], "set of tasks to train on")
    if task_set != TRAIN:
        if seed is not None:
            raise ValueError(
                f"split_seed={seed} splits all tasks again, and task_set={task_set!r} is one of them: leave one out"
            )
        rest = rest.named(task_set)
        test = _like(test.without(rest), rest)
    if len(rest) < 2:
        raise ValueError(f"{env_id} has {len(rest)} training task, of two or more one is for validation: register more")
    train, validation = rest.split(1 - VALIDATION_SHARE, seed=0)
    if task_set != TRAIN:  # where a goal may come with several orders of the actions
        held_out = set(_first_arguments(validation))
        train = train.among(np.array([argument not in held_out for argument in _first_arguments(train)]))
    return Splits(train, validation, test)


def _first_arguments(tasks: TaskSet) -> list[Any]:
    return [task[tasks.family.task_names[0]] for task in tasks]


def _like(tasks: TaskSet, others: TaskSet) -> TaskSet:
    """Those of `tasks` that have as many actions as there are in `others`."""
    counts, wanted = (legal_mask(one.family, one.ids).sum(1) for one in (tasks, others))
    return tasks.among(np.isin(counts, wanted))
