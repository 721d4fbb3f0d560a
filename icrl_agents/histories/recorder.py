"""RecordHistory: vector wrapper that records every real step of every row.

Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from icrl_agents.core.arrays import check_finite, stored, to_array
from icrl_agents.core.boundary import Boundary, autoreset_mode
from icrl_agents.core.env_actions import legal_actions
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import value_range
from icrl_agents.core.steps import ACTION_MASK, Steps, stack_steps
from icrl_agents.histories.columns import FIELDS, column_name
from icrl_agents.histories.experts import find_expert


class RecordHistory(VectorWrapper):
    """Records every real step of every row, in any autoreset mode: with final observations, without dummy steps.

    If the environment has `expert_action()`, its value before each step becomes the column `expert_action`; if its
    `action_mask()` excludes an action, the mask becomes a static value of the steps. A `reset` in the middle of an
    episode truncates that episode in the record, too. Call `steps()` before a new lifetime begins.

    Environments that write into an array which they have returned need the autoreset mode NEXT_STEP or DISABLED:
    SAME_STEP rows of Gymnasium reset before they read the final observation. The next step is then refused, except of
    `AsyncVectorEnv`, which does not show it. Rows of families copy it.

    Raises:
        TypeError: `env` is a single environment.
        ValueError: a space is none of arrays of numbers.
    """

    def __init__(self, env: VectorEnv):
        if isinstance(env, gymnasium.Env):
            raise TypeError(f"{env} is a single environment: use gymnasium.make_vec(id, num_envs=1) or SyncVectorEnv")
        super().__init__(env)
        self._observations = _Values(self.single_observation_space, env.num_envs)
        self._actions = _Values(self.single_action_space, env.num_envs)
        self._expert = find_expert(env)
        self._boundary = Boundary(env.num_envs, autoreset_mode(env), known=True)
        self._static: dict[str, np.ndarray] = {}
        self._clear()

    def _clear(self) -> None:
        self._torn = False  # a step was executed but not recorded, so the record has a gap
        self._steps: list[_Recorded] = []
        self._notes: dict[str, list[np.ndarray]] = {}

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all rows, or those of `options["reset_mask"]` (B,) bool."""
        rows = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        obs, info = super().reset(seed=seed, options=options)
        if self._torn and rows.all():
            self._clear()
        self._truncate(rows & ~self._boundary.ended)
        self._boundary.forget(rows)
        self._obs = self._observations.read(obs, "obs")
        mask = legal_actions(self.env)
        self._static = {} if mask is None else {ACTION_MASK: mask}
        return obs, info

    def _truncate(self, rows: np.ndarray) -> None:
        """Mark the latest active step of the rows `rows` (B,) bool as truncated by a reset."""
        for row in np.flatnonzero(rows):
            last = next((step for step in reversed(self._steps) if step.active[row]), None)
            if last is not None:
                last.truncated[row] |= not last.terminated[row]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Call `env.step` and record the result.

        Raises:
            ValueError: actions are outside their space. Or the result is outside the spaces or is not finite, or final
                observations are missing: the step was executed, so the record has a gap and cannot continue. Reset all
                rows to begin a new one.
        """
        self._require_whole()
        self._boundary.require_reset()
        action = self._actions.read(actions, "actions")
        expert = None if self._expert is None else self._expert()
        if expert is not None:
            self._actions.read(expert, "expert_action")
        self._torn = True  # until the result is recorded
        try:
            obs, reward, terminated, truncated, info = super().step(actions)
        except Exception:  # the env refused the step: no gap
            self._torn = False
            raise
        seen = self._observations.read(obs, "obs")
        flags = self._flag(terminated, "terminated"), self._flag(truncated, "truncated")  # (B,) each
        reward32 = stored(self._batched(reward, "reward"), np.float32, "reward")
        next_obs, active = self._boundary.read(seen, *flags, info, shown=obs)
        check_finite(reward32, "reward")
        if next_obs is not seen:  # it has final observations
            self._observations.check(next_obs, "obs")
        if expert is not None:
            self.note(expert_action=expert)
        self._steps.append(_Recorded(self._obs, action, reward32, next_obs, *flags, active))
        self._obs, self._torn = seen, False
        return obs, reward, terminated, truncated, info

    def _require_whole(self) -> None:
        if self._torn:
            raise ValueError(
                "a step could not be recorded, so the record has a gap: reset() all rows to begin a new one"
            )

    def _batched(self, value: Any, what: str) -> np.ndarray:
        """Copy of an array (B,); ValueError for another shape."""
        array = np.array(to_array(value, what))
        if array.shape != (self.num_envs,):
            raise ValueError(f"{what} has shape {array.shape}, expected ({self.num_envs},): check the env")
        return array

    def _flag(self, value: Any, what: str) -> np.ndarray:
        array = self._batched(value, what)
        if array.dtype != bool:
            raise ValueError(f"{what} has dtype {array.dtype}, expected bool: check the env")
        return array

    @property
    def has_expert(self) -> bool:
        """Whether the environment has an expert."""
        return self._expert is not None

    def expert_action(self) -> np.ndarray:
        """Current actions (B, ...) of the environment's expert; ValueError if it has none."""
        if self._expert is None:
            where = self.env.unwrapped
            raise ValueError(f"{where} has no expert_action(): choose another source, or add it to the environment")
        return self._expert()

    def note(self, **columns: Any) -> None:
        """Add one value, or one per row (B, ...), to user-defined columns: exactly once per step, before or after."""
        for name, value in columns.items():
            value = np.array(np.broadcast_to(value, self.num_envs) if np.ndim(value) == 0 else value)
            self._notes.setdefault(column_name(name), []).append(value)

    def steps(self, episodes: int | None = None) -> Steps:
        """Return the recorded steps (B, T), left-packed, and clear the record.

        Args:
            episodes: number of first episodes to keep in each row, as fast rows may have more; None: all.

        Raises:
            ValueError: nothing was recorded, the record has a gap, or a user-defined column lacks a value for a step.
        """
        self._require_whole()
        count = len(self._steps)
        if uneven := [name for name, values in self._notes.items() if len(values) != count]:
            raise ValueError(f"column {uneven[0]!r} has not one value for each of {count} steps: note it every step")
        if not count:
            raise ValueError("0 steps were recorded: call reset() and step() first")
        recorded = _Recorded(*(np.stack(values, 1) for values in zip(*self._steps, strict=True)))  # (B, T, ...) each
        noted = {name: np.stack(values, 1) for name, values in self._notes.items()}
        self._clear()
        active, columns = recorded.active, {**recorded._asdict(), **noted}
        del columns["active"]
        if episodes is not None:
            ended = active & (columns["terminated"] | columns["truncated"])  # (B, T)
            active &= np.cumsum(ended, 1) - ended < episodes  # (B, T) episode number of each step
        if not active.all():
            active, columns = _pack(active, columns)
        fields = {name: columns.pop(name) for name in FIELDS}
        return stack_steps(**fields, mask=active, extras=columns, static=self._static)


