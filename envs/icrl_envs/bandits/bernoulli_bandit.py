"""Bernoulli bandit: rewards 1 or 0, with a hidden probability per arm."""

from __future__ import annotations

import numpy as np

from icrl_envs.bandits.bandit import PlainBandit
from icrl_envs.base.noise import uniform
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

COMMON = 0.95  # share of tasks with better odd arms in "train"; 1 - COMMON in "inverse"


class BernoulliBandit(PlainBandit):
    """Task: the reward probability of each arm, which is its expected reward."""

    eval_names = ("inverse", "all_new")
    eval_arms = (10, 20, 25, 30, 40, 50)
    limits = (0.0, 1.0)

    @classmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Sample means (N, A); arms 1, 3, 5, ... are better in 95% of the tasks in "train", in 5% in "inverse"."""
        means = rng.random(shape)
        if name not in ("train", "inverse"):
            return means
        odd_pays = rng.permutation(shape[0]) < (COMMON if name == "train" else 1 - COMMON) * shape[0] - 0.5  # (N,)
        odd_arm = np.arange(shape[1]) % 2 == 1  # (A,)
        return means / 2 + 0.5 * (odd_arm == odd_pays[:, None])  # better half in (0.5, 1), the other in (0, 0.5)

    def reward(self, position: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Sample 1 with probability `mean`, else 0."""
        return (uniform(position, 0) < mean).astype(np.float64)


class BernoulliBanditEnv(ArrayEnv):
    """A bandit with rewards 1 and 0.

    ## Description
    `icrl/BernoulliBandit-v0` has arms with fixed reward probabilities: the task. Pulls change no state, so one episode
    of 300 pulls is a whole lifetime, as published: measure learners with `evaluate(..., episodes=1)`. Further episodes
    have the same arms, for learners with memory.

    ## Action space
    `Discrete(50)`, of which a task has the first 4 to 20 (more in the sets num_25 to num_50): its action set, marked
    by 1 in `info["action_mask"]`. An illegal arm has the expected reward of the task's worst arm.

    ## Observation space
    `Discrete(1)`: always 0.

    ## Reward
    1.0 with the arm's probability, else 0.0.

    ## Episode end
    After 300 pulls `truncated` is set, never `terminated`.

    ## Arguments
    `means=(0.1, 0.8, 0.3)` fixes the task, and with it the action set, here or in
    `reset(options={"task": {"means": ...}})`. `num_arms=10` sets the number of arms in every task, and of actions.
    Sampling of tasks and `horizon` are as in `DarkroomEnv`. A bandit outside all sets gets an id after theirs, which
    is valid in that environment only.

    ## Tasks
    `FAMILIES[id].named(name)`: "train" (10,000 tasks; in 95% the arms 1, 3, 5, ... have means uniform in (0.5, 1), the
    others in (0, 0.5), in 5% the other way round), "inverse" (5% and 95%), "all_new" (all means uniform in (0, 1)),
    "num_10", "num_20", "num_25", "num_30", "num_40" and "num_50" (that many arms, uniform). All but "train" are held
    out. Outside the split, for training: "train_10" to "train_50", 2,000 tasks each, of that many arms, with the
    distribution of "train".

    ## Info
    `task`, `success` (the best arm was pulled), `optimal_return` (expected), `regret` (of this step: the best arm's
    mean minus that of the pulled arm) and `action_mask` (int8, as `action_space.sample` takes it). All but
    `action_mask` are for display and metrics only.

    ## Version
    v0: tasks as in the Headless-AD paper (Sinii et al. 2024), with independent noise in each row.
    """

    rules_class = BernoulliBandit


class BernoulliBanditVectorEnv(ArrayVectorEnv):
    """Many `BernoulliBanditEnv`s in NumPy."""

    rules_class = BernoulliBandit
