"""Half-cheetah with a hidden target velocity: the family. MuJoCo is imported when an environment is made."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register

from icrl_envs.base.family import Family
from icrl_envs.base.registry import register_family
from icrl_envs.base.split import Split

ENV_ID = "icrl/HalfCheetahVel-v0"
GOAL_ID = "icrl/HalfCheetahVelGoal-v0"  # the target is in the observation
ENTRY_POINT = "icrl_envs.continuous.half_cheetah_env:HalfCheetahVelEnv"
HORIZON = 200
FASTEST, SPACING = 3.0, 0.01  # target velocities in m/s: from 0 to FASTEST
VELOCITIES = np.arange(round(FASTEST / SPACING) + 1) * SPACING  # (N,)


class HalfCheetahVel(Family):
    """Target velocities of `HalfCheetahVelEnv`, all multiples of 0.01 m/s from 0 to 3.

    Args:
        env_id: Gymnasium id of a `HalfCheetahVelEnv`, registered with a time limit.
    """

    task_names = ("velocity",)
    num_tasks = len(VELOCITIES)
    lifetime = 5
    published = Split(0.8, 0)
    max_rows = 64  # rows simulate one after the other: more are not faster
    install = "mujoco"
    action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)

    def __init__(self, env_id: str):
        spec = gymnasium.spec(env_id)
        self.env_id, self.horizon = env_id, spec.max_episode_steps or HORIZON
        self.observation_space = observation_box(spec.kwargs.get("show_goal", False))

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"velocity": target in m/s}."""
        return {"velocity": round(float(VELOCITIES[task_id]), 2)}


def observation_box(show_goal: bool) -> spaces.Box:
    """Return the space of observations."""
    return spaces.Box(-np.inf, np.inf, (17 + show_goal,), np.float64)


def register_half_cheetah_vel() -> None:
    """Register both ids and their families."""
    for env_id, kwargs in ((ENV_ID, {}), (GOAL_ID, {"show_goal": True})):
        register(env_id, ENTRY_POINT, max_episode_steps=HORIZON, kwargs=kwargs)
        register_family(HalfCheetahVel(env_id))
