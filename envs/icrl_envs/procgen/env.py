"""Gymnasium environment of a game of Procgen."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from icrl_envs.base.actions import check_action, own_space
from icrl_envs.base.checks import check_choice, check_dict
from icrl_envs.procgen.games import ACTION_SPACE, GAMES, MODES, OBSERVATION_BOX
from icrl_envs.procgen.levels import check_levels, read_tasks
from icrl_envs.procgen.rows import ProcgenRows
from icrl_envs.procgen.simulator import Simulator

Info = dict[str, Any]
METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}


class ProcgenEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One of Procgen's 16 games.

    ## Description
    A game whose levels are generated from their number: landscape, opponents and their moves. The task is the level,
    the same in all episodes, which all begin alike; with the same actions they go on alike.

    ## Action space
    `Discrete(15)`: 0 to 8 move (left-down, left, left-up, down, stay, up, right-down, right, right-up), 9 to 14 are the
    keys D, A, W, S, Q and E, which few games use.

    ## Observation space
    `Box(0, 255, (64, 64, 3), uint8)`: the game's picture.

    ## Reward
    The game's own, not normalized.

    ## Episode end
    `terminated` when the level is done or lost; after Procgen's time limit `truncated`. Procgen does not show the
    picture that a terminating step leads to: the picture before that step stands for it. A truncated episode ends
    with its true last picture.

    ## Arguments
    `level` fixes the task; without it the first `reset` samples one of the 300 of the split. `num_levels` and
    `start_level` instead make a task of many levels, of which each episode draws one: `num_levels` from `start_level`
    on, or all with `num_levels=0`. `distribution_mode`: "easy" or "hard".

    ## Info
    `level_seed`: number of the level. `success`: the episode has just ended with the level done.

    ## Version
    v0: procgen2 0.10.7, the code of OpenAI's Procgen (Cobbe et al. 2020, arXiv 1912.01588).
    """

    metadata = METADATA

    def __init__(
        self,
        game: str,
        level: int | None = None,
        num_levels: int | None = None,
        start_level: int = 0,
        distribution_mode: str = "easy",
        render_mode: str | None = None,
    ):
        check_choice(game, "game", tuple(GAMES))
        check_choice(distribution_mode, "distribution_mode", MODES)
        self.render_mode = check_choice(render_mode, "render_mode", [None, *METADATA["render_modes"]])
        fixed = check_levels(level, num_levels, start_level)
        self.observation_space, self.action_space = own_space(OBSERVATION_BOX), own_space(ACTION_SPACE)
        self._rows = ProcgenRows(Simulator(game, 1, distribution_mode, frames=render_mode is not None), 1, fixed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        """Start an episode of the same task, or of a new one with a seed or `options={"task": {"level": ...}}`."""
        given = check_dict(options, "options", ("task",), "option")
        super().reset(seed=seed)
        task = read_tasks(given["task"], 1)[0] if "task" in given else None
        self._rows.choose(0, task, seed is not None, self.np_random)
        self._rows.begin([0])
        return self._rows.obs[0], self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        """Apply one action; ValueError for one outside the space."""
        self._rows.require_reset("step")
        reward, ended = self._rows.step(check_action(action, ACTION_SPACE, ())[None])
        return self._rows.obs[0], float(reward[0]), bool(ended[0]), False, self._info()

    def render(self) -> np.ndarray | None:
        """Return a frame (512, 512, 3) uint8, or None without a render mode."""
        if self.render_mode is None:
            return None
        self._rows.require_reset("render")
        return self._rows.simulator.frame(0)

    def close(self) -> None:
        """Release the game."""
        self._rows.simulator.close()

    def _info(self) -> Info:
        return {"level_seed": int(self._rows.level[0]), "success": bool(self._rows.success[0])}
