"""Pixel grid: a room seen as an image, with a goal that is hidden or in the image.

Axis letters: B rows, L levels, C cells, S side of the room in cells, P side of a cell in pixels, K distractors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Belief, Capability
from icrl_envs.base.checks import check_choice, check_int
from icrl_envs.base.noise import DRAWS, uniform
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.grid import AGENT, GOAL, STAY, Colour, GridRules, SearchBelief

LEVELS = 1000
LEVEL_SEED = 0
OBSERVATIONS = ("pixels", "cells")
MAX_DISTRACTORS = 8
LARGEST = 31  # side of a room of which every cell is the goal of a level

CELL, SHOWN, LOOK, NOISE, DISTRACTORS = 0, 1, 2, 3, 4  # columns of a state; distractors have the columns from 4 on
HIDDEN = -1  # in column SHOWN

SHADES = np.array(  # (looks, 2, 3) colours of the two kinds of floor cells, which alternate
    [
        [(236, 236, 232), (220, 220, 214)],
        [(60, 62, 70), (74, 76, 86)],
        [(222, 202, 170), (208, 186, 150)],
        [(176, 206, 216), (158, 190, 202)],
        [(112, 92, 80), (126, 106, 92)],
        [(226, 206, 222), (210, 188, 206)],
    ],
    np.uint8,
)
DISTRACTOR: Colour = (214, 110, 50)
SPRITES: tuple[tuple[Colour, str], ...] = (  # colour and shape of each thing on a cell
    ((0, 0, 0), ".... .... .... ...."),
    (GOAL, "#### #### #### ####"),
    (DISTRACTOR, "#..# .##. .##. #..#"),
    (AGENT, ".##. #### #### .##."),
)
NOTHING, ON_GOAL, ON_DISTRACTOR, ON_AGENT = range(len(SPRITES))
PIXELS = 4  # P
ZOOM = 6  # pixels of a frame for each pixel of an observation


def _tiles() -> np.ndarray:
    """Draw every thing on every kind of floor: (looks, 2, things, P, P, 3) uint8."""
    tiles = np.empty((len(SHADES), 2, len(SPRITES), PIXELS, PIXELS, 3), np.uint8)
    tiles[:] = SHADES[:, :, None, None, None]
    for thing, (colour, shape) in enumerate(SPRITES):
        tiles[:, :, thing, np.array([[pixel == "#" for pixel in line] for line in shape.split()])] = colour
    return tiles


TILES = _tiles()


class PixelGrid(GridRules):
    """A goal cell, which ends the episode with reward 1. Task: the level.

    State, int64 (B, 4 + K): the agent's cell, the cell of a goal that is shown, the look, the noise position, and the
    cells of the distractors.

    Args:
        size: S.
        horizon: maximum number of steps in an episode.
        show_goal: whether observations show the goal.
        distractors: K, number of things that move at random and mean nothing.
        obs: "pixels", or "cells": coordinates of the agent, then of a goal that is shown.
    """

    task_names = ("level",)
    num_tasks = LEVELS
    lifetime = 20
    stochastic = True

    def __init__(
        self, size: int = 8, horizon: int = 20, show_goal: bool = False, distractors: int = 0, obs: str = "pixels"
    ):
        super().__init__(check_int(size, "size", 2, LARGEST), None, horizon)
        self.show_goal = check_choice(show_goal, "show_goal", (False, True))
        if not show_goal:
            self.capabilities = GridRules.capabilities | {Capability.BELIEF}
        self.distractors = check_int(distractors, "distractors", 0, MAX_DISTRACTORS)
        self.obs = check_choice(obs, "obs", OBSERVATIONS)
        side = size * PIXELS
        self.observation_space = (
            spaces.Box(0, 255, (side, side, 3), np.uint8)
            if obs == "pixels"
            else spaces.Box(0, size - 1, (4 if show_goal else 2,), np.int32)
        )
        rng = np.random.default_rng(LEVEL_SEED)
        passes = -(-LEVELS // self.cells)  # every cell is the goal of equally many levels
        self.goals = np.concatenate([rng.permutation(self.cells) for _ in range(passes)])[:LEVELS]  # (L,)
        self.looks = rng.integers(len(SHADES), size=LEVELS)  # (L,)
        away = self.distance(np.arange(self.cells)[:, None], np.arange(self.cells))  # (C, C)
        self._optimal = (away <= self.horizon).sum(0) - 1  # (C,) number of starts from which a goal can be reached

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"level": task_id}."""
        return {"level": int(task_id)}

    def find_task(self, **task: Any) -> int:
        return check_int(task["level"], "level", 0, LEVELS - 1)

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the states of the first episodes, from noise position 0."""
        return self.begin(np.zeros(len(task), np.int64), task)

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return states (B, 4 + K): the agent in any cell but the goal's, distractors anywhere."""
        goal = self.goals[task]
        state = np.empty((len(task), DISTRACTORS + self.distractors), np.int64)
        state[:, CELL] = (goal + 1 + (uniform(position, 0) * (self.cells - 1)).astype(np.int64)) % self.cells
        state[:, SHOWN] = goal if self.show_goal else HIDDEN
        state[:, LOOK] = self.looks[task]
        state[:, NOISE] = position + 1
        state[:, DISTRACTORS:] = self._draw(state, self.cells)
        return state

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the states of the next episodes."""
        return self.begin(state[:, NOISE], task)

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move the agent and, at random, the distractors; reward 1 on the goal."""
        after = state.copy()
        after[:, CELL] = self.move(state[:, CELL], action)
        after[:, NOISE] += 1  # for the expert
        after[:, DISTRACTORS:] = self.moves[state[:, DISTRACTORS:], self._draw(after, STAY)]  # 0 to 3: they never stay
        return after, self.success(after, task).astype(np.float64)

    def _draw(self, state: np.ndarray, below: int) -> np.ndarray:
        """Draw integers (B, K) below `below` for the distractors; advances the noise position of `state`."""
        numbers = [uniform(state[:, NOISE] + k // DRAWS, k % DRAWS) for k in range(self.distractors)]
        state[:, NOISE] += -(-self.distractors // DRAWS)
        drawn = np.array(numbers).reshape(self.distractors, len(state)).T  # (B, K)
        return (drawn * below).astype(np.int64)

    def terminated(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the agent is on the goal."""
        return self.success(state, task)

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the agent is on the goal."""
        return state[:, CELL] == self.goals[task]

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return images (B, S * P, S * P, 3) uint8, or coordinates (B, 2 or 4) int32."""
        if self.obs == "pixels":
            return self.paint(state)
        cells = state[:, [CELL, SHOWN] if self.show_goal else [CELL]]
        return self.coords[cells].reshape(len(state), -1)

    def paint(self, state: np.ndarray) -> np.ndarray:
        """Draw images (B, S * P, S * P, 3) uint8: the agent above the goal, and the goal above the distractors."""
        rows, things = np.arange(len(state)), np.full((len(state), self.cells), NOTHING)
        things[rows[:, None], state[:, DISTRACTORS:]] = ON_DISTRACTOR
        shown = np.flatnonzero(state[:, SHOWN] != HIDDEN)
        things[shown, state[shown, SHOWN]] = ON_GOAL
        things[rows, state[:, CELL]] = ON_AGENT
        tiles = TILES[state[:, LOOK, None], self.coords.sum(1) % 2, things]  # (B, C, P, P, 3)
        tiles = tiles.reshape(-1, self.size, self.size, PIXELS, PIXELS, 3).transpose(0, 1, 3, 2, 4, 5)
        return tiles.reshape(len(state), self.size * PIXELS, self.size * PIXELS, 3)

    def cell_at(self, obs: np.ndarray) -> np.ndarray:
        """Return the agent's cell (B,) in observations (B, ...)."""
        if self.obs == "cells":
            return super().cell_at(obs)
        middle = obs[:, PIXELS // 2 :: PIXELS, PIXELS // 2 :: PIXELS]  # (B, S, S, 3)
        return (middle == AGENT).all(-1).reshape(len(obs), -1).argmax(1)

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return the share of start cells from which the goal is within the horizon."""
        return self._optimal[self.goals[task]] / (self.cells - 1)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return moves (B,) to the goal, along either axis at random where both are left; stay on it."""
        d0, d1 = (self.coords[self.goals[task]] - self.coords[state[:, CELL]]).T
        first = (d1 == 0) | ((d0 != 0) & (uniform(state[:, NOISE], DRAWS - 1) < 0.5))
        move = np.where(first, np.where(d0 > 0, 0, 1), np.where(d1 > 0, 2, 3))
        return np.where((d0 == 0) & (d1 == 0), STAY, move)

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> Belief:
        """Return a belief with every cell a possible goal; there is nothing to search for where the goal is shown."""
        return self.undeclared(Capability.BELIEF) if self.show_goal else LevelBelief(self, rows, rng, sharpness)

    def frame(self, state: np.ndarray, task: int) -> np.ndarray:
        """Draw the image, larger and with the goal."""
        shown = state[None].copy()
        shown[:, SHOWN] = self.goals[task]
        return self.paint(shown)[0].repeat(ZOOM, 0).repeat(ZOOM, 1)

    def text(self, state: np.ndarray, task: int) -> str:
        """Write G for the goal, A for the agent, * for both."""
        return self.write({int(self.goals[task]): "G"}, int(state[CELL]))


class LevelBelief(SearchBelief):
    """Posterior over the goal cell; a level stands for its goal, the first level for all those of the same goal."""

    grid: PixelGrid

    def __init__(self, grid: PixelGrid, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray):
        super().__init__(grid, rows, rng, sharpness, hidden=1, last_stage=0)
        self._levels = np.unique(grid.goals, return_index=True)[1]  # (C,) first level of each goal

    def number(self, cells: np.ndarray) -> np.ndarray:
        return self._levels[cells[:, 0]]

    def parts(self, task: np.ndarray) -> np.ndarray:
        return self.grid.goals[task][:, None]


class PixelGridEnv(ArrayEnv):
    """A room seen as an image.

    ## Description
    An 8x8 room, drawn with 4x4 pixels a cell. The task is a level: a goal cell, and one of six looks of the floor. The
    agent starts in another cell at random in every episode. In `icrl/PixelGrid-v0` only the reward reveals the goal.

    ## Action space
    `Discrete(5)`: 0 is x0+1 (down in drawings), 1 is x0-1, 2 is x1+1 (right), 3 is x1-1, 4 stays. Walls block moves.

    ## Observation space
    `Box(0, 255, (32, 32, 3), uint8)`: the room, with the agent in blue. With `obs="cells"` `Box(0, 7, (2,), int32)`:
    the agent's coordinates, followed by those of a goal that is shown.

    ## Reward
    1.0 for the step that ends on the goal, else 0.0. Best return: 1.

    ## Episode end
    `terminated` on the goal; after 20 steps `truncated`.

    ## Arguments
    `level=0..999` fixes the task; without it the first `reset` samples one. `size` (2 to 31), `horizon`, `show_goal`,
    `distractors` (0 to 8 crosses that move one cell a step at random) and `obs` ("pixels" or "cells") define the
    family; the ids below set them.

    ## Info
    `task` (id: the level), `success` (is on the goal), `optimal_return`. For display and metrics only.

    ## Variants
    `icrl/PixelGridCells-v0`: the same levels with `obs="cells"`. `icrl/PixelGridGoal-v0`: the image shows the goal, in
    green. `icrl/PixelGridDistractors-v0`: the same with four distractors.

    ## Version
    v0: ours; levels as tasks after Procgen (Cobbe et al. 2020, arXiv 1912.01588).
    """

    rules_class = PixelGrid


class PixelGridVectorEnv(ArrayVectorEnv):
    """Many `PixelGridEnv`s in NumPy."""

    rules_class = PixelGrid
