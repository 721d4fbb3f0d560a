"""Rules: a family whose dynamics are functions on arrays. Axis letters: B rows, A actions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import reject_unknown, short
from icrl_envs.base.family import Family, VectorRows


class Rules(Family):
    """A family with array dynamics: one call steps B rows at once.

    The `state` of the rows is one array (B, ...) of any shape and dtype, such as (B,) int64 cells or (B, 4) float64
    positions and velocities; their `task` is (B,) int64 in `range(known_tasks)`. Methods use no random generator, leave
    their arguments unchanged and return fresh arrays; row b of a result depends on row b of the arguments only. An
    episode ends at its horizon, or earlier where `terminated` is true.

    A `stochastic` family keeps a noise position (`noise.py`) in its state: `begin` receives a random position per row,
    sampled from the row's own generator, and later episodes `resume` from there.

    Actions may be of any space whose elements are arrays: `step` receives checked actions, (B,) int64 for `Discrete`
    and (B, *action_space.shape) of the space's dtype for `Box`, `MultiDiscrete` and `MultiBinary`.

    To write a family, define a subclass whose `__init__` takes `horizon` and other options, and sets `self.horizon`,
    `self.num_tasks` and the spaces (or the class does); `task_names`, `task_kwargs`, `find_task`, `start`, `step` and
    `observe`; and the methods declared in `capabilities`: `success`, `optimal_return`, `random_return`, `belief`,
    `regret`, `expert_action`, `action_mask`. In the same module,
    `class <Name>Env(ArrayEnv)` and `class <Name>VectorEnv(ArrayVectorEnv)` set it as their `rules_class`;
    `register_rules` then registers all three under an id:

        import numpy as np
        from gymnasium import spaces
        from icrl_envs import Capability, Rules, Split, register_rules
        from icrl_envs.base.checks import check_int
        from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

        class Walk(Rules):
            task_names, num_tasks = ("goal",), 10
            observation_space, action_space = spaces.Discrete(10), spaces.Discrete(3)
            capabilities = frozenset({Capability.OPTIMAL_RETURN})

            def __init__(self, horizon: int = 30):
                self.horizon = horizon

            def task_kwargs(self, task_id):
                return {"goal": task_id}

            def find_task(self, **task):
                return check_int(task["goal"], "goal", 0, 9)

            def start(self, task):
                return np.zeros(len(task), np.int64)

            def step(self, state, action, task):
                state = np.clip(state + action - 1, 0, 9)
                return state, (state == task).astype(float)

            def observe(self, state):
                return state.copy()

            def optimal_return(self, task):
                return self.horizon + 1.0 - np.maximum(task, 1)

        class WalkEnv(ArrayEnv):
            rules_class = Walk

        class WalkVectorEnv(ArrayVectorEnv):
            rules_class = Walk

        register_rules(Walk, "my/Walk-v0", 30, Split(0.8, seed=0))
    """

    stochastic: ClassVar[bool] = False
    render_modes: ClassVar[tuple[str, ...]] = ("ansi",)  # "rgb_array" too where `frame` is defined

    @property
    def rules(self) -> Rules:
        """The array dynamics: this family itself."""
        return self

    def task_id(self, **task: Any) -> int:
        """Return the id of the task with these make() arguments; ValueError if there is none."""
        reject_unknown(task, self.task_names, "task argument")
        if len(task) < len(self.task_names):
            names, example = " and ".join(self.task_names), short(self.task_kwargs(0))
            raise ValueError(f"task {short(task)}: give {names}, such as {example}.")
        return self.find_task(**task)

    @abstractmethod
    def find_task(self, **task: Any) -> int:
        """Implement `task_id`, given exactly the arguments `task_names`; ValueError for a bad value."""

    @abstractmethod
    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the initial states (B, ...) of episodes."""

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the initial states (B, ...) of the first episodes.

        `position` (B,) int64, from 0 to 2**62, is random in a stochastic family, else 0.
        """
        return self.start(task)

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the initial states (B, ...) of the episodes after those that ended in `state`."""
        return self.start(task)

    @abstractmethod
    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the next states (B, ...) and the rewards (B,) float64."""

    def terminated(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the episode ends in this state, before its horizon."""
        return np.zeros(len(state), bool)

    @abstractmethod
    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return the observations (B, ...), which are independent of the task."""

    def offers(self, capability: Capability) -> bool:
        """Return whether the family declares a capability; with an expert it has the expert of every task."""
        return super().offers(Capability.EXPERT if capability == Capability.TASK_EXPERTS else capability)

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the row has reached the goal of its task."""
        self.undeclared(Capability.SUCCESS)

    def regret(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) float64: expected reward of the best action minus that of the last action."""
        self.undeclared(Capability.REGRET)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return optimal actions (B, ...) given the task, which need not be the one that led to the state."""
        self.undeclared(Capability.EXPERT)

    def facts(self, state: np.ndarray, task: np.ndarray) -> dict[str, np.ndarray]:
        """Return the entries of infos beside the task, each (B, ...); default: those of declared capabilities."""
        facts = {}
        if self.offers(Capability.SUCCESS):
            facts["success"] = self.success(state, task)
        if self.offers(Capability.OPTIMAL_RETURN):
            facts["optimal_return"] = self.optimal_return(task)
        if self.offers(Capability.REGRET):
            facts["regret"] = self.regret(state, task)
        if self.offers(Capability.ACTION_MASKS):
            facts["action_mask"] = self.action_mask(task)
        return facts

    def make_rows(self, task_ids: Any, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorRows:
        """Return the native vector environment, and the option of its first reset that sets the tasks `task_ids`."""
        ids = np.array(self.check_ids(task_ids))
        env = gymnasium.make_vec(self.env_id, num_envs=len(ids), autoreset_mode=autoreset_mode)
        return VectorRows(env, {"task": ids})

    def frame(self, state: Any, task: int) -> np.ndarray:
        """Draw one row as uint8 (height, width, 3); `state` is a Python number, or an array for states with axes."""
        raise ValueError(
            f"{self.name} declares render mode rgb_array and draws no frames: define frame(), or leave the mode out"
        )

    def text(self, state: Any, task: int) -> str:
        """Write one row as text; `state` is as in `frame`."""
        return f"task {task}: {' '.join(str(state).split())}\n"
