"""Capabilities: optional parts of a task family, such as an optimal return or an expert."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum

import numpy as np


class Capability(StrEnum):
    """An optional part of a family, declared in `Family.capabilities`; a declared one must be implemented.

    Axis letters: B rows, N tasks, A actions.
    """

    SUCCESS = "success"
    """Infos hold `success` (bool): whether the row has done what its task asks."""
    OPTIMAL_RETURN = "optimal_return"
    """`Family.optimal_return(tasks)` is defined, and infos hold `optimal_return` (float)."""
    RANDOM_RETURN = "random_return"
    """`Family.random_return(tasks)` is defined: the expected return of uniformly random legal actions."""
    BELIEF = "belief"
    """`Family.belief(rows, rng, sharpness)` is defined: what a learner infers that knows the dynamics, not the task."""
    REGRET = "regret"
    """Infos hold `regret` (float): expected reward of the best action less that of the action just taken."""
    EXPERT = "expert"
    """Environments have `expert_action()`: an optimal action of a player that knows the task."""
    TASK_EXPERTS = "task_experts"
    """`expert_action` takes task ids: `expert_action(task)` of an environment and `expert_action(tasks)` of a vector
    environment, with tasks (B,), return the actions of those tasks' experts in the present states. Array rules with an
    expert have it without a declaration."""
    ACTION_MASKS = "action_masks"
    """Tasks differ in their legal actions: `Family.action_mask(tasks)` is defined, environments have `action_mask()`,
    and infos hold `action_mask` (A,) int8."""


class UndeclaredError(ValueError):
    """Use of a capability that the family does not declare."""


class Belief(ABC):
    """Posterior over the tasks of B rows, given the dynamics of a family; observes obs, action and reward only.

    Where the task may change (`changing`), a row without a possible task forgets all evidence but the latest.
    """

    changing = False  # whether the task of a row may change; set before the first step

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


def draw_hypotheses(
    possible: np.ndarray, cost: np.ndarray, sharpness: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Indices (N, ...) of possible hypotheses, drawn with weights exp(-sharpness * cost).

    With infinite sharpness it is the cheapest one, of equally cheap ones the first, so that a search has one order.

    Args:
        possible: (N, ..., H) bool; the result is arbitrary where none is.
        cost: steps to test each, broadcast to (N, ..., H).
        sharpness: (N,).
        rng: generator.
    """
    weight = sharpness.reshape(-1, *[1] * (possible.ndim - 1))
    ordered = np.isinf(weight)
    noise = np.where(ordered, 0.0, rng.gumbel(size=possible.shape))  # argmax with Gumbel noise samples from a softmax
    return np.where(possible, noise - np.where(ordered, 1.0, weight) * cost, -np.inf).argmax(-1)
