"""Half-cheetah with a hidden target velocity: the environment, on Gymnasium's HalfCheetah-v5. It needs MuJoCo."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils import EzPickle

from icrl_envs.base.checks import check_choice, check_dict, short
from icrl_envs.base.opengl import drawing
from icrl_envs.continuous.half_cheetah_vel import ENV_ID, FASTEST, VELOCITIES, observation_box

try:
    import mujoco  # noqa: F401 - Gymnasium's own message names another extra
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
except ModuleNotFoundError as error:
    if error.name != "mujoco":
        raise
    raise ImportError(f'{ENV_ID} needs mujoco: pip install "icrl-agents[mujoco]"') from None

CONTROL_COST = 0.05  # per sum of squared actions


class HalfCheetahVelEnv(HalfCheetahEnv):
    """A two-legged runner with a hidden target velocity.

    ## Description
    Gymnasium's HalfCheetah-v5. The task is the forward velocity to run at, the same in all episodes; it is not in the
    observation, only rewards reveal it: two rewards at different velocities determine it.

    ## Action space
    `Box(-1, 1, (6,), float32)`: torques of the six joints.

    ## Observation space
    `Box(-inf, inf, (17,), float64)`: positions (8, without the way run) and velocities (9) of body and joints; with
    `show_goal`, the target velocity is an 18th number.

    ## Reward
    Minus the distance between velocity and target in m/s, minus 0.05 times the sum of squared actions.

    ## Episode end
    After 200 steps of 0.05 s `truncated` is set, never `terminated`.

    ## Arguments
    `velocity`, from 0 to 3, fixes the task; without it the first `reset` samples a multiple of 0.01. `show_goal` adds
    the target to the observation. Other arguments are those of HalfCheetah-v5, such as `render_mode`, `width` and
    `height`.

    ## Info
    Those of HalfCheetah-v5: `x_position`, `x_velocity`, `reward_forward` (minus the distance) and `reward_ctrl`.

    ## Version
    v0: rewards, targets and horizon of MAML (arXiv 1703.03400) and PEARL (1903.08254; `rlkit/envs/half_cheetah_vel.py`
    of katerakelly/oyster at e6b59e4), which draw targets uniformly from 0 to 3 and use MuJoCo 1.3 with 20 observed
    numbers; the body here is that of HalfCheetah-v5.
    """

    def __init__(self, velocity: float | None = None, show_goal: bool = False, **kwargs: Any):
        self._fixed = None if velocity is None else check_velocity(velocity)
        self.velocity = np.nan  # the target in m/s; sampled by the first reset unless it is given
        self.show_goal = bool(check_choice(show_goal, "show_goal", (False, True)))
        if not {"camera_id", "camera_name"} & kwargs.keys():
            kwargs["camera_name"] = "track"  # runs along
        super().__init__(ctrl_cost_weight=CONTROL_COST, **kwargs)
        self.observation_space = observation_box(self.show_goal)
        EzPickle.__init__(self, velocity, show_goal, **kwargs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode of the same task, or of a new one with a seed or `options={"task": {"velocity": ...}}`."""
        given = check_dict(options, "options", ("task",), "option")
        obs, info = super().reset(seed=seed)
        self._choose(given.get("task"), seed is not None)
        return self._observe(obs), info

    def _choose(self, task: Any, sample: bool) -> None:
        if task is not None:
            values = check_dict(task, "options['task']", ("velocity",), "task argument")
            self.velocity = check_velocity(values.get("velocity"))
        elif self._fixed is not None:
            self.velocity = self._fixed if np.isnan(self.velocity) else self.velocity
        elif sample or np.isnan(self.velocity):
            self.velocity = float(self.np_random.choice(VELOCITIES))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.float64, bool, bool, dict[str, Any]]:
        """Apply one action."""
        obs, _, terminated, truncated, info = super().step(action)
        info["reward_forward"] = -abs(info["x_velocity"] - self.velocity)
        return self._observe(obs), np.float64(info["reward_forward"] + info["reward_ctrl"]), terminated, truncated, info

    def render(self) -> Any:
        """Return a frame (height, width, 3) uint8 in mode "rgb_array", see `drawing`."""
        if self.render_mode is None:  # Gymnasium says what to do
            return super().render()
        with drawing():
            return super().render()

    def _observe(self, obs: np.ndarray) -> np.ndarray:
        return np.append(obs, self.velocity) if self.show_goal else obs


def check_velocity(value: Any) -> float:
    """Return a target velocity; ValueError outside 0 to 3."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool) and 0 <= value <= FASTEST:
        return float(value)
    raise ValueError(f"velocity={short(value)}: give a number from 0 to {FASTEST} m/s, such as velocity=1.5.")
