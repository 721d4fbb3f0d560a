"""Darkroom whose episodes start in other cells than the centre. Axis letters: B rows, C cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from icrl_envs.base.checks import check_choice
from icrl_envs.base.noise import uniform
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.darkroom import Darkroom

CELL, NOISE, START = range(3)  # columns of a state
ANYWHERE = {"lifetime": 1.0, "episode": 1.0, "mixed": 0.3}  # share of draws that give a random cell, else the centre


class DarkroomStarts(Darkroom):
    """Darkroom with random start cells, which do not depend on the task: a start may be the goal.

    State, int64 (B, 3): the agent's cell, the noise position, and the cell in which the episode started.

    Args:
        size: side of the room in cells.
        starts: "lifetime", one cell drawn for all episodes of a lifetime; "episode", a cell drawn for each episode;
            or "mixed", where 30% of the episodes start in a cell drawn for each, the others in the centre.
        horizon: maximum number of steps in an episode.
    """

    stochastic = True

    def __init__(self, size: int = 9, starts: str = "lifetime", horizon: int = 20):
        super().__init__(size, None, horizon)
        self.starts = check_choice(starts, "starts", tuple(ANYWHERE))
        self._anywhere = ANYWHERE[starts]
        self.lasting = "has one start cell in a lifetime" if starts == "lifetime" else ""
        cells = np.arange(self.cells)
        best = self.steps_on(cells, cells[:, None]).mean(0)  # (C,) mean over starts
        self._expected = self._anywhere * best + (1 - self._anywhere) * self._optimal  # (C,)

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 3) of the first episodes, from noise position 0."""
        return self.begin(np.zeros(len(task), np.int64), task)

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 3) of the first episodes, from given noise positions (B,)."""
        state = np.empty((len(task), 3), np.int64)
        state[:, NOISE], state[:, START] = position, self._drawn(position)
        return _in_start(state)

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 3) of the next episodes: in another start cell, or in that of the lifetime."""
        state = state.copy()
        if self.starts != "lifetime":
            state[:, START] = self._drawn(state[:, NOISE])
        return _in_start(state)

    def _drawn(self, position: np.ndarray) -> np.ndarray:
        """Draw start cells (B,)."""
        cell = (uniform(position, 1) * self.cells).astype(np.int64)
        return np.where(uniform(position, 0) < self._anywhere, cell, self.start_cell)

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move; reward 1 on the goal."""
        after = state.copy()
        after[:, CELL], reward = super().step(state[:, CELL], action, task)
        return after, reward

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return the coordinates (B, 2) int32."""
        return super().observe(state[:, CELL])

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the agent is on the goal."""
        return super().success(state[:, CELL], task)

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return the expected best return of an episode, the mean over start cells.

        What is best in one lifetime may be more or less, as it depends on the cells that were drawn.
        """
        return self._expected.take(task)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return moves (B,) to the goal, x0 first; stay on it."""
        return super().expert_action(state[:, CELL], task)

    def frame(self, state: Any, task: int) -> np.ndarray:
        """Draw the goal green, the agent blue; `state` is (3,)."""
        return super().frame(int(state[CELL]), task)

    def text(self, state: Any, task: int) -> str:
        """Write G for the goal, A for the agent, * for both; `state` is (3,)."""
        return super().text(int(state[CELL]), task)


def _in_start(state: np.ndarray) -> np.ndarray:
    """Put the agent of states (B, 3) in the start cell, and advance the noise position."""
    state[:, CELL] = state[:, START]
    state[:, NOISE] += 1
    return state


class DarkroomStartsEnv(ArrayEnv):
    """A dark room with a hidden goal, whose episodes start in random cells.

    ## Description
    `icrl/DarkroomFixedStart-v0` is the 9x9 room of `icrl/Darkroom-v0`, with the same tasks and the same split. A start
    cell is drawn for each lifetime, and all its episodes start there. Walls block moves. The task is the goal cell,
    which is the same in all episodes; only the reward on it reveals it. Starts do not depend on the task, so the goal
    may be the start cell. A lifetime begins with the first `reset` and with each `reset(seed=...)`; a task set by
    other resets leaves the start cell as it is.

    ## Action space
    `Discrete(5)`: 0 is x0+1 (down in drawings), 1 is x0-1, 2 is x1+1 (right), 3 is x1-1, 4 stays.

    ## Observation space
    `Box(0, size-1, (2,), int32)`: the agent's coordinates (x0, x1), nothing else.

    ## Reward
    1.0 for every step that ends on the goal, else 0.0; a reset is not rewarded. Best return of an episode:
    min(21 - d, 20) for a goal d moves away from its start.

    ## Episode end
    After 20 steps `truncated` is set, never `terminated`.

    ## Arguments
    `starts` ("lifetime", "episode" or "mixed") says which episodes share a start cell; the ids below set it. `goal`,
    sampling of tasks, `size` and `horizon` are as in `DarkroomEnv`.

    ## Info
    `task` (id: size * x0 + x1), `success` (is on the goal), `optimal_return`. For display and metrics only.
    `optimal_return` is the expected best return of an episode, the mean over start cells; a single lifetime can reach
    more or less.

    ## Variants
    `icrl/DarkroomRandomStart-v0` (`starts="episode"`): a start cell is drawn for each episode.
    `icrl/DarkroomAnyStart-v0` (`starts="mixed"`): 30% of the episodes start in a random cell of their own, the others
    in the centre.

    ## Version
    v0: ours.
    """

    rules_class = DarkroomStarts


class DarkroomStartsVectorEnv(ArrayVectorEnv):
    """Many `DarkroomStartsEnv`s in NumPy."""

    rules_class = DarkroomStarts
