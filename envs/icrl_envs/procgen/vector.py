"""Gymnasium vector environment of a game of Procgen: all rows in one vector environment in C++. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from icrl_envs.base.actions import check_action, own_space
from icrl_envs.base.checks import check_choice, check_dict, check_int, short
from icrl_envs.base.resets import read_reset_mask, read_seeds
from icrl_envs.procgen.env import METADATA, Info
from icrl_envs.procgen.games import ACTION_SPACE, GAMES, MODES, OBSERVATION_BOX
from icrl_envs.procgen.levels import check_levels, read_tasks
from icrl_envs.procgen.rows import ProcgenRows
from icrl_envs.procgen.simulator import Simulator


class ProcgenVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B rows of a game, with the same results as Gymnasium's `SyncVectorEnv` of `ProcgenEnv`s.

    `reset(options=...)` accepts "task" (a dict for all rows, a sequence of one dict per row, or an int array of task
    ids) and "reset_mask" (B,) bool. Row i draws from the generator of `seed + i`.

    Args:
        num_envs: B.
        max_episode_steps: time limit; default Procgen's own of the game, -1 for none.
        autoreset_mode: Gymnasium's mode or its name.
        num_threads: threads that step rows; 0: the caller's, as fast for few rows.
        game, level, num_levels, start_level, distribution_mode, render_mode: as in `ProcgenEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        *,
        game: str,
        level: int | None = None,
        num_levels: int | None = None,
        start_level: int = 0,
        distribution_mode: str = "easy",
        render_mode: str | None = None,
        num_threads: int = 0,
    ):
        own = GAMES[check_choice(game, "game", tuple(GAMES))].horizon
        check_choice(distribution_mode, "distribution_mode", MODES)
        limit = own if max_episode_steps is None else max_episode_steps
        self._limit = np.inf if limit == -1 else check_int(limit, "max_episode_steps", 1, 2**31)
        modes = [*AutoresetMode, *(mode.value for mode in AutoresetMode)]
        self._mode = AutoresetMode(check_choice(autoreset_mode, "autoreset_mode", modes))
        self.metadata = {**METADATA, "autoreset_mode": self._mode}
        self.render_mode = check_choice(render_mode, "render_mode", [None, *METADATA["render_modes"]])
        self.num_envs = check_int(num_envs, "num_envs", 1, 2**16)
        threads = check_int(num_threads, "num_threads", 0, 2**10)
        fixed = check_levels(level, num_levels, start_level)
        simulator = Simulator(game, num_envs, distribution_mode, threads, render_mode is not None)
        self._rows = ProcgenRows(simulator, num_envs, fixed)
        self._elapsed = np.zeros(num_envs, np.int64)  # (B,) steps in this episode
        self._over = np.zeros(num_envs, bool)  # (B,) ended rows that are not reset yet
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = own_space(OBSERVATION_BOX), own_space(ACTION_SPACE)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def max_episode_steps(self) -> int | None:
        """Number of steps after which an episode is truncated; None for never."""
        return None if self._limit == np.inf else int(self._limit)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Start an episode in all rows, or in those of `options["reset_mask"]`; returns obs (B, ...) and infos."""
        given = check_dict(options, "options", ("task", "reset_mask"), "option")
        where = read_reset_mask(given, self.num_envs, self._rows.started)
        seeds = read_seeds(seed, self.num_envs)
        super().reset(seed=seeds[0])
        tasks = read_tasks(given["task"], self.num_envs) if "task" in given else [None] * self.num_envs
        for row in np.flatnonzero(where).tolist():
            if seeds[row] is not None:
                self._generators[row] = seeding.np_random(seeds[row])[0]
            self._rows.choose(row, tasks[row], seeds[row] is not None, self._generators[row])
        self._begin(where)
        return self._rows.obs, self._rows.info(None if where.all() else where)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Apply one action per row; ValueError for actions of another shape or outside the space."""
        self._rows.require_reset("step")
        checked = check_action(actions, ACTION_SPACE, (self.num_envs,))
        over = self._over
        if self._mode == AutoresetMode.DISABLED and over.any():
            ended = short(np.flatnonzero(over).tolist())
            raise ResetNeeded(f"the episodes of rows {ended} are over: reset(options={{'reset_mask': ...}}) them.")
        reward, terminated = self._rows.step(checked)
        self._elapsed += 1
        if over.any():  # NEXT_STEP: this step only resets those rows and ignores their actions
            reward[over], terminated[over] = 0.0, False
            self._begin(over)
        truncated = self._elapsed >= self._limit
        over = terminated | truncated
        info = self._finish(over) if self._mode == AutoresetMode.SAME_STEP and over.any() else {}
        self._over = np.zeros(self.num_envs, bool) if info else over  # SAME_STEP has reset them already
        info.update(self._rows.info())
        return self._rows.obs, reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return a frame (512, 512, 3) uint8 of every row, or None without a render mode."""
        if self.render_mode is None:
            return None
        self._rows.require_reset("render")
        return tuple(self._rows.simulator.frame(row) for row in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Release the games."""
        self._rows.simulator.close()

    def _begin(self, where: np.ndarray) -> None:
        self._rows.begin(np.flatnonzero(where).tolist())
        self._elapsed[where], self._over[where] = 0, False

    def _finish(self, ended: np.ndarray) -> Info:
        """Reset the rows `ended` (B,) bool; return their final observations and infos in the format of SAME_STEP."""
        final_obs = np.full(self.num_envs, None, object)  # Gymnasium's format: objects, None in other rows
        last = self._rows.obs[ended]
        final_obs[ended] = np.fromiter(last, object, len(last))
        info = {"final_obs": final_obs, "final_info": self._rows.info(ended)}
        self._begin(ended)
        return {**info, "_final_obs": ended.copy(), "_final_info": ended.copy()}
