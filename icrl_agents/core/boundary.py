"""Boundary: episode ends in all autoreset modes. Axis letter: B rows (environments)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Wrapper
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import Autoreset

from icrl_agents.core.arrays import stored, to_array
from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn


class Boundary:
    """Tracks episode ends, so that `env.step` results of all autoreset modes give the same record.

    SAME_STEP: `obs` of an ended row belongs to the next episode; the final observation is in `info["final_obs"]`.
    NEXT_STEP: the step after the end is a dummy (action ignored, reward 0) and is not active.
    DISABLED, and a single environment: `obs` is the final observation and the caller resets.

    Where the true transition cannot be determined, a call raises and leaves the state unchanged.

    Args:
        num_envs: B.
        mode: `metadata["autoreset_mode"]` of the vector env; None for a single environment or an unknown mode; then
            `info["final_obs"]` identifies SAME_STEP.
        single: the env is a single environment, with unbatched observations and infos.
        known: the env was inspected, so a single environment without a mode is known not to reset itself.
    """

    def __init__(self, num_envs: int, mode: AutoresetMode | str | None, *, single: bool = False, known: bool = False):
        self.mode = None if mode is None else AutoresetMode(mode)
        self.single, self.known = single, known
        self.ended = np.zeros(num_envs, bool)  # (B,) the last active step of the row ended an episode
        self.waiting = self._none = np.zeros(num_envs, bool)  # (B,) waiting: ended, unknown whether reset
        self.final = np.zeros((num_envs, 0))  # (B, ...) observations of the latest step that ended an episode
        self.reuses = False  # the env returns the same array object at every step
        self._shown: list[Any] = [None] * num_envs  # latest observation as the env returned it, compared by identity
        # row -> final observation of the latest step and its value, if that of the next episode is the same
        self._doubtful: dict[int, tuple[Any, np.ndarray]] = {}

    @property
    def resetting(self) -> np.ndarray:
        """(B,) bool: rows whose next step is a dummy that only resets them."""
        return self.ended if self.mode == AutoresetMode.NEXT_STEP else self._none

    def forget(self, rows: np.ndarray) -> None:
        """Clear the state of `rows`, which the caller has reset."""
        self.ended, self.waiting = self.ended.copy(), self.waiting.copy()
        self.ended[rows] = self.waiting[rows] = False

    def select(self, rows: np.ndarray) -> Boundary:
        """Independent copy of `rows`, integers."""
        part = self.draft()
        part.ended, part.waiting, part.final = self.ended[rows], self.waiting[rows], self.final[rows]
        part._none, part._shown = self._none[rows], [self._shown[row] for row in rows]
        part._doubtful = {i: self._doubtful[row] for i, row in enumerate(rows.tolist()) if row in self._doubtful}
        return part

    def assign(self, rows: np.ndarray, part: Boundary) -> None:
        """Overwrite `rows`, integers, with those of `part`."""
        self.ended, self.waiting, self._shown = self.ended.copy(), self.waiting.copy(), self._shown.copy()
        self.ended[rows], self.waiting[rows], self.reuses = part.ended, part.waiting, part.reuses
        fits = self.final.shape[1:] == part.final.shape[1:]
        self.final = self.final.copy() if fits else np.zeros((len(self.ended), *part.final.shape[1:]), part.final.dtype)
        self.final[rows] = part.final
        for row, shown in zip(rows, part._shown, strict=True):
            self._shown[row] = shown
        theirs = {int(rows[i]): kept for i, kept in part._doubtful.items()}
        self._doubtful = {row: kept for row, kept in self._doubtful.items() if row not in rows} | theirs

    def draft(self) -> Boundary:
        """Copy that can change without changing this one: its arrays are replaced, never written in place."""
        copy = object.__new__(Boundary)
        vars(copy).update(vars(self))
        return copy

    def begin(self, shown: Any, obs: np.ndarray) -> None:
        """Detect resets by the caller: compare the observations before a step with those after the previous step.

        An ended row with another observation was reset by the caller, also in a NEXT_STEP env, whose next step is then
        active. Callers that report every reset with `forget` need not call this.

        Args:
            shown: observations as the env returned them, compared by identity.
            obs: the same as an array (B, ...), compared by value.

        Raises:
            ValueError: an ended row was not reset, and it is unknown whether the env resets it. For a single env this
                is a warning.
        """
        before, self._shown = self._shown, [shown] * len(obs)
        if not self.resetting.any() and not self.waiting.any():
            return
        same = (obs == self.final).reshape(len(obs), -1).all(1)
        if self.mode == AutoresetMode.NEXT_STEP:
            self.ended = self.ended & same
            return
        # a new object: a reset, even if its values are equal
        again = not isinstance(shown, int | float) and np.array([shown is known for known in before])
        self.waiting = self.waiting & same & again
        if not self.single:
            self.require_reset()
        elif self.waiting.any() and not self.reuses:
            or_else = "" if self.known else "; an env that resets itself is remembered right with agent.reset(env)"
            warn(f"obs is the array that ended the episode: call env.reset() before a new one{or_else}")

    def require_reset(self) -> None:
        """Refuse (ValueError) a step where it is unknown whether the env resets an ended row."""
        if self.waiting.any():
            raise ValueError(
                f"row {int(self.waiting.argmax())} ended its episode and was not reset, and whether the env does that "
                "is not known: call agent.reset(env) with an env that has metadata['autoreset_mode'], or reset the row"
            )

    def read(
        self, obs: Any, terminated: Any, truncated: Any, info: Any, shown: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the result of `env.step` and update the state.

        Args:
            obs: observations (B, ...).
            terminated, truncated: episode ends (B,) bool.
            info: dict of `env.step`, a list with one dict per row, or None if unknown.
            shown: the observations as the env returned them, where `obs` is another object.

        Returns:
            `next_obs` (B, ...) with final observations in place.
            `active` (B,) bool, False at dummy steps.

        Raises:
            ValueError: the final observation of an ended row is missing, malformed or ambiguous, or that of the step
                before was not final.
        """
        shown = obs if shown is None else shown
        obs, over = to_array(obs, "obs"), np.asarray(terminated) | np.asarray(truncated)
        active, rows = ~self.resetting, np.flatnonzero(over)
        if not active[rows].all():
            raise ValueError(
                f"row {rows[~active[rows]][0]} ended in the step that should only reset it: act() on what env.reset() "
                "returned, where rows are reset by hand"
            )
        self._refuse_overwritten(obs)
        finals = [_final_obs(info, int(row), self.single) for row in rows] if self.mode in MAY_HOLD_FINALS else []
        same_step = self.mode == AutoresetMode.SAME_STEP or any(final is not None for final in finals)
        if len(rows) and info is None and self.mode is None and not self.single:
            raise ValueError(f"row {rows[0]} ended its episode, and nothing tells its final observation: {PASS_INFO}")
        self._doubtful = {}
        if same_step and len(rows):
            begun, obs = obs, _finished(obs, rows, finals)
            same = (obs[rows] == begun[rows]).reshape(len(rows), -1).all(1)
            self._doubtful = {int(rows[i]): (finals[i], begun[rows[i]].copy()) for i in np.flatnonzero(same)}
        self.reuses, self._shown = self.reuses or shown is self._shown[0], [shown] * len(over)
        self.waiting = self._none if same_step or self.mode is not None else over
        self.final = obs.copy() if len(rows) else self.final
        self.ended = over
        return obs, active

    def _refuse_overwritten(self, obs: np.ndarray) -> None:
        """Refuse (ValueError) an env that writes every observation into the array that it gave as the final one.

        Gymnasium's SAME_STEP rows keep a reference to that and reset. It shows in the next step: the array, which then
        had what the reset returned, now has the observations `obs` (B, ...) of that step.
        """
        for row, (final, value) in self._doubtful.items():
            now = to_array(final, "info['final_obs']").astype(obs.dtype)
            if not np.array_equal(now, value) and np.array_equal(now, obs[row]):
                raise ValueError(
                    f"info['final_obs'] of row {row} was overwritten by the reset: this environment returns one "
                    "array at every step, so let it return copies, or use autoreset_mode NEXT_STEP"
                )


