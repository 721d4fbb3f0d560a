"""Task splits of a family: train, validation (for model selection) and test (for the reported results)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_known
from icrl_agents.core.families import TaskSet, find_family, legal_mask

TRAIN = "train"  # default task set for training
ALL = "all"  # every task of the family, training tasks included
VALIDATION_SHARE = 0.1  # share of the published train split held out for model selection


class Splits(NamedTuple):
    """Disjoint task sets of one environment id."""

    train: TaskSet
    validation: TaskSet
    test: TaskSet

    def pick(self, name: str) -> TaskSet:
        """Task set `name`: a split, "all", or a named set of the family, such as "num_50" of the bandits."""
        check_known([name], self.names(), "split")
        if name == ALL:
            return self.test.family.tasks
        return getattr(self, name) if name in self._fields else self.test.named(name)

    def names(self) -> list[str]:
        """Names that `pick` accepts."""
        return list(dict.fromkeys([*self._fields, ALL, *self.test.family.sets]))


def split_tasks(env_id: str, seed: int | None = None, task_set: str = TRAIN) -> Splits:
    """Published train/test split of `env_id`, with validation tasks held out of train.

    Args:
        seed: seed of another split; None: the published one.
        task_set: a named set of the family to train on; test tasks are then those with as many legal actions.

    Raises:
        ValueError: `env_id` is not registered, the family has no such set, or `seed` is given with a named set.
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
        raise ValueError(
            f"{env_id} has {len(rest)} training task, of two or more one is for validation: "
            "register more tasks, or a split with a larger share of training tasks"
        )
    train, validation = rest.split(min(1 - VALIDATION_SHARE, 1 - 1 / len(rest)), seed=0)  # one task at least
    if task_set != TRAIN:  # a goal may occur under several action permutations: keep validation goals out of train
        held_out = {*_first_arguments(validation)} - {None}  # None: a task without a goal of its own
        train = train.among(np.array([argument not in held_out for argument in _first_arguments(train)]))
    return Splits(train, validation, test)


def training_tasks(env_id: str, tasks: Sequence[int]) -> np.ndarray:
    """Ids of the training tasks of the smallest set to train on that holds `tasks`, ids; else of the published split.

    Without validation and test tasks, whatever `tasks` are.
    """
    sets = [split_tasks(env_id, task_set=name) for name in (TRAIN, *find_family(env_id).training)]
    holding = [one.train.ids for one in sets if np.isin(tasks, [*one.train.ids, *one.validation.ids]).all()]
    return min(holding or [sets[0].train.ids], key=len)


def _first_arguments(tasks: TaskSet) -> list[Any]:
    return [task[tasks.family.task_names[0]] for task in tasks]


def _like(tasks: TaskSet, others: TaskSet) -> TaskSet:
    """The `tasks` whose number of legal actions occurs among `others`."""
    counts, wanted = (legal_mask(one.family, one.ids).sum(1) for one in (tasks, others))
    return tasks.among(np.isin(counts, wanted))
