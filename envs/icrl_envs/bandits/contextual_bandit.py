"""Contextual bandit: expected rewards are linear in an observed context, with hidden weights per arm."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from icrl_envs.bandits.bandit import BanditRules
from icrl_envs.base.noise import FARTHEST, normals
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

DIM = 2  # dimensions of a context
BOUND = float(np.ceil(FARTHEST / DIM**0.5))  # bound of every context coordinate
DIRECTIONS = 128  # quadrature points over the directions of a context


class ContextualBandit(BanditRules):
    """Task: weights per arm; the expected reward is their dot product with the context. Noise is standard normal."""

    task_names = ("weights",)
    eval_names = ("eval", "eval_scaled")
    eval_arms = (20, 25, 30, 40, 50, 100)
    arm_shape = (DIM,)
    limits = (-1000.0, 1000.0)
    observation_space = spaces.Box(-BOUND, BOUND, (DIM,), np.float32)

    @classmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Sample weights (N, A, 2), normal with variance 1/2; twice as large in "eval_scaled"."""
        return rng.normal(size=(*shape, DIM)) / DIM**0.5 * (2 if name == "eval_scaled" else 1)

    @classmethod
    def best_mean(cls, values: np.ndarray) -> np.ndarray:
        """Return E[max over arms] (N,): the mean context length, sqrt(pi) / 2, times the mean over directions."""
        total = np.zeros(len(values))
        for angle in np.arange(DIRECTIONS // 2) * (2 * np.pi / DIRECTIONS):
            along = values @ np.array([np.cos(angle), np.sin(angle)])  # (N, A)
            total += along.max(1) - along.min(1)  # this direction and the opposite one
        return np.pi**0.5 / 2 * total / DIRECTIONS

    def context(self, position: np.ndarray) -> np.ndarray:
        """Sample the contexts (B, 2) float32, normal with variance 1/2."""
        return (normals(position, 0) / DIM**0.5).astype(np.float32)

    def means(self, position: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the dot products (B, W) of the arms' weights with the contexts."""
        x0, x1 = self.context(position).astype(np.float64).T[:, :, None]  # (B, 1) each
        return (
            values[..., 0] * x0 + values[..., 1] * x1
        )  # unlike a matrix product, the rounding does not depend on the number of rows

    def reward(self, position: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Add standard normal noise."""
        return mean + normals(position, 2)[:, 0]

    def random_return(self, task: np.ndarray) -> np.ndarray:
        """Return 0: contexts x and -x are equally probable."""
        return np.zeros(len(task))

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return the contexts (B, 2) float32."""
        return self.context(self.position(state))


class ContextualBanditEnv(ArrayEnv):
    """A bandit with rewards linear in a context.

    ## Description
    `icrl/ContextualBandit-v0` shows a new context before every pull. Each arm has two weights, the task; its expected
    reward is their dot product with the context. Episodes and lifetimes are as in `BernoulliBanditEnv`: 300 pulls.

    ## Action space
    `Discrete(100)`, of which a task has the first 4 to 20 (more in the sets num_25 to num_100), as in
    `BernoulliBanditEnv`.

    ## Observation space
    `Box(-7, 7, (2,), float32)`: the context, two normal numbers of variance 1/2.

    ## Reward
    The dot product of the context and the arm's weights, plus standard normal noise.

    ## Episode end
    After 300 pulls `truncated` is set, never `terminated`.

    ## Arguments
    `weights=((0.1, -1.0), (0.7, 0.2))` fixes the task, one pair per arm; the rest is as in `BernoulliBanditEnv`.

    ## Tasks
    `FAMILIES[id].named(name)`: "train" (10,000 tasks with normal weights of variance 1/2), "eval" (the same
    distribution), "eval_scaled" (weights twice as large), "num_20", "num_25", "num_30", "num_40", "num_50" and
    "num_100" (that many arms). All but "train" are held out. Outside the split, for training: "train_20" to
    "train_100", 2,000 tasks each, of that many arms.

    ## Info
    As in `BernoulliBanditEnv`; `regret` and `success` refer to the context of the pull, `optimal_return` is an
    expectation over contexts.

    ## Version
    v0: tasks as in the Headless-AD paper (Sinii et al. 2024), with independent contexts and noise in each row.
    """

    rules_class = ContextualBandit


class ContextualBanditVectorEnv(ArrayVectorEnv):
    """Many `ContextualBanditEnv`s in NumPy."""

    rules_class = ContextualBandit
