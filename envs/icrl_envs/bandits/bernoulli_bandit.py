"""Bernoulli bandit: arms that pay 1 or nothing, each with a hidden probability."""

from __future__ import annotations

import numpy as np

from icrl_envs.bandits.bandit import PlainBandit
from icrl_envs.base.noise import uniform
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

COMMON = 0.95  # share of the usual tasks in training, which are the rare ones in "inverse"


class BernoulliBandit(PlainBandit):
    """Task: each arm's chance to pay, which is its expected reward."""

    eval_names = ("inverse", "all_new")
    eval_arms = (10, 20, 25, 30, 40, 50)
    limits = (0.0, 1.0)

    @classmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draw means (N, A): in "train" mostly, in "inverse" rarely, the arms 1, 3, 5, ... are the better half."""
        means = rng.random(shape)
        if name not in ("train", "inverse"):
            return means
        odd_pays = rng.permutation(shape[0]) < (COMMON if name == "train" else 1 - COMMON) * shape[0] - 0.5
        odd_arm = np.arange(shape[1]) % 2 == 1
        return means / 2 + 0.5 * (odd_arm == odd_pays[:, None])

    def reward(self, position: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Draw 1 with the chance `mean`, else 0."""
        return (uniform(position, 0) < mean).astype(np.float64)


class BernoulliBanditEnv(ArrayEnv):
    """A bandit whose arms pay 1 or nothing.

    ## Description
    `icrl/BernoulliBandit-v0` has arms with fixed chances to pay: the task. Nothing else happens, so 300 pulls, one
    episode, are a whole lifetime, as published: measure learners with `evaluate(..., episodes=1)`. Further episodes
    go on with the same arms, for learners that remember.

    ## Action space
    `Discrete(50)`, of which a task has the first 4 to 20 (more in the sets num_25 to num_50): its action set, the
    ones of `info["action_mask"]`. An arm that the task does not have pays like the worst one that it has.

    ## Observation space
    `Discrete(1)`: always 0.

    ## Reward
    1.0 with the chance of the arm, else 0.0.

    ## Episode end
    After 300 pulls `truncated` is set, never `terminated`.

    ## Arguments
    `means=(0.1, 0.8, 0.3)` fixes the task, and with it the action set, here or in
    `reset(options={"task": {"means": ...}})`. `num_arms=10` gives every task that many arms, and the action space as
    many actions. Tasks are drawn and held, and `horizon` given, as in `DarkroomEnv`. A bandit that is in no set gets
    an id behind them, which counts in that environment alone.

    ## Tasks
    `FAMILIES[id].named(name)`: "train" (10,000 tasks; in 95% the arms 1, 3, 5, ... have means uniform in (0.5, 1), the
    others in (0, 0.5), in 5% the other way round), "inverse" (5% and 95%), "all_new" (all means uniform in (0, 1)),
    "num_10", "num_20", "num_25", "num_30", "num_40" and "num_50" (so many arms, uniform). All but "train" are held out.
    Outside the split, to train on: "train_10" to "train_50", 2,000 tasks of so many arms each with the law of "train".

    ## Info
    `task`, `success` (the best arm was pulled), `optimal_return` (expected), `regret` (of this step: the best arm's
    mean less that of the arm pulled) and `action_mask` (int8, as `action_space.sample` takes it). All but
    `action_mask` are for people and metrics only.

    ## Version
    v0: tasks as in the Headless-AD paper (Sinii et al. 2024), each with noise of its own.
    """

    rules_class = BernoulliBandit


class BernoulliBanditVectorEnv(ArrayVectorEnv):
    """Many `BernoulliBanditEnv`s in NumPy."""

    rules_class = BernoulliBandit
