"""Procgen's games in C++: rows of one game, each on a level of its own. Axis letter: B rows.

A vector environment of Procgen draws the levels of all its rows from one range, and puts the next episode's first frame
in place of the last one of an episode. Here the start of a level is a state, taken once from an environment of that
level alone, and put into a row whenever an episode of the level begins. So rows of one vector environment are on any
levels, and can be reset one by one. The time limit in the state is raised beyond reach: a time limit outside can then
tell a true end from running out of time, and has the frame in which time ran out.
"""

from __future__ import annotations

import io
import struct
from contextlib import redirect_stderr
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

NEVER = 2**31 - 1  # steps
FORMAT = 0  # version of the states that `_unlimited` reads


@cache
def package() -> ModuleType:
    """Import Procgen; ImportError with the pip command if it is missing."""
    try:
        with redirect_stderr(io.StringIO()):  # the old gym, which it imports, prints that it is old
            return import_module("procgen")
    except ModuleNotFoundError as error:
        if error.name != "procgen":  # installed, but one of its own imports fails
            raise
    raise ImportError('procgen is not installed: pip install "icrl-agents[procgen]", which needs numpy below 2')


class Outcome(NamedTuple):
    """Result of one step of all rows."""

    obs: np.ndarray  # (B, 64, 64, 3) uint8; of an ended episode the frame before its last step
    reward: np.ndarray  # (B,) float64
    ended: np.ndarray  # (B,) bool
    complete: np.ndarray  # (B,) bool: it ended because the level is done


class Simulator:
    """B rows of a game; `place` begins episodes, `step` steps all rows.

    Args:
        game: name in `GAMES`.
        rows: B.
        mode: Procgen's distribution mode.
        threads: threads that step rows; 0: the caller's.
        frames: whether rows are also drawn in Procgen's large size.
    """

    def __init__(self, game: str, rows: int, mode: str, threads: int = 0, frames: bool = False):
        self._game, self._mode = game, mode
        self._env = _make(game, rows, mode, 0, threads, frames)
        self._large: list[np.ndarray] = []  # (512, 512, 3) uint8 of each row
        self._draws = frames
        self.obs = self._observe()[1]

    def place(self, levels: dict[int, int]) -> np.ndarray:
        """Begin an episode in some rows, each on a level; returns all observations (B, 64, 64, 3)."""
        for row, level in levels.items():
            state = start_of(self._game, self._mode, level)
            self._env.call_c_func("set_state", row, state, len(state))
        shown = self._observe()[1]
        rows = list(levels)
        self.obs[rows] = shown[rows]
        if self._draws:
            self._draw(rows)
        return self.obs.copy()

    def step(self, action: np.ndarray) -> Outcome:
        """Apply actions (B,)."""
        self._env.act(action)
        reward, shown, ended = self._observe()
        complete = np.zeros(len(action), bool)
        if ended.any():  # Procgen shows the next episode already
            infos = self._env.get_info()
            complete[ended] = [bool(infos[row]["prev_level_complete"]) for row in np.flatnonzero(ended)]
            shown[ended] = self.obs[ended]
        self.obs = shown
        if self._draws:
            self._draw(np.flatnonzero(~ended).tolist())
        return Outcome(shown.copy(), reward, ended, complete)

    def frame(self, row: int) -> np.ndarray:
        """Return a row's frame (512, 512, 3) uint8."""
        return self._large[row].copy()

    def close(self) -> None:
        """Release the games."""
        self._env.close()

    def _observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reward, obs, first = self._env.observe()
        return reward.astype(np.float64), np.array(obs["rgb"]), np.array(first, bool)

    def _draw(self, rows: list[int]) -> None:
        infos = self._env.get_info()
        self._large = self._large or [np.array(info["rgb"]) for info in infos]
        for row in rows:
            self._large[row] = np.array(infos[row]["rgb"])


@lru_cache(maxsize=1024)  # 20 to 40 kB each; one takes a millisecond to make
def start_of(game: str, mode: str, level: int) -> bytes:
    """Return the state in which episodes of a level begin, without Procgen's time limit."""
    env = _make(game, 1, mode, level, 0, False)
    env.observe()
    state = env.get_state()[0]
    env.close()
    return _unlimited(state, level)


def _make(game: str, rows: int, mode: str, level: int, threads: int, frames: bool) -> Any:
    return package().ProcgenGym3Env(
        num=rows,
        env_name=game,
        num_levels=1,
        start_level=level,
        distribution_mode=mode,
        rand_seed=0,
        num_threads=threads,
        render_mode="rgb_array" if frames else None,
    )


def _unlimited(state: bytes, level: int) -> bytes:
    """Return the state with a time limit that is never reached.

    Procgen writes a state as integers, reals and texts of 4 bytes, or of 4 for the length and the text itself: version
    and name of the game, 12 options, 5 integers of the level range, two random generators, reward, whether the episode
    is over and complete, the action, the time limit and the level.
    """
    at = 0

    def integer() -> int:
        nonlocal at
        at += 4
        return int(struct.unpack_from("<i", state, at - 4)[0])

    def text() -> None:
        nonlocal at
        length = integer()
        at += length

    version = integer()
    text()
    at += 4 * (12 + 5)
    for _ in range(2):
        integer()
        text()
    at += 4 * 4
    limit_at, limit, found = at, integer(), integer()
    if version != FORMAT or found != level or not 0 < limit < NEVER:
        raise RuntimeError(
            f"a state of version {version} says level {found}, not {level}: this Procgen is not the one known here, "
            "install procgen2 0.10.7"
        )
    return state[:limit_at] + struct.pack("<i", NEVER) + state[limit_at + 4 :]