class _Values:
    """What a training can read of a space, for a batch of B rows."""

    def __init__(self, space: gymnasium.Space, rows: int):
        self.space, self.shape = space, (rows, *(space.shape or ()))
        self.low, self.high = value_range(space)
        # between which all entries lie in the space; a space may have no entries
        self.lowest: Any = self.low.max() if self.low.size else 0
        self.highest: Any = self.high.min() if self.high.size else 0

    def read(self, value: Any, what: str) -> np.ndarray:
        """Copy (B, *shape) in the dtype of the space; ValueError for another shape, type or range."""
        array = to_array(value, what)
        if array.shape != self.shape:
            raise ValueError(f"{what} has shape {array.shape}, expected {self.shape}: check the env")
        array = np.array(stored(array, self.space.dtype, what))
        self.check(array, what)
        return array

    def check(self, array: np.ndarray, what: str) -> None:
        """Refuse (ValueError) values that are not finite or outside the space."""
        check_finite(array, what)
        if not array.size or (self.lowest <= array.min() and array.max() <= self.highest):  # a tenth of the time
            return
        outside = (array < self.low) | (array > self.high)
        if outside.any():
            row = np.argwhere(outside)[0, 0]
            held = f"{what} of row {row} is {printable(array[row])}, outside {printable(self.space)}"
            raise ValueError(f"{held}: declare the space that it has, or clip it")


class _Recorded(NamedTuple):
    """One step of all rows, arrays (B, ...); or a whole record, arrays (B, T, ...)."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray  # the final observation at the end of an episode
    terminated: np.ndarray
    truncated: np.ndarray
    active: np.ndarray  # bool: False at dummy steps


def _pack(active: np.ndarray, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Left-pack the real steps of every row and zero the padding."""
    order = np.argsort(~active, axis=1, kind="stable")[:, : active.sum(1).max()]  # (B, T')
    rows = np.arange(len(active))[:, None]
    active, columns = active[rows, order], {name: value[rows, order] for name, value in columns.items()}
    for value in columns.values():
        value[~active] = 0
    return active, columns
