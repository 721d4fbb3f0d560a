"""Tasks of a family as plain data: a list of dicts, or dicts drawn from ranges or by a function."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from icrl_envs.base.checks import check_int, reject_unknown, short

Task = dict[str, Any]
Tasks = Sequence[Mapping[str, Any]] | Mapping[str, Any] | Callable[[np.random.Generator], Mapping[str, Any]]

NUM_TASKS = 100
MAX_TASKS = 100_000
REPEATS = 1000  # draws in a row without a new task after which there are too few
DIGITS = 6  # significant digits of a drawn float, so that a task is readable
WHOLE, MOST = 1e18, 1e300  # largest whole number and largest other one of a range that NumPy can draw from
RANGE = ("low", "high", "log")  # names of a range


def read_tasks(tasks: Any, num_tasks: int | None = None, seed: int = 0) -> tuple[Task, ...]:
    """Return two or more different tasks as dicts of plain values.

    Args:
        tasks: a list of dicts with the same names, returned as given; or a dict of names to a fixed value, a list of
            choices, or a range `{"low": 0.3, "high": 2.0}`; or a function from a `numpy.random.Generator` to a dict. A
            range with two whole numbers yields whole numbers, both ends included; `"log": True` draws evenly on the
            logarithmic scale. Drawn floats have 6 significant digits.
        num_tasks: number of tasks to draw, 100 by default; only for tasks that are drawn.
        seed: seed of the draws.

    Raises:
        ValueError: an argument is not allowed, or the ranges hold too few different tasks.
    """
    if isinstance(tasks, Sequence) and not isinstance(tasks, str | bytes):
        if num_tasks is not None:
            raise ValueError(f"num_tasks={short(num_tasks)} with a list of {len(tasks)} tasks: leave num_tasks out.")
        return check_tasks(tasks)
    count = check_int(NUM_TASKS if num_tasks is None else num_tasks, "num_tasks", 2, MAX_TASKS)
    if isinstance(tasks, Mapping) and tasks:
        ranges = {name: _sampler(str(name), value) for name, value in tasks.items()}
        return _draw(lambda rng: {name: sample(rng) for name, sample in ranges.items()}, count, seed)
    if callable(tasks):
        return _draw(tasks, count, seed)
    raise ValueError(
        f"tasks={short(tasks)}: give a list of two or more dicts, a dict of ranges, or a function that draws a dict."
    )


def check_tasks(tasks: Sequence[Any], least: int = 2) -> tuple[Task, ...]:
    """Return copies of a list of tasks; ValueError unless they are different dicts with the same names."""
    if len(tasks) < least:
        raise ValueError(f"tasks={short(tasks)}: give a list of {'two' if least == 2 else 'one'} or more dicts.")
    seen: dict[str, int] = {}
    for number, task in enumerate(tasks):
        first = seen.setdefault(task_key(task, number, tasks[0]), number)
        if first != number:
            raise ValueError(f"tasks {first} and {number} are the same, {short(task)}: give each task once.")
    return tuple(copy.deepcopy(dict(task)) for task in tasks)


def task_key(task: Any, number: int, first: Mapping[str, Any]) -> str:
    """Return task `number` as JSON text, the same for equal ones; ValueError for no plain data or other names."""
    if not isinstance(task, Mapping) or not task or not all(isinstance(name, str) for name in task):
        raise ValueError(f"task {number} is {short(task)}: give a dict of names and values, one or more.")
    if task.keys() != first.keys():
        ours, theirs = short(list(task)), short(list(first))
        raise ValueError(f"task {number} has the arguments {ours}, task 0 has {theirs}: give all tasks the same.")
    if "max_episode_steps" in task:
        raise ValueError(f"task {number} sets max_episode_steps, which all tasks share: give horizon=... instead.")
    try:
        key = json.dumps(dict(task), sort_keys=True, allow_nan=False)
        if json.loads(key) != dict(task):  # a tuple, or a name that is no string: JSON, as of an agent, changes them
            raise TypeError(task)
        return json.dumps(json.loads(key, parse_float=_number), sort_keys=True)
    except (TypeError, ValueError):
        fix = "give finite Python numbers, strings, lists (no tuples) of them, or dicts of them, named by strings"
        raise ValueError(f"task {number} is {short(task)}: {fix}.") from None


def checksum(value: Any) -> str:
    """Return the SHA-256 of plain data as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _number(text: str) -> int | float:
    """Return a JSON number in the one form of all that are equal: 1.0 as 1, and -0.0 as 0."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _draw(sample: Callable[[np.random.Generator], Any], count: int, seed: int) -> tuple[Task, ...]:
    """Draw different tasks; a repeated one is drawn again."""
    rng = np.random.default_rng(check_int(seed, "seed", 0, 2**63 - 1))
    found: dict[str, Task] = {}
    repeats = 0
    while len(found) < count:
        task = _plain(sample(rng))
        key = task_key(task, len(found), next(iter(found.values()), task))
        repeats = repeats + 1 if key in found else 0
        if repeats == REPEATS:
            raise ValueError(
                f"tasks hold about {len(found)} different ones, num_tasks={count} are wanted: lower num_tasks or widen "
                "a range."
            )
        found.setdefault(key, copy.deepcopy(task))
    return tuple(found.values())


def _plain(task: Any) -> Any:
    """Return a drawn task with Python numbers in place of NumPy ones."""
    if not isinstance(task, Mapping):
        return task
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in task.items()}


def _sampler(name: str, value: Any) -> Callable[[np.random.Generator], Any]:
    """Return the function that draws the value of `name`: from a range, from a list of choices, or a fixed one."""
    if isinstance(value, Mapping):
        return _range(name, value)
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"tasks have no choice of {name}: give a list of one or more values.")
        return lambda rng: value[int(rng.integers(len(value)))]
    return lambda rng: value


def _range(name: str, limits: Mapping[str, Any]) -> Callable[[np.random.Generator], Any]:
    reject_unknown(map(str, limits), RANGE, f"part of the range of {name}")
    parts: tuple[Any, Any, Any] = (limits.get("low"), limits.get("high"), limits.get("log"))
    low, high, log = parts
    if not _is_number(low) or not _is_number(high) or not low < high or log not in (None, False, True):
        fix = f"give low < high, whole numbers to {WHOLE:g} or others to {MOST:g}, and log = true or false"
        raise ValueError(f"the range of {name} is {short(dict(limits))}: {fix}.")
    if log and low <= 0:
        raise ValueError(f"the range of {name} starts at low={low}: a logarithmic scale needs one above 0.")
    return _whole(low, high, bool(log)) if isinstance(low, int) and isinstance(high, int) else _real(low, high, log)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= (WHOLE if isinstance(value, int) else MOST)  # False for NaN


def _whole(low: int, high: int, log: bool) -> Callable[[np.random.Generator], int]:
    """Draw whole numbers from `low` to `high`, both included."""
    if not log:
        return lambda rng: int(rng.integers(low, high, endpoint=True))
    ends = math.log(low), math.log(high + 1)
    return lambda rng: min(int(math.exp(rng.uniform(*ends))), high)


def _real(low: float, high: float, log: Any) -> Callable[[np.random.Generator], float]:
    ends = (math.log(low), math.log(high)) if log else (low, high)

    def sample(rng: np.random.Generator) -> float:
        value = float(rng.uniform(*ends))
        return min(max(float(f"{math.exp(value) if log else value:.{DIGITS}g}"), low), high)

    return sample
