"""Permuted Darkroom: a fixed goal, and a hidden permutation of the actions. Axis letters: B rows, N samples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from icrl_envs.base.capability import Belief, Capability, draw_hypotheses
from icrl_envs.base.checks import as_array, check_int, short
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.grid import CONTRADICTION, GOAL, MOVES, GridRules


class DarkroomPermuted(GridRules):
    """The goal is the last corner; action a applies the move `permutations[task][a]`. State: the cell."""

    task_names = ("permutation",)
    capabilities = GridRules.capabilities | {Capability.BELIEF}

    def __init__(self, size: int = 9, start: tuple[int, int] | None = (0, 0), horizon: int = 50):
        super().__init__(size, start, horizon)
        self.goal = self.cells - 1
        self.permutations = np.array(list(itertools.permutations(range(len(MOVES)))))  # (120, 5) action -> move
        self.inverse = np.argsort(self.permutations, 1)  # (120, 5) move -> action
        self.num_tasks = len(self.permutations)
        self._optimal = self.steps_on(self.goal)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"permutation": index}."""
        return {"permutation": int(task_id)}

    def find_task(self, **task: Any) -> int:
        given = task["permutation"]
        order = as_array(given)
        if order.ndim == 0:
            return check_int(given, "permutation", 0, self.num_tasks - 1)
        if order.dtype.kind in "iu" and sorted(order.tolist()) == list(range(len(MOVES))):
            return int((self.permutations == order).all(1).argmax())  # row of the table
        raise ValueError(f"permutation={short(given)}: give an order of 0, 1, 2, 3, 4, or its index 0 to 119.")

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Apply the permuted move; reward 1 on the goal."""
        state = self.move(state, self.permutations[task, action])
        return state, (state == self.goal).astype(np.float64)

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the agent is on the goal."""
        return state == self.goal

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return 35 in the registered room, for every permutation."""
        return np.full(len(task), self._optimal)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return actions (B,) that move to the goal, x0 first; stay on it."""
        return self.inverse[task, self.toward(state, self.goal)]

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> ControlBelief:
        """Return a belief with every permutation possible, all equally quick to test."""
        return ControlBelief(self, rows, rng, sharpness)

    def frame(self, state: int, task: int) -> np.ndarray:
        """Draw the goal green, the agent blue."""
        return self.draw({self.goal: GOAL}, state)

    def text(self, state: int, task: int) -> str:
        """Write G for the goal, A for the agent, * for both; below, the move of each action."""
        return self.write({self.goal: "G"}, state, f"moves of actions 0-4: {self.permutations[task].tolist()}")


class ControlBelief(Belief):
    """Posterior over permutations: uniform over those consistent with the observed moves; acts as the expert.

    A move into a wall looks like staying, so it refutes only permutations with another outcome. On the goal, where a
    move into the corner stays too, the action is the one that most probably stays: trying another may lead away.
    """

    def __init__(self, rules: DarkroomPermuted, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray):
        self.rules, self.rng = rules, rng
        self.sharpness = np.broadcast_to(np.asarray(sharpness, np.float64), (rows,))
        self.stays = rules.moves[rules.goal, rules.permutations] == rules.goal  # (120, 5) action stays on the goal
        self.mask = np.ones((rows, rules.num_tasks), bool)  # (B, 120) consistent permutations
        self.cell = np.full(rows, rules.start_cell)  # (B,)

    def begin(self, starts: np.ndarray, obs: np.ndarray) -> None:
        """Set the cell of starting rows to `obs` (B, 2)."""
        self.cell = np.where(starts, self.rules.cell_at(obs), self.cell)

    def update(
        self, live: np.ndarray, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray
    ) -> None:
        """Refute the permutations under which `action` (B,) leads to another cell than `next_obs` (B, 2)."""
        seen = self.rules.moves[self.cell] == self.rules.cell_at(next_obs)[:, None]  # (B, 5) consistent moves
        predicted = self.rules.permutations[:, np.asarray(action)].T  # (B, 120) move of `action`
        consistent = ~live[:, None] | np.take_along_axis(seen, predicted, 1)  # (B, 120)
        self.mask &= consistent
        if self.changing:
            self.mask |= consistent & ~self.mask.any(1, keepdims=True)
        self.cell = np.where(live, self.rules.cell_at(next_obs), self.cell)

    def possible(self, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: permutation `task` (B,) is consistent."""
        return self.mask[np.arange(len(self.mask)), task]

    def sample(self, rows: np.ndarray, steps_left: int | np.ndarray) -> np.ndarray:
        """Sample (N,) uniformly from the consistent permutations; with infinite sharpness take the first."""
        possible = self.mask[rows]  # (N, 120)
        if not possible.any(1).all():
            raise ValueError(CONTRADICTION)
        return draw_hypotheses(possible, np.zeros(1), self.sharpness[rows], self.rng)

    def action(self, task: np.ndarray) -> np.ndarray:
        """Return the expert's actions (B,) under permutations `task` (B,); on the goal, those surest to stay."""
        action = self.rules.expert_action(self.cell, task)
        there = self.cell == self.rules.goal
        action[there] = (self.mask[there].astype(np.int64) @ self.stays).argmax(1)
        return action


class DarkroomPermutedEnv(ArrayEnv):
    """A dark room whose controls are permuted.

    ## Description
    `icrl/DarkroomPermuted-v0` is a 9x9 room; episodes start in the corner (0, 0), the goal is always (8, 8). Walls
    block moves. The task is the hidden assignment of moves to actions.

    ## Action space
    `Discrete(5)`: action a applies the move `permutation[a]` of: 0 x0+1 (down in drawings), 1 x0-1,
    2 x1+1 (right), 3 x1-1, 4 stay.

    ## Observation space
    `Box(0, 8, (2,), int32)`: the agent's coordinates (x0, x1), nothing else.

    ## Reward
    1.0 for every step that ends on the goal, else 0.0. Best return: 35.

    ## Episode end
    After 50 steps `truncated` is set, never `terminated`. (The published code sets both.)

    ## Arguments
    `permutation`: its index 0 to 119 in `itertools.permutations(range(5))`, or the tuple itself; also in
    `reset(options={"task": {...}})`. Sampling of tasks, `size`, `start` and `horizon` are as in `DarkroomEnv`; the
    goal is the last corner of a room of any size.

    ## Info
    `task` (the index), `success` (is on the goal), `optimal_return`. For display and metrics only.

    ## Version
    v0: dynamics, task ids and split as in the public DICP code.
    """

    rules_class = DarkroomPermuted


class DarkroomPermutedVectorEnv(ArrayVectorEnv):
    """Many `DarkroomPermutedEnv`s in NumPy."""

    rules_class = DarkroomPermuted
