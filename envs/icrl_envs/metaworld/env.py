"""Gymnasium environment of a Meta-World task."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from icrl_envs.base.actions import check_action, own_space
from icrl_envs.base.checks import check_choice, check_dict, check_int
from icrl_envs.metaworld.experts import Expert, shown_goal
from icrl_envs.metaworld.frames import CAMERAS
from icrl_envs.metaworld.simulation import Simulation
from icrl_envs.metaworld.spaces import ACTION_BOX, PUBLISHED, View, observation_box
from icrl_envs.metaworld.tasks import GOALS, SPACES, check_goal, goal_of

Info = dict[str, Any]
MAX_PIXELS = 2048


class MetaWorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One of Meta-World's 50 manipulation tasks.

    ## Description
    A robot arm reaches, pushes, places or opens something. The task is the goal, the same in all episodes: the array
    `rand_vec` of the places of object and goal. It is hidden, as in the benchmark ML1, and learnt from rewards.

    ## Action space
    `Box(-1, 1, (4,), float32)`: the move of the hand along x, y and z, in centimetres, and the force of the gripper.

    ## Observation space
    `Box(float32)`, in metres. `obs="published"`: hand (3), opening of the gripper, place (3) and quaternion (4) of the
    object; in hammer, stick-push and stick-pull those of a second object too. `"frame"`: always with the second one,
    zeros where there is none (18). `"full"`: Meta-World's observation, this frame, the one before and the goal (39).

    ## Reward
    Meta-World's dense reward (version 2), from 0 to 10.

    ## Episode end
    After 100 steps (`max_episode_steps`, 500 in Meta-World) `truncated` is set, never `terminated`.

    ## Arguments
    `rand_vec` fixes the task; without it the first `reset` samples one of the 100 of ML1. `hide_goal=False` shows the
    goal's place (3): appended to the observation, or in place of zeros in "full". `camera`, `width`, `height`: of the
    frames in render mode "rgb_array".

    ## Info
    `success`: whether the last step reached the goal, False after a reset. `expert_action()` is Meta-World's scripted
    policy, which knows the goal. For metrics and sources only.

    ## Version
    v0: metaworld 3, names without "-v3".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        name: str,
        rand_vec: Any = None,
        obs: str = PUBLISHED,
        hide_goal: bool = True,
        render_mode: str | None = None,
        camera: str = "corner2",
        width: int = 480,
        height: int = 480,
    ):
        self.name = check_choice(name, "name", tuple(SPACES))
        self._view = View.of(name, obs, hide_goal)
        self.observation_space, self.action_space = own_space(observation_box(self._view)), own_space(ACTION_BOX)
        self.render_mode = check_choice(render_mode, "render_mode", [None, *self.metadata["render_modes"]])
        sides = (check_int(side, what, 1, MAX_PIXELS) for side, what in ((height, "height"), (width, "width")))
        self._frame = check_choice(camera, "camera", CAMERAS), *sides
        self._fixed = None if rand_vec is None else check_goal(name, rand_vec)
        self._simulation, self._expert = Simulation(name), Expert(name)
        self.rand_vec: np.ndarray | None = None  # (D,) goal of the current task
        self._advice: np.ndarray | None = None  # (4,) of the expert, on the current observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """Start an episode of the same task, or of a new one with a seed or `options={"task": {"rand_vec": ...}}`."""
        given = check_dict(options, "options", ("task",), "option")
        super().reset(seed=seed)
        wanted = self._choose(given.get("task"), seed is not None)
        if wanted is not self.rand_vec:
            self._simulation.set_goal(wanted)
            self.rand_vec = wanted
        self._obs, self._advice = self._simulation.reset(), None
        return self._show(), {"success": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Apply one action; ValueError for one outside the space."""
        self._require_reset("step")
        checked = check_action(action, self.action_space, ())
        self._obs, reward, success = self._simulation.step(checked)
        self._advice = None
        return self._show(), reward, False, False, {"success": success}

    def expert_action(self, task: int | None = None) -> np.ndarray:
        """Return the action (4,) float32 of the scripted policy.

        Args:
            task: id of another task of the family, in whose goal the policy believes; the object stays where it is.
        """
        self._require_reset("expert_action")
        if task is not None:
            return self._expert.act(self._obs, shown_goal(self.name, goal_of(self.name, task)))
        if self._advice is None:  # a source and a recorder ask for the same action
            self._advice = self._expert.act(self._obs, self._simulation.goal)
        return self._advice.copy()

    def render(self) -> np.ndarray | None:
        """Return a frame (height, width, 3) uint8, or None without a render mode."""
        if self.render_mode is None:
            return None
        self._require_reset("render")
        return self._simulation.frame(*self._frame)

    def close(self) -> None:
        """Release the renderer."""
        self._simulation.close()

    def _choose(self, task: Any, sample: bool) -> np.ndarray:
        """Return the goal of the next episode."""
        if task is not None:
            values = check_dict(task, "options['task']", ("rand_vec",), "task argument")
            return check_goal(self.name, values.get("rand_vec"))
        if self._fixed is not None:
            return self._fixed if self.rand_vec is None else self.rand_vec
        if self.rand_vec is None or sample:
            return goal_of(self.name, int(self.np_random.integers(2 * GOALS)))
        return self.rand_vec

    def _show(self) -> np.ndarray:
        return self._view.show(self._obs, self._simulation.goal)

    def _require_reset(self, what: str) -> None:
        if self.rand_vec is None:
            raise ResetNeeded(f"call reset() before {what}(): there is no task yet.")
