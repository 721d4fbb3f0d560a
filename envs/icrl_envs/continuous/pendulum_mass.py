"""Pendulum with a hidden mass: lift a payload of unknown weight with a slow controller. Axis letter: B rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import as_array, check_int, short
from icrl_envs.base.rules import Rules
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

GRAVITY, LENGTH, DT = 10.0, 1.0, 0.05  # of Gymnasium's Pendulum-v1
HOLD = 4  # physics steps during which an action is held
MAX_TORQUE, MAX_SPEED = 40.0, 8.0
MASSES = np.geomspace(0.25, 4.0, 201).round(4)  # (N,)
PIXELS = 192  # side of a frame


class PendulumMass(Rules):
    """A pendulum whose mass is hidden. State: angle from upright and angular speed (B, 2) float64. Task: the mass."""

    task_names = ("mass",)
    num_tasks = len(MASSES)
    lifetime = 8
    observation_space = spaces.Box(
        np.array([-1, -1, -MAX_SPEED], np.float32), np.array([1, 1, MAX_SPEED], np.float32), dtype=np.float32
    )
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_modes = ("ansi", "rgb_array")
    capabilities = frozenset({Capability.SUCCESS, Capability.EXPERT})

    def __init__(self, horizon: int = 25):
        self.horizon = check_int(horizon, "horizon", 1, 10**6)
        self._gains = regulator_gains(HOLD * DT)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"mass": kilograms}."""
        return {"mass": float(MASSES[task_id])}

    def find_task(self, **task: Any) -> int:
        mass = as_array(task["mass"])
        if mass.shape == () and mass.dtype.kind in "iuf" and (fits := np.abs(MASSES - mass) < 1e-6).any():
            return int(fits.argmax())
        near = MASSES[np.abs(MASSES - mass).argmin()] if mass.shape == () and mass.dtype.kind in "iuf" else 1.0
        raise ValueError(
            f"mass={short(task['mass'])}: give one of the {len(MASSES)} masses from 0.25 to 4.0, such as mass={near}."
        )

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the state of hanging at rest (B, 2)."""
        return np.tile([np.pi, 0.0], (len(task), 1))

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Apply the torque for HOLD physics steps; the reward is that of the new state."""
        angle, speed = state.T
        push = 3 / (MASSES[task] * LENGTH**2) * MAX_TORQUE * action[:, 0].astype(np.float64)
        for _ in range(HOLD):
            speed = np.clip(speed + DT * (1.5 * GRAVITY / LENGTH * np.sin(angle) + push), -MAX_SPEED, MAX_SPEED)
            angle = angle + DT * speed
        angle = wrap(angle)
        return np.stack([angle, speed], 1), -(angle**2 + 0.1 * speed**2)

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return cosine and sine of the angle, and the speed (B, 3) float32."""
        angle, speed = state.T
        return np.stack([np.cos(angle), np.sin(angle), speed], 1).astype(np.float32)

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the pendulum is upright, within 0.1 radians."""
        return np.abs(state[:, 0]) < 0.1

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return torques (B, 1) float32 of a linear regulator on the dynamics with gravity cancelled (near-optimal)."""
        angle, speed = state.T
        wanted = -(self._gains[0] * wrap(angle) + self._gains[1] * speed)  # angular acceleration
        midway = angle + speed * DT * HOLD / 2  # where gravity acts while the action is held
        torque = MASSES[task] * LENGTH**2 / 3 * (wanted - 1.5 * GRAVITY / LENGTH * np.sin(midway))
        return np.clip(torque / MAX_TORQUE, -1.0, 1.0)[:, None].astype(np.float32)

    def frame(self, state: np.ndarray, task: int) -> np.ndarray:
        """Draw the rod, and the payload as a disc whose area grows with the mass."""
        side = np.linspace(-1.4, 1.4, PIXELS)
        x, y = np.meshgrid(side, -side)  # x to the right, y upwards
        end = np.array([np.sin(state[0]), np.cos(state[0])])
        along = np.clip(x * end[0] + y * end[1], 0, 1)  # nearest point of the rod
        frame = np.full((PIXELS, PIXELS, 3), 236, np.uint8)
        frame[(x - along * end[0]) ** 2 + (y - along * end[1]) ** 2 < 0.03**2] = (120, 120, 116)
        frame[(x - end[0]) ** 2 + (y - end[1]) ** 2 < 0.03 * MASSES[task]] = (38, 84, 160)
        return frame

    def text(self, state: np.ndarray, task: int) -> str:
        """Write the angle in degrees from upright, the speed and the mass."""
        return f"angle {np.degrees(state[0]):7.1f}  speed {state[1]:5.1f}  mass {MASSES[task]:g}\n"


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angles in radians, moved to -pi..pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def regulator_gains(dt: float) -> np.ndarray:
    """Gains (2,) of the linear-quadratic regulator of a double integrator with an input held for `dt` seconds.

    The costs of the state are those of the reward; a small cost of the input keeps the Riccati iteration stable.
    """
    move, push = np.array([[1, dt], [0, 1]]), np.array([[dt**2 / 2], [dt]])
    cost = value = np.diag([1.0, 0.1])
    for _ in range(500):
        gains = np.linalg.solve(1e-4 + push.T @ value @ push, push.T @ value @ move)
        value = cost + move.T @ value @ (move - push @ gains)
    return gains[0]


class PendulumMassEnv(ArrayEnv):
    """A pendulum with a hidden mass.

    ## Description
    A motor lifts a payload from hanging to upright and holds it there, as in Gymnasium's Pendulum-v1, with enough
    torque to lift it directly and a slow controller: an action is held for 0.2 seconds. The task is the mass, the same
    in all episodes. A torque that is right for one mass throws a lighter one around and does not lift a heavier one:
    the best regulator tuned to one fixed mass has a mean return of about -97, one that knows the mass about -14.

    ## Action space
    `Box(-1, 1, (1,), float32)`: the torque, in units of 40 Nm.

    ## Observation space
    `Box((3,), float32)`: cosine and sine of the angle from upright, angular speed in radians per second (at most 8).

    ## Reward
    Minus (angle squared + 0.1 speed squared) after the step, angle in -pi..pi.

    ## Episode end
    After 25 steps (5 seconds) `truncated` is set, never `terminated`.

    ## Arguments
    `mass`, one of 201 from 0.25 to 4 kg spaced evenly in the logarithm, fixes the task; without it the first `reset`
    samples one. `horizon` defines the length of an episode.

    ## Info
    `task` (id), `success` (upright within 0.1 radians). For display and metrics only. The optimal return is not known;
    `expert_action()` is a near-optimal regulator.

    ## Version
    v0: physics of Gymnasium's Pendulum-v1, Euler steps of 0.05 seconds.
    """

    rules_class = PendulumMass


class PendulumMassVectorEnv(ArrayVectorEnv):
    """Many `PendulumMassEnv`s in NumPy."""

    rules_class = PendulumMass