MAY_HOLD_FINALS = (None, AutoresetMode.SAME_STEP)  # modes in which `info` may hold final observations
PASS_INFO = "pass the info that env.step returned"


def _finished(obs: np.ndarray, rows: np.ndarray, finals: list[Any]) -> np.ndarray:
    """Copy of `obs` (B, ...) with the final observations of `rows` in place."""
    found = obs.copy()
    for row, final in zip(rows, finals, strict=True):
        if final is None:
            raise ValueError(f"row {row} ended its episode, but info['final_obs'] has nothing for it: {PASS_INFO}")
        value = to_array(final, "info['final_obs']")
        if value.shape != obs.shape[1:]:
            raise ValueError(
                f"info['final_obs'] of row {row} has shape {value.shape}, expected {obs.shape[1:]}: {PASS_INFO}"
            )
        found[row] = stored(value, obs.dtype, "info['final_obs']")
    return found


def _final_obs(info: Any, row: int, single: bool) -> Any:
    """Final observation of a row from `info`, or None."""
    if isinstance(info, list | tuple) and not single and all(isinstance(one, Mapping) for one in info):
        return info[row].get("final_obs") if row < len(info) else None  # format of DictInfoToList
    if not isinstance(info, Mapping | None):
        raise ValueError(f"info is a {type(info).__name__}, expected the dict that env.step returned")
    finals = (info or {}).get("final_obs")
    if finals is None or single:
        return finals
    try:
        told = (info or {}).get("_final_obs")
        return finals[row] if told is None or told[row] else None
    except (IndexError, KeyError, TypeError):
        raise ValueError(
            f"info['final_obs'] is {printable(finals, 60)}, expected one for row {row}: {PASS_INFO}"
        ) from None


def autoreset_mode(env: Any) -> AutoresetMode | None:
    """Autoreset mode of an env; None for a single environment that the caller resets, or an undeclared mode.

    A single environment in Gymnasium's `Autoreset` wrapper behaves like NEXT_STEP.
    """
    if isinstance(env, VectorEnv):
        return None if (mode := env.metadata.get("autoreset_mode")) is None else AutoresetMode(mode)
    while isinstance(env, Wrapper):
        if isinstance(env, Autoreset):
            return AutoresetMode.NEXT_STEP
        env = env.env
    return None
