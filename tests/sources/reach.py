"""Reach: a family of Gymnasium environments with Box actions and an expert, which no registry knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from icrl_envs import GymFamily, register_family, unregister_family

REACH = "test/Reach-v0"
GOALS = [{"x": round(np.cos(angle), 2), "y": round(np.sin(angle), 2)} for angle in np.arange(20) * 0.3]


class Reach(gymnasium.Env):
    """A point moves towards a hidden goal on the unit circle; reward: minus the distance."""

    observation_space = spaces.Box(-3, 3, (2,), np.float32)
    action_space = spaces.Box(np.float64([-1, 0]) - 1, np.float64([1, 2]), dtype=np.float64)  # the middle is not 0

    def __init__(self, x: float, y: float):
        self.goal = np.array([x, y])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = np.zeros(2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.place = np.clip(self.place + 0.1 * action, -3, 3)
        return self.place.astype(np.float32), -float(np.abs(self.goal - self.place).sum()), False, False, {}

    def expert_action(self) -> np.ndarray:
        return np.clip(10 * (self.goal - self.place), self.action_space.low, self.action_space.high)


@contextmanager
def registered() -> Iterator[None]:
    """The family is registered."""
    gymnasium.register(REACH, Reach, max_episode_steps=20)
    register_family(GymFamily(REACH, GOALS, lifetime=4, split=(0.8, 0)))
    try:
        yield
    finally:
        unregister_family(REACH)
        del gymnasium.registry[REACH]
