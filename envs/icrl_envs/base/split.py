"""Split: shuffle of the tasks of a family, and their division into training and test tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from icrl_envs.base.checks import check_int, short

Shuffle = Callable[[list[int], int], None]  # shuffles a list in place from a seed


def python_shuffle(ids: list[int], seed: int) -> None:
    """Shuffle in place like `random.seed(seed); random.shuffle(ids)`."""
    random.Random(seed).shuffle(ids)


def numpy_shuffle(ids: list[int], seed: int) -> None:
    """Shuffle in place like `numpy.random.RandomState(seed).shuffle(ids)`."""
    np.random.RandomState(seed).shuffle(ids)


def keep_order(ids: list[int], seed: int) -> None:
    """Keep the order for seed 0, the published split; shuffle like `python_shuffle` for other seeds."""
    if seed:
        python_shuffle(ids, seed)


@dataclass(frozen=True)
class DeclaredTest:
    """Shuffle of training tasks only: those from `num_train` on are the test tasks of every seed."""

    num_train: int

    def __call__(self, ids: list[int], seed: int) -> None:
        """Shuffle the training tasks in place, and put the test tasks last."""
        train, test = [task for task in ids if task < self.num_train], [task for task in ids if task >= self.num_train]
        python_shuffle(train, seed)
        ids[:] = train + test

    def trainable(self, ids: list[int]) -> int:
        """Return how many of these tasks are no test tasks."""
        return sum(task < self.num_train for task in ids)


class Split(NamedTuple):
    """A split of tasks: ids are shuffled with a seed; the first part is for training, the rest for tests."""

    fraction: float = 0.9  # share of training tasks, above 0 and below 1
    seed: int = 0  # seed of the shuffle
    shuffle: Shuffle = python_shuffle


def check_split(split: Any) -> Split:
    """Return a `Split` from a `Split` or (fraction, seed); ValueError for other values."""
    try:
        found = Split(*split)
        fits = 0 < found.fraction < 1
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"split={short(split)}: give (fraction, seed), a fraction between 0 and 1, such as (0.9, 0).")
    return found._replace(seed=check_int(found.seed, "seed of the split", 0, 2**32 - 1))
