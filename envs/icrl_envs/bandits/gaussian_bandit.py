"""Gaussian bandits of the original DPT: five independent arms, or ten arms linear in a two-dimensional task vector."""

from __future__ import annotations

import numpy as np

from icrl_envs.bandits.bandit import PlainBandit
from icrl_envs.base.noise import normals
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

NOISE = 0.3  # standard deviation of the reward noise
DIM, FEATURE_SEED = 2, 1234  # dimension and NumPy seed of the arms' features, as in the original code


class GaussianBandit(PlainBandit):
    """Task: the expected reward of each arm."""

    train_tasks, eval_names, eval_arms = 100_000, ("eval",), ()
    limits = (-1000.0, 1000.0)

    def __init__(self, num_arms: int = 5, horizon: int = 500):
        super().__init__(num_arms, horizon)

    @classmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Sample means (N, A), uniform in (0, 1)."""
        return rng.random(shape)

    def reward(self, position: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Add normal noise."""
        return mean + NOISE * normals(position, 0)[:, 0]  # (B,)


class LinearBandit(GaussianBandit):
    """Task: two numbers; an arm's mean is their dot product with its features, which are the same in all tasks."""

    def __init__(self, num_arms: int = 10, horizon: int = 200):
        super().__init__(num_arms, horizon)

    @staticmethod
    def features(num_arms: int) -> np.ndarray:
        """Return the features (A, 2) of the original code, normal with variance 1/2."""
        # NumPy's legacy generator, as in the original code
        return np.random.RandomState(FEATURE_SEED).normal(size=(num_arms, DIM)) / DIM**0.5

    @classmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Sample means (N, A), linear in a normal task vector of variance 1/2."""
        return (rng.normal(size=(shape[0], 1, DIM)) / DIM**0.5 * cls.features(shape[1])).sum(-1)  # (N, A, 2) -> (N, A)


class GaussianBanditEnv(ArrayEnv):
    """A bandit with normal rewards.

    ## Description
    `icrl/GaussianBandit-v0` has five arms with fixed means: the task. Episodes and lifetimes are as in
    `BernoulliBanditEnv`, of 500 pulls.

    ## Action space
    `Discrete(5)`.

    ## Observation space
    `Discrete(1)`: always 0.

    ## Reward
    The arm's mean plus normal noise of standard deviation 0.3.

    ## Episode end
    After 500 pulls `truncated` is set, never `terminated`.

    ## Arguments
    `means=(0.1, 0.8, 0.3, 0.5, 0.2)` fixes the task; `num_arms` and the rest are as in `BernoulliBanditEnv`.

    ## Tasks
    `FAMILIES[id].named(name)`: "train" (100,000 tasks, means uniform in (0, 1)) and "eval" (200 more, held out).

    ## Info
    As in `BernoulliBanditEnv`.

    ## Version
    v0: tasks as in the original DPT (Lee et al. 2023).
    """

    rules_class = GaussianBandit


class GaussianBanditVectorEnv(ArrayVectorEnv):
    """Many `GaussianBanditEnv`s in NumPy."""

    rules_class = GaussianBandit


class LinearBanditEnv(ArrayEnv):
    """A Gaussian bandit with means linear in two hidden numbers.

    ## Description
    `icrl/LinearBandit-v0` is a `GaussianBanditEnv` of ten arms and 200 pulls. Every arm has two fixed features, those
    of the original code, `LinearBandit.features(10)`; its mean is their dot product with two numbers of the task,
    normal with variance 1/2. A learner that has seen many tasks can infer all means from two arms.

    ## Action space
    `Discrete(10)`.

    ## Observation space, reward, episode end, arguments, tasks, info
    As in `GaussianBanditEnv`; the argument `means` need not be linear in the features.

    ## Version
    v0: tasks as in the original DPT (Lee et al. 2023), which trained on a million of them.
    """

    rules_class = LinearBandit


class LinearBanditVectorEnv(ArrayVectorEnv):
    """Many `LinearBanditEnv`s in NumPy."""

    rules_class = LinearBandit
