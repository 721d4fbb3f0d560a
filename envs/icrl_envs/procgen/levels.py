"""Tasks of Procgen's families: one level, or a level drawn at random for every episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icrl_envs.base.checks import as_array, check_int, reject_unknown, short

TRAIN, TEST = 200, 100  # levels of the split; 200 are the training levels of Procgen's mode "easy"
ANY = 1000  # tasks whose episodes are on any level
TASKS = TRAIN + TEST
END = 2**31 - 1  # levels are below
ARGUMENTS = ("level", "num_levels", "start_level")


class Levels(NamedTuple):
    """Consecutive levels, one of which is drawn for every episode."""

    first: int
    number: int = 1

    def draw(self, rng: np.random.Generator) -> int:
        """Return a level; a single one needs no random number."""
        return self.first + (int(rng.integers(self.number)) if self.number > 1 else 0)


ALL_LEVELS = Levels(0, END)


def task_of(task_id: int) -> dict[str, Any]:
    """Return the make() arguments of a task id: a level, or from TASKS on any level."""
    check_int(task_id, "task", 0, TASKS + ANY - 1)
    return {"level": int(task_id)} if task_id < TASKS else {"level": None, "num_levels": 0}


def check_levels(level: Any = None, num_levels: Any = None, start_level: Any = 0) -> Levels | None:
    """Return the levels that these arguments choose, None if they choose none; ValueError for others."""
    start = check_int(start_level, "start_level", 0, END - 1)
    if start and not num_levels:
        raise ValueError(f"start_level={start} without num_levels: give num_levels=1 or more, or leave it out.")
    if level is not None:
        if num_levels is not None:
            raise ValueError(f"level={short(level)} and num_levels={short(num_levels)} both choose levels: give one.")
        return Levels(check_int(level, "level", 0, END - 1))
    if num_levels is None:
        return None
    count = check_int(num_levels, "num_levels", 0, END - start)
    return Levels(start, count) if count else ALL_LEVELS  # Procgen's 0


def draw_task(rng: np.random.Generator) -> Levels:
    """Return a level of the split."""
    return Levels(int(rng.integers(TASKS)))


def read_tasks(task: Any, num: int) -> list[Levels]:
    """Return the tasks of `num` rows from `options["task"]`: one dict or id for all of them, or one per row."""
    if isinstance(task, Mapping):
        return [_levels(task)] * num
    if isinstance(task, Sequence) and len(task) == num and all(isinstance(one, Mapping) for one in task):
        return [_levels(one) for one in task]
    ids = as_array(task)
    if ids.dtype.kind not in "iu" or ids.shape not in ((), (num,)):
        raise ValueError(
            f"options['task']={short(task)}: give a dict such as {{'level': 5}}, or {num} of them (one a row), or an "
            f"integer array of {num} task ids."
        )
    return [_levels(task_of(int(one))) for one in np.broadcast_to(ids, num)]


def _levels(task: Mapping[str, Any]) -> Levels:
    reject_unknown(task, ARGUMENTS, "task argument")
    found = check_levels(**task)
    if found is None:
        raise ValueError(f"task {short(dict(task))} chooses no level: give one, such as {{'level': 5}}.")
    return found
