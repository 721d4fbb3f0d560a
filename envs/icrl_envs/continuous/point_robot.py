"""Point robot: a point in the plane with a hidden goal.

Axis letters: B rows, N tasks, H hypotheses, T steps of an episode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Belief, Capability, draw_hypotheses
from icrl_envs.base.checks import as_array, check_choice, check_int, short
from icrl_envs.base.rules import Rules
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

SPACING = 0.02  # distance between neighbouring goals
COARSE = 3  # spacing of a belief's hypotheses, in goals
SPEED = 0.2  # largest move along each axis
NEAR = 0.2 + 1e-6  # sparse reward within this distance of the goal; no goal is at its rim from a reachable position
TESTED = NEAR - COARSE * SPACING  # distance at which no reward also rules out all goals nearest to a hypothesis
REWARDED = NEAR + COARSE * SPACING  # distance within which a reward leaves all goals nearest to a hypothesis possible
ARENA = 2.0  # positions are within -ARENA..ARENA
REWARDS = ("dense", "sparse")
PIXELS = 192  # side of a frame


def _lattice() -> np.ndarray:
    """Goals (N, 2) int64 in units of SPACING: the points of a square lattice in the unit disc."""
    radius = round(1 / SPACING)
    side = np.arange(-radius, radius + 1)
    points = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    return points[(points**2).sum(1) <= radius**2]


class PointRobot(Rules):
    """A point that moves to a hidden goal. State: the position (B, 2) float64. Task: the goal's number."""

    task_names = ("goal",)
    lifetime = 8
    observation_space = spaces.Box(-ARENA, ARENA, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    render_modes = ("ansi", "rgb_array")
    capabilities = frozenset({Capability.SUCCESS, Capability.OPTIMAL_RETURN, Capability.EXPERT})

    def __init__(self, reward: str = "dense", horizon: int = 20):
        self.reward = check_choice(reward, "reward", REWARDS)
        self.horizon = check_int(horizon, "horizon", 1, 10**6)
        self._cells = _lattice()
        self.goals = self._cells * SPACING  # (N, 2)
        self.num_tasks = len(self.goals)
        self._numbers = {tuple(cell): number for number, cell in enumerate(self._cells.tolist())}
        if reward == "sparse":
            self.capabilities = self.capabilities | {Capability.BELIEF}
        self._optimal = self._best_returns()  # (N,)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"goal": (x, y)}."""
        x, y = self.goals[task_id].round(2).tolist()
        return {"goal": (x, y)}

    def find_task(self, **task: Any) -> int:
        goal = as_array(task["goal"])
        if goal.shape == (2,) and goal.dtype.kind in "iuf" and (np.abs(goal) < 2).all():
            cell = np.rint(goal / SPACING)
            number = self._numbers.get((int(cell[0]), int(cell[1])))
            if number is not None and np.abs(cell * SPACING - goal).max() < 1e-6:
                return number
        raise ValueError(
            f"goal={short(task['goal'])}: give two multiples of {SPACING} in the unit disc, such as goal=(0.3, -0.5)."
        )

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return the origin (B, 2)."""
        return np.zeros((len(task), 2))

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move by SPEED * action; the reward is that of the new position."""
        state = np.clip(state + SPEED * action.astype(np.float64), -ARENA, ARENA)
        away = self.distance(state, task)
        return state, -away if self.reward == "dense" else (away <= NEAR).astype(np.float64)

    def distance(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return distances (B,) to the goals."""
        return np.linalg.norm(state - self.goals[task], axis=1)

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return the positions (B, 2) float32."""
        return state.astype(np.float32)

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the position is within NEAR of the goal."""
        return self.distance(state, task) <= NEAR

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return the return of moving straight to the goal along both axes."""
        return self._optimal[task]

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the moves (B, 2) float32 toward the goal."""
        return toward(state, self.goals[task])

    def belief(self, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray = 1.0) -> Belief:
        """Return a belief with goals all over the disc, for the sparse reward."""
        return GoalBelief(self, rows, rng, sharpness) if self.reward == "sparse" else self.undeclared(Capability.BELIEF)

    def frame(self, state: np.ndarray, task: int) -> np.ndarray:
        """Draw the goal as a green disc of radius NEAR, the robot as a blue one."""
        side = np.linspace(-1.4, 1.4, PIXELS)
        x, y = np.meshgrid(side, -side)  # x to the right, y upwards
        frame = np.full((PIXELS, PIXELS, 3), 236, np.uint8)
        for (x0, y0), radius, colour in ((self.goals[task], NEAR, (60, 170, 90)), (state, 0.06, (38, 84, 160))):
            frame[(x - x0) ** 2 + (y - y0) ** 2 <= radius**2] = colour
        return frame

    def text(self, state: np.ndarray, task: int) -> str:
        """Write the unit square around the disc: G for the goal, A for the robot, * for both."""
        letters = np.full((11, 11), ".", object)
        cells = [tuple(np.clip(np.rint(5 + 5 * point), 0, 10).astype(int)) for point in (self.goals[task], state)]
        letters[cells[0]], letters[cells[1]] = "G", "A"
        if cells[0] == cells[1]:
            letters[cells[0]] = "*"
        return "\n".join(" ".join(line) for line in letters.T[::-1]) + "\n"

    def _best_returns(self) -> np.ndarray:
        """Return the optimal returns (N,): each step goes to the nearest point of the box that T moves can reach."""
        steps = SPEED * np.arange(1, self.horizon + 1)  # (T,)
        left = np.maximum(np.abs(self.goals)[:, None] - steps[:, None], 0)  # (N, T, 2)
        away = np.linalg.norm(left, axis=2)
        return -away.sum(1) if self.reward == "dense" else (away <= NEAR).sum(1).astype(np.float64)


def toward(state: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Moves (B, 2) float32 from positions (B, 2) to targets (B, 2)."""
    return np.clip((target - state) / SPEED, -1.0, 1.0).astype(np.float32)


class GoalBelief(Belief):
    """Posterior over goals after sparse rewards: a disc around each position is ruled out, or all but that disc.

    Once a position was rewarded, the action goes to the middle of the possible goals: there a small error is free,
    while the first rewarded position is often at the rim of the disc that pays.

    Args:
        robot: the family.
        rows: B.
        rng: generator of samples.
        sharpness: preference for goals that are near the position, per step; a float, or (B,) one per row.
    """

    def __init__(self, robot: PointRobot, rows: int, rng: np.random.Generator, sharpness: float | np.ndarray):
        self.robot, self.rng = robot, rng
        self.sharpness = np.broadcast_to(np.asarray(sharpness, np.float64), (rows,))
        self._numbers = np.flatnonzero((robot._cells % COARSE == 0).all(1))  # (H,) task ids of the hypotheses
        self._goals = robot.goals[self._numbers]  # (H, 2)
        self.mask = np.ones((rows, len(self._numbers)), bool)  # (B, H)
        self.position = np.zeros((rows, 2))
        self.target = np.full((rows, 2), np.nan)  # (B, 2) middle of the possible goals, NaN before the first reward

    def begin(self, starts: np.ndarray, obs: np.ndarray) -> None:
        """Set starting rows to the positions `obs` (B, 2)."""
        self.position[starts] = obs[starts]

    def update(
        self, live: np.ndarray, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray
    ) -> None:
        """Keep the goals that explain the reward at `next_obs`."""
        self.position[live] = next_obs[live]
        rows, paid = np.flatnonzero(live), np.asarray(reward)[live] > 0
        away = self._away(rows)  # (N, H)
        self.mask[rows] &= np.where(paid[:, None], away <= REWARDED, away > TESTED)
        if self.changing:
            here = np.abs(self.position[rows] - self.target[rows]).max(1) < SPACING  # False without a target
            gone = rows[here & ~paid]
            self.target[gone], self.mask[gone] = np.nan, self._away(gone) > TESTED
        known = rows[paid | ~np.isnan(self.target[rows, 0])]
        self.target[known] = self._middle(known)

    def possible(self, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: `task` (B,) explains all rewards; every task does in a row that was rewarded.

        Such a row goes to the middle of the possible goals whatever the task.
        """
        place = np.minimum(np.searchsorted(self._numbers, task), len(self._numbers) - 1)
        tested = self.mask[np.arange(len(task)), place] & (self._numbers[place] == task)
        return tested | ~np.isnan(self.target[:, 0])

    def sample(self, rows: np.ndarray, steps_left: int | np.ndarray) -> np.ndarray:
        """Sample tasks (N,) among the possible ones, near ones preferred."""
        exhausted = rows[~self.mask[rows].any(1)]  # the goal is between two hypotheses: search again
        self.mask[exhausted] = True
        moves = np.maximum(self._away(rows) - TESTED, 0) / SPEED  # (N, H)
        possible = self.mask[rows]
        near = possible & (moves <= np.reshape(steps_left, (-1, 1)))  # what this episode can still test
        possible = np.where(near.any(1, keepdims=True), near, possible)
        return self._numbers[draw_hypotheses(possible, moves, self.sharpness[rows], self.rng)]

    def action(self, task: np.ndarray) -> np.ndarray:
        """Return the moves (B, 2) to the goal of `task` (B,), after a reward to the middle of the possible goals."""
        return toward(self.position, np.where(np.isnan(self.target), self.robot.goals[task], self.target))

    def _middle(self, rows: np.ndarray) -> np.ndarray:
        """Return the possible goal (N, 2) nearest to their mean, which itself may be none and could not be refuted."""
        mask = self.mask[rows]
        mean = mask @ self._goals / np.maximum(mask.sum(1), 1)[:, None]
        away = np.linalg.norm(mean[:, None] - self._goals, axis=2)
        return self._goals[np.where(mask, away, np.inf).argmin(1)]

    def _away(self, rows: np.ndarray) -> np.ndarray:
        """Return distances (N, H) from the positions of `rows` (N,) to all hypotheses."""
        return np.linalg.norm(self.position[rows, None] - self._goals, axis=2)


class PointRobotEnv(ArrayEnv):
    """A point in the plane with a hidden goal.

    ## Description
    A point starts at the origin and moves at most 0.2 a step along each axis. The task is a goal in the unit disc, the
    same in all episodes; only rewards reveal it. The dense version is the smallest task of continuous in-context
    reinforcement learning: three rewards at different positions determine the goal. The sparse version asks for search.

    ## Action space
    `Box(-1, 1, (2,), float32)`: the move, in units of 0.2.

    ## Observation space
    `Box(-2, 2, (2,), float32)`: the position.

    ## Reward
    `icrl/PointRobot-v0`: minus the distance to the goal after the move. `icrl/PointRobotSparse-v0`: 1.0 within 0.2 of
    the goal, else 0.0.

    ## Episode end
    After 20 steps `truncated` is set, never `terminated`.

    ## Arguments
    `goal=(x, y)`, two multiples of 0.02 in the unit disc, fixes the task; without it the first `reset` samples one.
    `reward` ("dense" or "sparse") and `horizon` define the family.

    ## Info
    `task` (id), `success` (within 0.2 of the goal), `optimal_return`. For display and metrics only.

    ## Version
    v0: after the point robots of meta-RL (such as PEARL, arXiv 1903.08254), with goals in the whole unit disc.
    """

    rules_class = PointRobot


class PointRobotVectorEnv(ArrayVectorEnv):
    """Many `PointRobotEnv`s in NumPy."""

    rules_class = PointRobot
