"""Darkroom in turns: two rooms with a hidden goal each, which are played by turns. Axis letters: B rows, C cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import check_int, short
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.grid import FLOOR, GOAL, Colour, GridRules, SearchBelief

CELL, EPISODE = range(2)  # columns of a state
ROOM = 2  # entry of an observation
FLOORS: tuple[Colour, Colour] = (FLOOR, (206, 214, 236))  # RGB of the rooms 0 and 1
LIFETIME_TURNS = 4  # turns in the evaluation of a learner, two in each room


class TurnsBelief(SearchBelief):
    """Posterior over the goals of both rooms: an episode searches for that of the room it is in."""

    def begin(self, starts: np.ndarray, obs: np.ndarray) -> None:
        """Set starting rows to the cell and the room of `obs` (B, 3)."""
        super().begin(starts, obs)
        self.stage = np.where(starts, obs[:, ROOM], self.stage)


class DarkroomTurns(GridRules):
    """Two rooms by turns: reward 1 for every step that ends on the goal of the present room.

    State, int64 (B, 2): the agent's cell, and the number of the episode in the lifetime, from 0. Task: C * goal of
    room 0 + goal of room 1. The room of an episode is `episode // turn % 2`.

    Args:
        size: side of the rooms in cells.
        horizon: maximum number of steps in an episode.
        turn: number of consecutive episodes in one room.
    """

    task_names = ("goals",)
    lasting = "plays its rooms by turns"
    capabilities = GridRules.capabilities | {Capability.BELIEF}

    def __init__(self, size: int = 9, horizon: int = 20, turn: int = 15):
        super().__init__(size, None, horizon)
        self.turn = check_int(turn, "turn", 1, 10**6)
        self.lifetime = LIFETIME_TURNS * self.turn
        self.num_tasks = self.cells**2  # both goals may be in the same cell
        self.observation_space = spaces.Box(0, np.array([size - 1, size - 1, 1], np.int32), (3,), np.int32)
        self._optimal = self.steps_on(np.arange(self.cells))  # (C,)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"goals": ((x0, x1), (x0, x1))}, of room 0 and of room 1."""
        first, second = divmod(task_id, self.cells)
        return {"goals": (self.xy(first), self.xy(second))}

    def find_task(self, **task: Any) -> int:
        try:
            first, second = task["goals"]
        except (TypeError, ValueError):
            example = self.task_kwargs(1)["goals"]
            raise ValueError(
                f"goals={short(task['goals'])}: give a cell of each room, such as goals={example}."
            ) from None
        return self.cells * self.check_cell(first, "goals[0]") + self.check_cell(second, "goals[1]")

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 2) of the first episodes: the centre of room 0."""
        return np.stack([super().start(task), np.zeros(len(task), np.int64)], 1)

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 2) of the next episodes: the centre of the room whose turn it is."""
        return np.stack([super().start(task), state[:, EPISODE] + 1], 1)

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move; reward 1 on the goal of the present room."""
        after = state.copy()
        after[:, CELL] = self.move(state[:, CELL], action)
        return after, self.success(after, task).astype(np.float64)

    def room(self, state: np.ndarray) -> np.ndarray:
        """Return the room (B,) of the present episodes."""
        return state[:, EPISODE] // self.turn % 2

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return the coordinates and the room (B, 3) int32."""
        return np.column_stack([super().observe(state[:, CELL]), self.room(state).astype(np.int32)])

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the agent is on the goal of the present room."""
        return state[:, CELL] == self._goal(state, task)

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return the mean (N,) over the two rooms of the best return of an episode, see `Darkroom.optimal_return`.

        It is the best mean return of a lifetime of whole pairs of turns; single episodes can earn more or less.
        """
        return self._optimal[np.stack(np.divmod(task, self.cells))].mean(0)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return moves (B,) to the goal of the present room, x0 first; stay on it."""
        return self.toward(state[:, CELL], self._goal(state, task))

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> TurnsBelief:
        """Return a belief with both goals possible in every cell of their rooms."""
        return TurnsBelief(self, rows, rng, sharpness, hidden=2, last_stage=0)  # only an observation tells the room

    def frame(self, state: Any, task: int) -> np.ndarray:
        """Draw the goal of the present room green, the agent blue; the floor of room 1 is bluish."""
        room, goal = self._scene(state, task)
        return self.draw(dict.fromkeys(range(self.cells), FLOORS[room]) | {goal: GOAL}, int(state[CELL]))

    def text(self, state: Any, task: int) -> str:
        """Write G for the goal of the present room, A for the agent, * for both, below it the room."""
        room, goal = self._scene(state, task)
        return self.write({goal: "G"}, int(state[CELL]), f"room {room}")

    def _goal(self, state, task):
        return np.where(self.room(state) == 0, *np.divmod(task, self.cells))  # (B,)

    def _scene(self, state, task):
        return int(self.room(state[None])[0]), int(self._goal(state[None], task)[0])


class DarkroomTurnsEnv(ArrayEnv):
    """Two dark rooms with a hidden goal each, which are played by turns: what was found must be remembered.

    ## Description
    `icrl/DarkroomTurns-v0` has two 9x9 rooms. The first 15 episodes of a lifetime are in room 0, the next 15 in room 1,
    then 15 in room 0 again, and so on; each starts in the centre of its room. Walls block moves. The task is the pair
    of goal cells, one in each room, which are the same in all episodes; only the reward on a goal reveals it. A room
    comes back after a turn of 300 steps in the other one, so a learner that sees its last 240 steps has to search
    again, and one with a memory goes straight to the goal. Every `reset` begins the next episode; a lifetime begins
    with the first `reset` and with each `reset(seed=...)`. A task set by other resets leaves the turns as they are.

    ## Action space
    `Discrete(5)`: 0 is x0+1 (down in drawings), 1 is x0-1, 2 is x1+1 (right), 3 is x1-1, 4 stays.

    ## Observation space
    `Box(0, [size-1, size-1, 1], (3,), int32)`: the agent's coordinates (x0, x1) and the room, 0 or 1.

    ## Reward
    1.0 for every step that ends on the goal of the present room, else 0.0; the goal of the other room is none. Best
    return of an episode: min(21 - d, 20) for a goal d moves away from the centre.

    ## Episode end
    After 20 steps `truncated` is set, never `terminated`.

    ## Arguments
    `goals=((x0, x1), (x0, x1))`, of room 0 and of room 1, fixes the task, as does
    `reset(options={"task": {"goals": ...}})`. `turn` is the number of consecutive episodes in a room. Sampling of
    tasks, `size` and `horizon` are as in `DarkroomEnv`.

    ## Info
    `task` (id: 81 * goal of room 0 + goal of room 1 in the 9x9 rooms, a goal being size * x0 + x1), `success` (is on
    the goal of the present room), `optimal_return`. For display and metrics only. `optimal_return` is the mean over the
    two rooms of the best return of an episode, the same in all episodes; a single one can earn more or less.

    ## Split
    Pairs are divided into training and test tasks, 6233 and 328 in the 9x9 rooms. A goal of one room occurs in both
    parts, together with other goals of the other room; the pairs of the test tasks do not occur in training.

    ## Variants
    `icrl/DarkroomTurns5x5-v0`: 5x5 rooms, 10 steps, turns of 4 episodes, for tests and short studies.
    `DarkroomMixedTurnsEnv` has turns of random lengths, to train on.

    ## Version
    v0: ours. The evaluation of a learner has four turns, 60 episodes (16 in the 5x5 rooms).
    """

    rules_class = DarkroomTurns


class DarkroomTurnsVectorEnv(ArrayVectorEnv):
    """Many `DarkroomTurnsEnv`s in NumPy."""

    rules_class = DarkroomTurns
