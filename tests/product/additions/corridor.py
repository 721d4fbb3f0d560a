"""A corridor with a hidden goal."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from icrl_envs.base.capability import Capability
from icrl_envs.base.rules import Rules
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv


class Corridor(Rules):
    """A row of cells; standing on the hidden goal gives reward 1. State: the cell. Task: the goal's cell."""

    task_names = ("goal",)
    capabilities = frozenset({Capability.EXPERT})

    def __init__(self, size: int = 31, horizon: int = 8):
        self.num_tasks, self.horizon = size, horizon
        self.observation_space, self.action_space = spaces.Box(0, size - 1, (1,), np.int32), spaces.Discrete(3)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        return {"goal": task_id}

    def find_task(self, **task: Any) -> int:
        return int(task["goal"])

    def start(self, task: np.ndarray) -> np.ndarray:
        return np.full(len(task), self.num_tasks // 2)

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = np.clip(state + action - 1, 0, self.num_tasks - 1)  # 0: left, 1: stay, 2: right
        return state, (state == task).astype(np.float64)

    def observe(self, state: np.ndarray) -> np.ndarray:
        return state[:, None].astype(np.int32)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        return 1 + np.sign(task - state)


class CorridorEnv(ArrayEnv):
    """One corridor."""

    rules_class = Corridor


class CorridorVectorEnv(ArrayVectorEnv):
    """Many corridors."""

    rules_class = Corridor
