"""What a family writes: its dynamics on arrays, and what a learner believes who knows them. Axis letter: B rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from icrl_envs.checks import reject_unknown


class Rules(ABC):
    """One family's dynamics on B rows at once.

    A row's whole situation is one int64 `state`, its task one int64 `task` in `range(known_tasks)`; arrays are (B,)
    unless said otherwise. Methods draw nothing at random, change none of their arguments and return fresh arrays.
    A `stochastic` family keeps its place in the randomness (`noise.py`) in its state, and `resume`s from there; the
    shell draws the first place from a row's own generator. An episode ends by its horizon unless `terminated` says so.

    A family may also define `belief(rows, rng, sharpness=1.0) -> Belief`: what a learner believes who knows these rules
    but not the tasks of its rows. `sharpness`, a float or one a row, is how much draws prefer what is quickly tested;
    0 is the plain posterior.
    """

    task_names: ClassVar[tuple[str, ...]]  # the make() arguments that fix a task
    observation_space: spaces.Space
    action_space: spaces.Discrete
    horizon: int  # steps in an episode
    lifetime: ClassVar[int] = 50  # episodes in which a learner is measured, as published
    num_tasks: int
    stochastic: ClassVar[bool] = False
    bandit: ClassVar[bool] = False  # an action influences its own reward and nothing else
    named: Mapping[str, range] = MappingProxyType({})  # task ids of the published sets that have a name
    extra: Mapping[str, range] = MappingProxyType({})  # and of sets outside the split, whose ids follow
    training: tuple[str, ...] = ()  # sets that an agent may be trained on in place of the training tasks

    @property
    def sets(self) -> dict[str, range]:
        """The task ids of all sets that have a name."""
        return {**self.named, **self.extra}

    @property
    def set_tasks(self) -> int:
        """How many tasks there are in the split and in all sets."""
        return max([self.num_tasks, *(ids.stop for ids in self.extra.values())])

    @property
    def known_tasks(self) -> int:
        """How many tasks have an id: those given by hand may add some."""
        return self.set_tasks

    @abstractmethod
    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Give the make() arguments of a task."""

    def task_id(self, **task: Any) -> int:
        """Give the id of the task that these make() arguments fix; ValueError if there is none."""
        reject_unknown(task, self.task_names, "task argument")
        if len(task) < len(self.task_names):
            raise ValueError(f"task {task}: give {' and '.join(self.task_names)}, such as {self.task_kwargs(0)}.")
        return self._task_id(**task)

    @abstractmethod
    def _task_id(self, **task: Any) -> int:
        """Do what `task_id` does, given exactly `task_names`; ValueError for a bad value."""

    @abstractmethod
    def start(self, task: np.ndarray) -> np.ndarray:
        """Give the state in which an episode begins."""

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Give the state in which the episode after `state` begins; in a stochastic family that is at first random."""
        return self.start(task)

    @abstractmethod
    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the next state and its reward (float64)."""

    def terminated(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Tell (bool) where an episode ends before its horizon."""
        return np.zeros(len(state), bool)

    def action_mask(self, task: np.ndarray) -> np.ndarray:
        """Tell (B, A) int8 which actions are legal: all of them, unless a family has tasks with fewer."""
        return np.ones((len(task), self.action_space.n), np.int8)

    @abstractmethod
    def observe(self, state: np.ndarray) -> np.ndarray:
        """Give the observations (B, ...), which tell nothing of the task."""

    @abstractmethod
    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Tell (bool) whether the row has now done what its task asks."""

    @abstractmethod
    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Give the highest return (float64) of one episode for a player who knows the task."""

    def facts(self, state: np.ndarray, task: np.ndarray) -> dict[str, np.ndarray]:
        """Give what infos tell beside the task, each (B, ...)."""
        return {"success": self.success(state, task), "optimal_return": self.optimal_return(task)}

    @abstractmethod
    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Give the action (int64) of a player who knows the task."""

    @abstractmethod
    def frame(self, state: int, task: int) -> np.ndarray:
        """Draw one row: uint8 (height, width, 3)."""

    @abstractmethod
    def text(self, state: int, task: int) -> str:
        """Write one row down for a terminal."""


class Belief(ABC):
    """What B learners know who know a family's rules but not their task; fed by obs, action and reward only."""

    @abstractmethod
    def begin(self, starts: np.ndarray, obs: np.ndarray) -> None:
        """Note that a new episode begins at `obs` (B, ...) in the rows where `starts` (B,) bool."""

    @abstractmethod
    def update(
        self, live: np.ndarray, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray
    ) -> None:
        """Learn from one real step in the rows where `live` (B,) bool; `next_obs` may be an episode's final obs."""

    @abstractmethod
    def possible(self, task: np.ndarray) -> np.ndarray:
        """Tell (B,) bool whether the task (B,) is consistent with everything its row has seen."""

    @abstractmethod
    def sample(self, rows: np.ndarray, steps_left: int | np.ndarray) -> np.ndarray:
        """Draw tasks (N,) for the rows with indices `rows` (N,) that have `steps_left` steps until the horizon."""

    @abstractmethod
    def action(self, task: np.ndarray) -> np.ndarray:
        """Give actions (B,) that would be optimal now if the tasks were `task` (B,)."""
