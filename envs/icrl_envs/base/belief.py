"""Belief: interface of a posterior over tasks. Axis letters: B rows, N samples."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Belief(ABC):
    """Posterior over the tasks of B rows, given the dynamics of a family; observes obs, action and reward only."""

    @abstractmethod
    def begin(self, starts: np.ndarray, obs: np.ndarray) -> None:
        """Start a new episode at `obs` (B, ...) in the rows where `starts` (B,) bool is true."""

    @abstractmethod
    def update(
        self, live: np.ndarray, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray
    ) -> None:
        """Condition on one step in the rows where `live` (B,) bool is true; `next_obs` may be a final observation."""

    @abstractmethod
    def possible(self, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: `task` (B,) is consistent with all observations of its row."""

    @abstractmethod
    def sample(self, rows: np.ndarray, steps_left: int | np.ndarray) -> np.ndarray:
        """Sample tasks (N,) for the rows with indices `rows` (N,), given `steps_left` until the horizon."""

    @abstractmethod
    def action(self, task: np.ndarray) -> np.ndarray:
        """Return optimal actions (B,) under the hypotheses `task` (B,)."""
