"""Rows of a game of Procgen: their tasks, generators and episodes, shared by both environments. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from icrl_envs.procgen.levels import Levels, draw_task
from icrl_envs.procgen.simulator import Simulator


class ProcgenRows:
    """B rows with their tasks.

    Attributes:
        obs: (B, 64, 64, 3) uint8.
        level: (B,) int64, of the episode that `obs` is of.
        success: (B,) bool: the episode has just ended with its level done.
    """

    def __init__(self, simulator: Simulator, num: int, fixed: Levels | None):
        self.simulator, self.num, self._fixed = simulator, num, fixed
        self._levels: list[Levels | None] = [None] * num
        self._rng: list[np.random.Generator] = [np.random.default_rng(0)] * num
        self.obs = simulator.obs
        self.level, self.success = np.zeros(num, np.int64), np.zeros(num, bool)

    @property
    def started(self) -> bool:
        """Whether all rows have a task."""
        return None not in self._levels

    def require_reset(self, method: str) -> None:
        """Raise ResetNeeded before the first reset."""
        if not self.started:
            raise ResetNeeded(f"{method}() was called before reset(): call reset() first.")

    def choose(self, row: int, task: Levels | None, seeded: bool, rng: np.random.Generator) -> None:
        """Choose the task of a row before its episode begins; `rng` draws its levels from now on.

        `task` if it is given, and later ones keep it; else that of make(); else a level of the split, drawn at the
        first reset and at a seeded one.
        """
        self._rng[row] = rng
        if task is not None:
            self._levels[row] = task
        elif self._fixed is not None:
            self._levels[row] = self._levels[row] or self._fixed
        elif seeded or self._levels[row] is None:
            self._levels[row] = draw_task(rng)

    def begin(self, rows: Iterable[int]) -> None:
        """Begin an episode in rows that have a task."""
        places = {row: levels.draw(self._rng[row]) for row in rows if (levels := self._levels[row]) is not None}
        self.obs = self.simulator.place(places)
        self.level[list(places)] = list(places.values())
        self.success[list(places)] = False

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Step all rows; returns rewards (B,) float64 and whether episodes have ended (B,)."""
        self.obs, reward, ended, self.success = self.simulator.step(action)
        return reward, ended

    def info(self, where: np.ndarray | None = None) -> dict[str, Any]:
        """Return infos in Gymnasium's batched form; rows outside `where` (B,) bool are absent."""
        there = np.ones(self.num, bool) if where is None else where
        found: dict[str, Any] = {}
        for name, value in {"level_seed": self.level, "success": self.success}.items():
            found |= {name: np.where(there, value, 0).astype(value.dtype), f"_{name}": there.copy()}
        return found
