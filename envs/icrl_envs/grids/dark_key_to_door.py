"""Dark Key-to-Door: first find a hidden key, then a hidden door."""

from __future__ import annotations

from typing import Any

import numpy as np

from icrl_envs.base.capability import Capability
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.grid import AGENT, GridRules, SearchBelief

SEEK_KEY, SEEK_DOOR, DONE = range(3)  # stages of an episode
KEY, DOOR, OPEN, HOLDING = (224, 180, 40), (132, 84, 48), (206, 170, 136), (206, 92, 30)  # RGB


class DarkKeyToDoor(GridRules):
    """A hidden key cell and door cell. State: stage * C + cell. Task: C * key + door. C: number of cells."""

    task_names = ("key", "door")
    capabilities = GridRules.capabilities | {Capability.BELIEF}

    def __init__(self, size: int = 9, start: tuple[int, int] | None = None, horizon: int = 50):
        super().__init__(size, start, horizon, stages=3)
        self.num_tasks = self.cells**2  # key and door may share a cell
        self._optimal = self._best_returns(*np.divmod(np.arange(self.num_tasks), self.cells))  # (C * C,)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"key": (x0, x1), "door": (x0, x1)}."""
        key, door = divmod(task_id, self.cells)
        return {"key": self.xy(key), "door": self.xy(door)}

    def find_task(self, **task: Any) -> int:
        return self.cells * self.check_cell(task["key"], "key") + self.check_cell(task["door"], "door")

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move; reward 1 at the key, then 1 at the door, once each and in different steps."""
        state = self.move(state, action)
        key, door = np.divmod(task, self.cells)  # (B,) cells
        found = (state == key) | (state == door + SEEK_DOOR * self.cells)  # (B,); the stage is part of the state
        return state + self.cells * found, found.astype(np.float64)  # next stage where found

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the door was opened in this episode."""
        return state >= DONE * self.cells

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return 2 in the registered room; less if the horizon is too short for the path."""
        return self._optimal.take(task)

    def _best_returns(self, key, door):
        # a key at the start cell, or a door at the key's cell, still takes one step
        to_key = np.maximum(self.distance(self.start_cell, key), 1)
        to_door = to_key + np.maximum(self.distance(key, door), 1)
        return (to_key <= self.horizon).astype(np.float64) + (to_door <= self.horizon)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return moves (B,) to the key until it is held, then to the door, x0 first."""
        key, door = np.divmod(task, self.cells)
        return self.toward(state, np.where(state < SEEK_DOOR * self.cells, key, door))

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> SearchBelief:
        """Return a belief with key and door possible in every cell; each episode searches for the key first."""
        return SearchBelief(self, rows, rng, sharpness, hidden=2, last_stage=DONE)

    def frame(self, state: int, task: int) -> np.ndarray:
        """Draw the key yellow until it is held, the door brown (pale once open), the agent orange with the key."""
        stage, cell, key, door = self._scene(state, task)
        things = {door: OPEN if stage == DONE else DOOR} | ({key: KEY} if stage == SEEK_KEY else {})
        return self.draw(things, cell, AGENT if stage == SEEK_KEY else HOLDING)

    def text(self, state: int, task: int) -> str:
        """Write K for the key until it is held, D for the door, A for the agent, * for the agent on one of them."""
        stage, cell, key, door = self._scene(state, task)
        things = {door: "D"} | ({key: "K"} if stage == SEEK_KEY else {})
        return self.write(things, cell, ("key hidden", "key held", "door open")[stage])

    def _scene(self, state, task):
        return *divmod(state, self.cells), *divmod(task, self.cells)


class DarkKeyToDoorEnv(ArrayEnv):
    """A dark room with a hidden key and a hidden door.

    ## Description
    `icrl/DarkKeyToDoor-v0` is a 9x9 room; episodes start in its centre, without the key. Walls block moves. Key and
    door are cells, the same in every episode of a task; they may coincide. A step that ends on the key's cell picks
    the key up; a later step that ends on the door's cell opens the door. If both cells coincide, the agent must stay
    there (or return) for one more step.

    ## Action space
    `Discrete(5)`: 0 is x0+1 (down in drawings), 1 is x0-1, 2 is x1+1 (right), 3 is x1-1, 4 stays.

    ## Observation space
    `Box(0, 8, (2,), int32)`: the agent's coordinates (x0, x1); whether it holds the key is not observed.

    ## Reward
    1.0 when the key is picked up, 1.0 when the door is opened, once each an episode, else 0.0. Best return: 2.

    ## Episode end
    After 50 steps `truncated` is set, never `terminated`. (The published code sets both.)

    ## Arguments
    `key=(x0, x1)` and `door=(x0, x1)`, both or neither, here or in `reset(options={"task": {...}})`. Sampling of
    tasks, `size`, `start` and `horizon` are as in `DarkroomEnv`.

    ## Info
    `task` (id: 81 * (9 * key0 + key1) + 9 * door0 + door1 in the 9x9 room), `success` (the door is open),
    `optimal_return`. For display and metrics only.

    ## Version
    v0: dynamics, task ids and split as in the public DICP code.
    """

    rules_class = DarkKeyToDoor


class DarkKeyToDoorVectorEnv(ArrayVectorEnv):
    """Many `DarkKeyToDoorEnv`s in NumPy."""

    rules_class = DarkKeyToDoor
