"""An environment whose task arrives as a make argument, a reset option or an attribute, and is lost unless it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from icrl_envs import FAMILIES, register_family, unregister_family

DIALS = "test/Dials-v0"
VALUES = [{"value": number, "label": f"dial {number}"} for number in range(1, 9)]
LIMIT = 5


class Dial(gymnasium.Env[np.ndarray, Any]):
    """Episodes of `value` + 1 steps, at most `LIMIT`; the reward is `value` times the action, success the action 2."""

    observation_space, action_space = spaces.Box(-9, 9, (3,), np.float32), spaces.Discrete(3)
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, value: int = 0, label: str = "", render_mode: str | None = None):
        self.made, self.value, self.label, self.render_mode = value, 0, label, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = (options or {}).get("value", self.value or self.made)
        self.value, self.step_number = 0, 0  # an attribute lasts for one episode
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        info = {"success": action == 2}
        return self.observe(), float(self.now * action), self.step_number > self.now, False, info

    def observe(self) -> np.ndarray:
        return np.array([self.now, self.step_number, self.np_random.random()], np.float32)


def dial_rows(
    num_envs: int, tasks: Sequence[dict[str, Any]], autoreset_mode: AutoresetMode, max_episode_steps: int
) -> SyncVectorEnv:
    """A vector entry point that takes a task for each row."""
    assert num_envs == len(tasks)
    rows = [lambda task=task: TimeLimit(Dial(**task), max_episode_steps) for task in tasks]
    return SyncVectorEnv(rows, autoreset_mode=autoreset_mode)


def set_dial(env: Dial, task: dict[str, Any]) -> None:
    """A user's function that sets a task."""
    env.value, env.label = task["value"], task["label"]


@contextmanager
def dials(tasks: Any = VALUES, **settings: Any) -> Iterator[None]:
    """The family of dials, with settings of `register_family`."""
    gymnasium.register(DIALS, Dial, vector_entry_point=dial_rows, max_episode_steps=LIMIT)
    try:
        register_family(DIALS, tasks, **{"split": (0.5, 0), "lifetime": 3, **settings})
        yield
    finally:
        if DIALS in FAMILIES:
            unregister_family(DIALS)
        del gymnasium.registry[DIALS]
