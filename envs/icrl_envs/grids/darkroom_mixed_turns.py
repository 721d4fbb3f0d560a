"""Darkroom in turns of random lengths. Axis letter: B rows."""

from __future__ import annotations

import numpy as np

from icrl_envs.base.noise import uniform
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.darkroom_turns import DarkroomTurns

CELL, ROOM, LEFT, NOISE = range(4)  # columns of a state


class DarkroomMixedTurns(DarkroomTurns):
    """Darkroom in turns of random length: n episodes, 1 to `turn`, with a probability proportional to log(1 + 1/n).

    State, int64 (B, 4): the agent's cell, the room, the number of episodes left in this turn, with the present one, and
    the noise position.

    Args:
        size: side of the rooms in cells.
        horizon: maximum number of steps in an episode.
        turn: maximum number of consecutive episodes in one room.
    """

    stochastic = True

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 4) of the first episodes, from noise position 0."""
        return self.begin(np.zeros(len(task), np.int64), task)

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 4) of the first episodes, from given noise positions (B,): the centre of room 0."""
        cell = np.full(len(task), self.start_cell)
        return np.stack([cell, np.zeros_like(cell), self._drawn(position), position + 1], 1)

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the states (B, 4) of the next episodes: in the same room, or the first of a turn in the other one."""
        over, state = state[:, LEFT] == 1, state.copy()
        state[:, CELL] = self.start_cell
        state[:, ROOM] ^= over
        state[:, LEFT] = np.where(over, self._drawn(state[:, NOISE]), state[:, LEFT] - 1)
        state[:, NOISE] += 1
        return state

    def room(self, state: np.ndarray) -> np.ndarray:
        return state[:, ROOM]

    def _drawn(self, position: np.ndarray) -> np.ndarray:
        """Draw lengths of turns (B,)."""
        return ((self.turn + 1) ** uniform(position, 0)).astype(np.int64)


class DarkroomMixedTurnsEnv(ArrayEnv):
    """Two dark rooms with a hidden goal each, which are played by turns of random lengths.

    ## Description
    `icrl/DarkroomMixedTurns-v0` has the rooms, tasks and split of `icrl/DarkroomTurns-v0`, and the length of each turn
    is drawn, from 1 to 15 episodes, short turns more often (mean 4.9). It is for training (`variant`): a learner
    changes rooms three times as often, so its histories ask for memory more often, over longer and shorter gaps. The
    first turn is in room 0. Walls block moves. A lifetime begins with the first `reset` and with each
    `reset(seed=...)`; a task set by other resets leaves the turns as they are.

    ## Action space
    `Discrete(5)`: 0 is x0+1 (down in drawings), 1 is x0-1, 2 is x1+1 (right), 3 is x1-1, 4 stays.

    ## Observation space
    `Box(0, [size-1, size-1, 1], (3,), int32)`: the agent's coordinates (x0, x1) and the room, 0 or 1.

    ## Reward
    1.0 for every step that ends on the goal of the present room, else 0.0, as in `DarkroomTurnsEnv`.

    ## Episode end
    After 20 steps `truncated` is set, never `terminated`.

    ## Arguments
    `turn` is the maximum number of consecutive episodes in a room, and n of them have a weight of log(1 + 1/n).
    `goals`, sampling of tasks, `size` and `horizon` are as in `DarkroomTurnsEnv`.

    ## Info
    `task`, `success` and `optimal_return`, as in `DarkroomTurnsEnv`. For display and metrics only.

    ## Version
    v0: ours.
    """

    rules_class = DarkroomMixedTurns


class DarkroomMixedTurnsVectorEnv(ArrayVectorEnv):
    """Many `DarkroomMixedTurnsEnv`s in NumPy."""

    rules_class = DarkroomMixedTurns
