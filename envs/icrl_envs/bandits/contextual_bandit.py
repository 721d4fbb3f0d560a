"""Contextual bandit: an arm's expected reward depends on an observed context, by hidden weights."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from icrl_envs.bandits.bandit import BanditRules
from icrl_envs.base.noise import FARTHEST, normals
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

DIM = 2  # of a context
BOUND = float(np.ceil(FARTHEST / DIM**0.5))  # no context is outside
DIRECTIONS = 128  # of contexts, to integrate over


class ContextualBandit(BanditRules):
    """Task: each arm's weights; the expected reward is their product with the context. Noise is standard normal."""

    task_names = ("weights",)
    eval_names = ("eval", "eval_scaled")
    eval_arms = (20, 25, 30, 40, 50, 100)
    arm_shape = (DIM,)
    limits = (-1000.0, 1000.0)
    observation_space = spaces.Box(-BOUND, BOUND, (DIM,), np.float32)

    @classmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draw weights (N, A, 2), normal with variance 1/2; twice as large in "eval_scaled"."""
        return rng.normal(size=(*shape, DIM)) / DIM**0.5 * (2 if name == "eval_scaled" else 1)

    @classmethod
    def best_mean(cls, values: np.ndarray) -> np.ndarray:
        """Give E max: the contexts' mean length, sqrt(pi) / 2, times the mean over their directions."""
        total = np.zeros(len(values))
        for angle in np.arange(DIRECTIONS // 2) * (2 * np.pi / DIRECTIONS):
            along = values @ np.array([np.cos(angle), np.sin(angle)])  # (N, A)
            total += along.max(1) - along.min(1)  # a direction and the opposite one
        return np.pi**0.5 / 2 * total / DIRECTIONS

    def context(self, position: np.ndarray) -> np.ndarray:
        """Draw the contexts (B, 2) float32, normal with variance 1/2."""
        return (normals(position, 0) / DIM**0.5).astype(np.float32)

    def means(self, position: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Give the products with the contexts."""
        x0, x1 = self.context(position).astype(np.float64).T[:, :, None]
        return (
            values[..., 0] * x0 + values[..., 1] * x1
        )  # rounded in the same way for one row and for many, unlike a dot product

    def reward(self, position: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Add standard normal noise."""
        return mean + normals(position, 2)[:, 0]

    def random_return(self, task: np.ndarray) -> np.ndarray:
        """Give 0: contexts and their opposites are as likely."""
        return np.zeros(len(task))

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Show the contexts."""
        return self.context(self.position(state))


class ContextualBanditEnv(ArrayEnv):
    """A bandit whose arms pay by a context.

    ## Description
    `icrl/ContextualBandit-v0` shows a new context before every pull. Each arm has two weights, the task; its expected
    reward is their product with the context. Episodes and lifetimes are as in `BernoulliBanditEnv`: 300 pulls.

    ## Action space
    `Discrete(100)`, of which a task has the first 4 to 20 (more in the sets num_25 to num_100), as in
    `BernoulliBanditEnv`.

    ## Observation space
    `Box(-7, 7, (2,), float32)`: the context, two normal numbers of variance 1/2.

    ## Reward
    The product of the context and the arm's weights, and standard normal noise.

    ## Episode end
    After 300 pulls `truncated` is set, never `terminated`.

    ## Arguments
    `weights=((0.1, -1.0), (0.7, 0.2))` fixes the task, a pair of numbers an arm; the rest is as in
    `BernoulliBanditEnv`.

    ## Tasks
    `FAMILIES[id].named(name)`: "train" (10,000 tasks with normal weights of variance 1/2), "eval" (the same law),
    "eval_scaled" (weights twice as large), "num_20", "num_25", "num_30", "num_40", "num_50" and "num_100" (so many
    arms). All but "train" are held out. Outside the split, to train on: "train_20" to "train_100", 2,000 tasks of so
    many arms each.

    ## Info
    As in `BernoulliBanditEnv`; `regret` and `success` are about the context of the pull, `optimal_return` is expected
    over contexts.

    ## Version
    v0: tasks as in the Headless-AD paper (Sinii et al. 2024), each with contexts and noise of its own.
    """

    rules_class = ContextualBandit


class ContextualBanditVectorEnv(ArrayVectorEnv):
    """Many `ContextualBanditEnv`s in NumPy."""

    rules_class = ContextualBandit
