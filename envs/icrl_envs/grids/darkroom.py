"""Darkroom: a room with a hidden goal cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from icrl_envs.base.capability import Capability
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.grid import GOAL, GridRules, SearchBelief


class Darkroom(GridRules):
    """A goal cell: reward 1 for every step that ends on it. State: the cell. Task: the goal's cell."""

    task_names = ("goal",)
    capabilities = GridRules.capabilities | {Capability.BELIEF}

    def __init__(self, size: int = 9, start: tuple[int, int] | None = None, horizon: int = 20):
        super().__init__(size, start, horizon)
        self.num_tasks = self.cells  # any cell can be the goal
        self._optimal = self.steps_on(np.arange(self.cells))  # (C,)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"goal": (x0, x1)}."""
        return {"goal": self.xy(task_id)}

    def find_task(self, **task: Any) -> int:
        return self.check_cell(task["goal"], "goal")

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move; reward 1 on the goal."""
        state = self.move(state, action)
        return state, (state == task).astype(np.float64)  # (B,) each

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the agent is on the goal."""
        return state == task

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return min(horizon + 1 - d, horizon) for a goal at distance d from the start, at least 0."""
        return self._optimal.take(task)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return moves (B,) to the goal, x0 first; stay on it."""
        return self.toward(state, task)

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> SearchBelief:
        """Return a belief with every cell a possible goal."""
        return SearchBelief(self, rows, rng, sharpness, hidden=1, last_stage=0)

    def frame(self, state: int, task: int) -> np.ndarray:
        """Draw the goal green, the agent blue."""
        return self.draw({task: GOAL}, state)

    def text(self, state: int, task: int) -> str:
        """Write G for the goal, A for the agent, * for both."""
        return self.write({task: "G"}, state)


class DarkroomEnv(ArrayEnv):
    """A dark room with a hidden goal.

    ## Description
    `icrl/Darkroom-v0` is a 9x9 room; episodes start in its centre. Walls block moves. The task is the goal cell, which
    is the same in all episodes; only the reward on it reveals it.

    ## Action space
    `Discrete(5)`: 0 is x0+1 (down in drawings), 1 is x0-1, 2 is x1+1 (right), 3 is x1-1, 4 stays.

    ## Observation space
    `Box(0, size-1, (2,), int32)`: the agent's coordinates (x0, x1), nothing else.

    ## Reward
    1.0 for every step that ends on the goal, else 0.0. Best return: min(21 - d, 20) for a goal d moves away.

    ## Episode end
    After 20 steps `truncated` is set, never `terminated`. (The published code sets both.)

    ## Arguments
    `goal=(x0, x1)` fixes the task; without it the first `reset` samples a task and later resets keep it, until a
    `reset(seed=...)` samples again; `reset(options={"task": {"goal": (x0, x1)}})` sets it in both cases.
    `size` (2 to 32), `start=(x0, x1)` (None: the centre) and `horizon` define the room; the ids below set them.
    `optimal_return` assumes `horizon` steps: to change the length of an episode, give `make` both `horizon` and
    `max_episode_steps`.

    ## Info
    `task` (id: size * x0 + x1), `success` (is on the goal), `optimal_return`. For display and metrics only.

    ## Variants
    `icrl/Darkroom3x3-v0`: 3x3, 6 steps (our choice). `icrl/Darkroom17x17-v0`: 17x17, 50 steps (our choice: enough for
    a search within an episode). `icrl/Darkroom10x10-v0`: 10x10, starts in the corner (0, 0), 100 steps, as in the
    original DPT. `DarkroomStartsEnv` has ids whose episodes start in random cells.

    ## Version
    v0: dynamics, task ids and split as in the public DICP code (DPT code for the 10x10 room).
    """

    rules_class = Darkroom


class DarkroomVectorEnv(ArrayVectorEnv):
    """Many `DarkroomEnv`s in NumPy."""

    rules_class = Darkroom
