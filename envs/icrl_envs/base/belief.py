"""Belief: what a learner infers about the tasks of its rows. Axis letters: B rows, N draws."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Belief(ABC):
    """Posterior over the tasks of B rows, given a family's dynamics; it sees obs, action and reward only."""

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
