"""Base of the grid families: rooms with walls, and the belief of a search for hidden cells.

Axis letters: B rows, N samples, C cells, K hidden things.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Belief, Capability, draw_hypotheses
from icrl_envs.base.checks import check_int, short
from icrl_envs.base.rules import Rules

MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)])  # x0+1, x0-1, x1+1, x1-1, stay
STAY = 4
MAX_SIZE = 32  # tables over pairs of cells grow with the fourth power of the size
CONTRADICTION = "what a row saw contradicts the rules: feed the belief from the environment it was made for."

Colour = tuple[int, int, int]
FLOOR, LINE, AGENT, GOAL = (236, 236, 232), (200, 200, 196), (38, 84, 160), (60, 170, 90)
PIXELS = 24  # side of a cell in a frame


class GridRules(Rules):
    """Dynamics of a square room. A cell is the int `size * x0 + x1`, C = size * size; walls block moves.

    A state is `stage * C + cell`, where the stage counts the goals reached in this episode.

    Args:
        size: side of the room in cells.
        start: start cell of every episode; None for the centre.
        horizon: maximum number of steps in an episode.
        stages: number of stages.
    """

    action_space: spaces.Discrete
    render_modes = ("ansi", "rgb_array")
    capabilities = frozenset({Capability.SUCCESS, Capability.OPTIMAL_RETURN, Capability.EXPERT})

    def __init__(self, size: int, start: tuple[int, int] | None, horizon: int, stages: int = 1):
        self.size = check_int(size, "size", 2, MAX_SIZE)
        self.cells = self.size**2
        self.horizon = check_int(horizon, "horizon", 1, 10**6)
        self.observation_space = spaces.Box(0, size - 1, (2,), np.int32)
        self.action_space = spaces.Discrete(len(MOVES))
        coords = np.stack(np.divmod(np.arange(self.cells), size), 1)
        moved = np.clip(coords[:, None] + MOVES, 0, size - 1) @ np.array([size, 1])  # (C, 5)
        self.coords = np.tile(coords.astype(np.int32), (stages, 1))  # (stages * C, 2)
        self.moves = np.concatenate([moved + stage * self.cells for stage in range(stages)])  # (stages * C, 5)
        self.start_cell = self.check_cell((size // 2, size // 2) if start is None else start, "start")

    def check_cell(self, xy: Any, name: str) -> int:
        """Return the cell at coordinates `xy`; ValueError unless they are two integers inside the room."""
        try:
            x0, x1 = (check_int(x, name, 0, self.size - 1) for x in xy)
        except (TypeError, ValueError):
            top = self.size - 1
            raise ValueError(
                f"{name}={short(xy)}: give two integers from 0 to {top}, such as {name}=(0, {top})."
            ) from None
        return self.size * x0 + x1

    def xy(self, cell: int) -> tuple[int, int]:
        """Return the coordinates of a cell."""
        return divmod(int(cell), self.size)

    def cell_at(self, obs: np.ndarray) -> np.ndarray:
        """Return the cells (B,) of observations (B, 2)."""
        return obs[:, 0].astype(np.int64) * self.size + obs[:, 1]

    def distance(self, a: Any, b: Any) -> np.ndarray:
        """Return the number of moves between states or cells, broadcast against each other."""
        return np.abs(self.coords[a] - self.coords[b]).sum(-1)

    def toward(self, state: np.ndarray, target: Any) -> np.ndarray:
        """Return the expert's moves (B,) from `state` to `target`: x0 first, then x1, then stay."""
        d0, d1 = (self.coords[target] - self.coords[state]).T
        return np.select([d0 > 0, d0 < 0, d1 > 0, d1 < 0], [0, 1, 2, 3], STAY).astype(np.int64)

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return states (B,) in the start cell."""
        return np.full(len(task), self.start_cell, np.int64)

    def move(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return the states (B,) after moves (B,)."""
        return self.moves.take(state * len(MOVES) + action)

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return the coordinates (B, 2) int32."""
        return self.coords.take(state, axis=0)

    def steps_on(self, goal: Any, start: Any = None) -> np.ndarray:
        """Return the maximum number of steps (float64) in an episode that end on `goal`.

        `start` is the first cell, broadcast against `goal`; None for the room's start cell.
        """
        start = self.start_cell if start is None else start
        # a goal on the start cell yields no more than a neighbouring one: resets are not rewarded
        return np.clip(self.horizon + 1 - self.distance(start, goal), 0, self.horizon).astype(np.float64)

    def draw(self, things: dict[int, Colour], agent: int, colour: Colour = AGENT) -> np.ndarray:
        """Draw a frame, uint8 (height, width, 3): `things` fill their cell, the agent is a smaller square on top."""
        frame = np.empty((self.size * PIXELS, self.size * PIXELS, 3), np.uint8)
        frame[:] = LINE
        for cell in range(self.cells):
            self._square(frame, cell, things.get(cell, FLOOR), 1)
        self._square(frame, agent, colour, PIXELS // 4)
        return frame

    def _square(self, frame, cell, colour, margin):
        x0, x1 = (x * PIXELS for x in self.xy(cell))
        frame[x0 + margin : x0 + PIXELS - margin, x1 + margin : x1 + PIXELS - margin] = colour

    def write(self, things: dict[int, str], agent: int, note: str = "") -> str:
        """Write the room as text, x0 downwards: letters for `things`, A for the agent, * for the agent on one."""
        letters = ["."] * self.cells
        for cell, letter in things.items():
            letters[cell] = letter
        letters[agent] = "*" if agent in things else "A"
        lines = [" ".join(letters[i : i + self.size]) for i in range(0, self.cells, self.size)]
        return "\n".join(lines + ([note] if note else [])) + "\n"


class SearchBelief(Belief):
    """Posterior over the cells of K hidden things, which are searched one after the other.

    In stage s a row searches for thing s: a reward locates it in the entered cell, no reward rules that cell out.
    Samples are weighted by exp(-sharpness * distance), so a search sweeps the room instead of crossing it for every
    hypothesis.

    Args:
        grid: the room.
        rows: B.
        rng: generator of samples and tie-breaks.
        sharpness: preference for near cells; a float, or (B,) one per row. 0 samples from the posterior itself,
            infinity sweeps the room in one order, without chance.
        hidden: K, the number of hidden things; a task id is their cells as digits in base C.
        last_stage: a reward before this stage advances to the next one; in stage K there is nothing left to search.
    """

    def __init__(
        self,
        grid: GridRules,
        rows: int,
        rng: np.random.Generator,
        sharpness: float | np.ndarray,
        hidden: int,
        last_stage: int,
    ):
        self.grid, self.rng, self.hidden, self.last_stage = grid, rng, hidden, last_stage
        self.sharpness = np.broadcast_to(np.asarray(sharpness, np.float64), (rows,))
        self.mask = np.ones((rows, hidden, grid.cells), bool)  # (B, K, C) possible cells of thing k
        self.stage = np.zeros(rows, np.int64)  # (B,)
        self.cell = np.full(rows, grid.start_cell)  # (B,)
        self._index = np.arange(rows)
        self._between = grid.distance(np.arange(grid.cells)[:, None], np.arange(grid.cells))  # (C, C)
        self._digits = grid.cells ** np.arange(hidden - 1, -1, -1)  # (K,)

    def begin(self, starts: np.ndarray, obs: np.ndarray) -> None:
        """Set starting rows to the first stage, at `obs` (B, 2)."""
        self.cell = np.where(starts, self.grid.cell_at(obs), self.cell)
        self.stage[starts] = 0

    def update(
        self, live: np.ndarray, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray
    ) -> None:
        """Rule out the entered cell or, after a reward, all other cells."""
        self.cell = np.where(live, self.grid.cell_at(next_obs), self.cell)
        rows = np.flatnonzero(live & (self.stage < self.hidden))
        found = np.asarray(reward)[rows] > 0
        self.mask[rows, self.stage[rows], self.cell[rows]] = found
        if self.changing:
            moved = rows[~self.mask[rows, self.stage[rows]].any(1)]  # the thing is not where it was
            self.mask[moved, self.stage[moved]] = True
            self.mask[moved, self.stage[moved], self.cell[moved]] = False
        hit = rows[found]  # located: a single possible cell remains
        self.mask[hit, self.stage[hit]] = False
        self.mask[hit, self.stage[hit], self.cell[hit]] = True
        self.stage[hit] += self.stage[hit] < self.last_stage

    def possible(self, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: every thing may be in the cell given by `task` (B,)."""
        return self.mask[self._index[:, None], np.arange(self.hidden), self.parts(task)].all(1)

    def sample(self, rows: np.ndarray, steps_left: int | np.ndarray) -> np.ndarray:
        """Sample tasks (N,) from the possible cells within `steps_left` moves, or from all possible ones if none is."""
        distance = self._between[self.cell[rows], None]  # (N, 1, C)
        possible = self.mask[rows]  # (N, K, C)
        if not possible.any(-1).all():
            raise ValueError(CONTRADICTION)
        # cells beyond `steps_left` cannot be tested in this episode
        near = possible & (distance <= np.reshape(steps_left, (-1, 1, 1)))
        possible = np.where(near.any(-1, keepdims=True), near, possible)
        return self.number(draw_hypotheses(possible, distance, self.sharpness[rows], self.rng))

    def action(self, task: np.ndarray) -> np.ndarray:
        """Return moves (B,) to the searched thing's cell under `task` (B,), preferably through possible cells."""
        thing = np.minimum(self.stage, self.hidden - 1)
        target = np.where(self.stage < self.hidden, self.parts(task)[self._index, thing], self.cell)  # (B,)
        d0, d1 = (self.grid.coords[target] - self.grid.coords[self.cell]).T
        move0, move1 = np.where(d0 > 0, 0, 1), np.where(d1 > 0, 2, 3)  # (B,) move along each axis
        # along which axis the next cell is still possible; a coin decides between equal axes, in one order it is x1
        open0, open1 = (self.mask[self._index, thing, self.grid.moves[self.cell, m]] for m in (move0, move1))
        coin = np.where(np.isinf(self.sharpness), 0.5, self.rng.random(len(task)))
        first = coin < 0.5 + 0.5 * (open0.astype(int) - open1)
        first = (d1 == 0) | (first & (d0 != 0))
        return np.where((d0 == 0) & (d1 == 0), STAY, np.where(first, move0, move1))

    def number(self, cells: np.ndarray) -> np.ndarray:
        """Return tasks (N,) whose things are in `cells` (N, K)."""
        return cells @ self._digits

    def parts(self, task: np.ndarray) -> np.ndarray:
        """Return the cells (B, K) of the things in `task` (B,)."""
        return np.asarray(task)[:, None] // self._digits % self.grid.cells
