"""Families that are in no registry: float states with Box actions, rules without optimum or expert, a plain env."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from icrl_envs import FAMILIES, Capability, GymFamily, Rules, Split, register_family, register_rules, unregister_family
from icrl_envs.base import noise
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

NATIVE = tuple(env_id for env_id, tasks in FAMILIES.items() if isinstance(tasks.family, Rules))
REACH = pytest.param(  # of Meta-World's families, which differ in little but names
    "icrl/MetaWorld-reach-v0",
    marks=pytest.mark.skipif(find_spec("metaworld") is None, reason='pip install "icrl-agents[metaworld]"'),
)
METAWORLD = tuple(env_id for env_id in FAMILIES if env_id.startswith("icrl/MetaWorld"))
TURNS = ("icrl/DarkroomTurns-v0", "icrl/DarkroomTurns5x5-v0")  # whose episodes differ in their best return
PROCGEN = tuple(env_id for env_id in FAMILIES if env_id.startswith("icrl/Procgen-"))

SPRING, WALK, POLES = "test/Spring-v0", "test/Walk-v0", "test/Poles-v0"
ADDED = (SPRING, WALK, POLES)


class Spring(Rules):
    """A point on a spring whose stiffness is the task. State: position x, speed v, and time in the randomness."""

    task_names = ("stiffness",)
    num_tasks = 12
    stochastic = True
    lifetime = 7
    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    capabilities = frozenset({Capability.RANDOM_RETURN})

    def __init__(self, horizon: int = 12):
        self.horizon = horizon

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        return {"stiffness": 0.25 * task_id}

    def find_task(self, **task: Any) -> int:
        wanted = 4 * task["stiffness"]
        if wanted not in range(self.num_tasks):
            raise ValueError(f"stiffness={task['stiffness']}: give a multiple of 0.25 from 0 to 2.75.")
        return int(wanted)

    def start(self, task: np.ndarray) -> np.ndarray:
        return self.begin(np.zeros(len(task), np.int64), task)

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        position = position % 2**40  # exact as a float
        x = noise.uniform(position, 0) - 0.5
        return np.stack([x, np.zeros_like(x), position.astype(float)], 1)

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        return self.begin(state[:, 2].astype(np.int64) + 1, task)

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, v, time = state.T
        v = v + 0.1 * (action.sum(1) - 0.25 * task * x)
        return np.stack([x + 0.1 * v, v, time + 1], 1), -(x**2)

    def terminated(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        return np.abs(state[:, 0]) > 0.6

    def observe(self, state: np.ndarray) -> np.ndarray:
        return state[:, :2].astype(np.float32)

    def random_return(self, task: np.ndarray) -> np.ndarray:
        return np.full(len(task), -0.5)


class SpringEnv(ArrayEnv):
    rules_class = Spring


class SpringVectorEnv(ArrayVectorEnv):
    rules_class = Spring


class Walk(Rules):
    """A walk on a line, rewarded on the hidden side. State: the place, an int8; nothing is declared but success."""

    task_names = ("side",)
    num_tasks = 2
    observation_space = spaces.Discrete(11)
    action_space = spaces.Discrete(2)
    capabilities = frozenset({Capability.SUCCESS})

    def __init__(self, horizon: int = 5, step_size: int = 1):
        self.horizon, self.step_size = horizon, step_size

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        return {"side": ("left", "right")[task_id]}

    def find_task(self, **task: Any) -> int:
        return ("left", "right").index(task["side"])

    def start(self, task: np.ndarray) -> np.ndarray:
        return np.full(len(task), 5, np.int8)

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = np.clip(state + self.step_size * (2 * action - 1), 0, 10).astype(np.int8)
        return state, self.success(state, task).astype(float)

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        return np.where(task == 1, state > 5, state < 5)

    def observe(self, state: np.ndarray) -> np.ndarray:
        return state.astype(np.int64)


class WalkEnv(ArrayEnv):
    rules_class = Walk


class WalkVectorEnv(ArrayVectorEnv):
    rules_class = Walk


class PoleEnv(CartPoleEnv):
    """CartPole whose pole has the task's length."""

    def __init__(self, length: float = 0.5, render_mode: str | None = None):
        super().__init__(render_mode=render_mode)
        self.length, self.polemass_length = length, self.masspole * length


def pole_tasks(count: int = 10) -> list[dict[str, float]]:
    return [{"length": round(0.2 + 0.1 * number, 1)} for number in range(count)]


@contextmanager
def poles_known() -> Iterator[None]:
    """Gymnasium knows the id of the poles."""
    gymnasium.register(POLES, PoleEnv, max_episode_steps=30)
    try:
        yield
    finally:
        del gymnasium.registry[POLES]


@contextmanager
def registered() -> Iterator[None]:
    """All three are registered."""
    with poles_known():
        register_rules(Spring, SPRING, 12, Split(0.75, 1))
        register_rules(Walk, WALK, 5, Split(0.5, 0))
        register_family(GymFamily(POLES, pole_tasks(), lifetime=20, split=(0.8, 2)))
        try:
            yield
        finally:
            for env_id in ADDED:
                unregister_family(env_id)
