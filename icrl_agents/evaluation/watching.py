"""What an evaluation records step by step: rewards, and the success of episodes. Axis letters: B rows, E episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icrl_agents.core.families import Capability
from icrl_agents.core.rollout import Moment

SUCCESS = Capability.SUCCESS.value  # key of infos
NUMBERS = (bool, int, float, np.bool_, np.number)
UNKNOWN = -1  # value in rows whose info holds no success


class Watch:
    """Pace and success of lifetimes; `rollout` calls it at each step."""

    def __init__(self, rows: int, episodes: int) -> None:
        self.pace, self.success = Pace(), Successes(rows, episodes)

    def __call__(self, moment: Moment) -> None:
        self.pace.add(moment)
        self.success.add(moment)


class Pace:
    """Sum of the rewards of each step over all rows; `known` if all lifetimes have the same length."""

    def __init__(self) -> None:
        self.total: list[float] = []  # sum of rewards, one entry per step
        self.ends: list[bool] = []  # whether an episode of some row ended, one entry per step

    def add(self, moment: Moment) -> None:
        self.total.append(float(moment.reward.sum()))
        self.ends.append(bool(moment.ended.any()))

    @property
    def known(self) -> bool:
        return not any(self.ends[:-1])


class Successes:
    """Which episodes have a step of success.

    Infos are read whether or not the family declares `Capability.SUCCESS`, since a Gymnasium environment of a user has
    no place to declare it.
    """

    def __init__(self, rows: int, episodes: int) -> None:
        self.rows, self.episodes = np.arange(rows), episodes
        self.known = False  # whether some info held a success
        self._any = np.zeros((rows, episodes + 1), bool)  # the last column absorbs surplus episodes of faster rows

    def add(self, moment: Moment) -> None:
        success = read_success(moment.info, moment.ended)
        self.known |= bool((success != UNKNOWN).any())
        self._any[self.rows, np.minimum(moment.episode, self.episodes)] |= (success == 1) & moment.active

    @property
    def found(self) -> np.ndarray:
        """(B, E) bool: some step of the episode was a success."""
        return self._any[:, : self.episodes]


def read_success(info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
    """(B,) int64 of one step of a vector environment, in any autoreset mode: 1 success, 0 none, or `UNKNOWN`.

    Where an episode `ended` (B,) and the row was reset in the same step, the info of its last step is in `final_info`.
    """
    final = info.get("final_info")
    if not isinstance(final, Mapping):
        return _read(info, len(ended))
    reset = ended & np.asarray(info.get("_final_info", ended), bool)
    return np.where(reset, _read(final, len(ended)), _read(info, len(ended)))


def _read(info: Mapping[str, Any], rows: int) -> np.ndarray:
    values = np.asarray(info.get(SUCCESS))
    if values.shape != (rows,):
        return np.full(rows, UNKNOWN)
    if values.dtype == object:  # Gymnasium's way with np.bool_, None in rows without
        values = np.array([value if isinstance(value, NUMBERS) else np.nan for value in values], float)
    if values.dtype.kind not in "biuf":
        return np.full(rows, UNKNOWN)
    held = np.asarray(info.get(f"_{SUCCESS}", np.ones(rows)), bool)  # Gymnasium's mask of the rows that have it
    return np.where(held & ~np.isnan(values), values > 0, UNKNOWN)
