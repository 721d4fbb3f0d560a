"""Rows of a Meta-World task: MuJoCo data of their own on one model, which all rows of a process share.

A model takes a quarter of a second and 70 MB, a row a millisecond. Goals differ in the places of some bodies and sites
of the model only, which are written into it whenever another row moves.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from icrl_envs.metaworld.frames import Frames
from icrl_envs.metaworld.observing import observing

VERSION = "v3"  # of the tasks' names in Meta-World


def package(module: str) -> ModuleType:
    """Import metaworld or mujoco; ImportError with the pip command if it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:  # installed, but one of its own imports fails
            raise
        raise ImportError(f'{error.name} is not installed: pip install "icrl-agents[metaworld]"') from None


class State(NamedTuple):
    """A state to return to."""

    numbers: np.ndarray  # MuJoCo's integration state
    bodies: np.ndarray  # (bodies, 3) places in the model
    sites: np.ndarray  # (sites, 3) places in the model
    attributes: dict[str, Any]  # of the Meta-World environment


class Model:
    """The compiled model of a task, and a Meta-World environment on it that is never moved."""

    def __init__(self, name: str):
        self.mujoco = package("mujoco")
        known = package("metaworld.env_dict").ALL_V3_ENVIRONMENTS
        self.env: Any = observing(known[f"{name}-{VERSION}"])()
        self.env._set_task_called = True  # by hand: set_task() unpickles its argument
        self.bodies, self.sites = self.env.model.body_pos, self.env.model.site_pos  # views
        self.kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        self.size = self.mujoco.mj_stateSize(self.env.model, self.kind)
        self.new = self.save(self.env)

    def row(self) -> Any:
        """Return a Meta-World environment with data of its own."""
        env = object.__new__(type(self.env))
        vars(env).update(vars(self.env), data=self.mujoco.MjData(self.env.model))
        for side in ("left", "right"):  # views of the data
            setattr(env, f"init_{side}_pad", env.get_body_com(f"{side}pad"))
        return env

    def save(self, env: Any) -> State:
        """Return the state of a row."""
        numbers = np.empty(self.size)
        self.mujoco.mj_getState(env.model, env.data, numbers, self.kind)
        return State(numbers, self.bodies.copy(), self.sites.copy(), dict(vars(env)))

    def place(self, state: State) -> None:
        """Write the places of a row's bodies and sites into the model."""
        self.bodies[:], self.sites[:] = state.bodies, state.sites

    def restore(self, env: Any, state: State) -> None:
        """Return a row to a state of its own."""
        self.place(state)
        vars(env).clear()
        vars(env).update(state.attributes)
        self.mujoco.mj_setState(env.model, env.data, state.numbers, self.kind)
        self.mujoco.mj_forward(env.model, env.data)  # the expert and frames read places
        self.mujoco.mj_setState(env.model, env.data, state.numbers, self.kind)  # the forward pass warms up the solver


@cache
def shared_model(name: str) -> Model:
    """Return the model of a task, one in each process."""
    return Model(name)


class Simulation:
    """One row of a task; all its episodes start in the same state.

    Meta-World's own reset simulates as long as 100 steps take, and its result depends on what was simulated before. It
    is called once for each goal, from the state of a new environment; every episode starts from its result.
    """

    def __init__(self, name: str):
        self.model = shared_model(name)
        self.env = self.model.row()
        self._new = self.model.new._replace(attributes=dict(vars(self.env)))
        self._frames: Frames | None = None

    def set_goal(self, rand_vec: np.ndarray) -> None:
        """Start the episodes from now on with the goal `rand_vec` (D,)."""
        self.model.restore(self.env, self._new)
        self.env._last_rand_vec = rand_vec
        self._obs, _ = self.env.reset()
        self._start = self.model.save(self.env)

    def reset(self) -> np.ndarray:
        """Start an episode; returns Meta-World's observation (39,) with a hidden goal."""
        self.model.restore(self.env, self._start)
        return self._obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Apply an action (4,); returns the observation (39,), the reward and whether the task is done."""
        self.model.place(self._start)
        self.env.curr_path_length = 0  # the time limit is not Meta-World's
        obs, reward, _, _, info = self.env.step(action)
        return obs, float(reward), bool(info["success"])

    @property
    def goal(self) -> np.ndarray:
        """The place (3,) that Meta-World shows where goals are not hidden."""
        return np.array(self.env._get_pos_goal())

    def frame(self, camera: str, height: int, width: int) -> np.ndarray:
        """Draw the row as uint8 (height, width, 3), always from the same camera and in the same size."""
        if self._frames is None:
            self._frames = Frames(self.model.mujoco, self.env.model, camera, height, width)
        self.model.place(self._start)
        return self._frames.draw(self.env.data)

    def close(self) -> None:
        """Release what frames are drawn with."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None
