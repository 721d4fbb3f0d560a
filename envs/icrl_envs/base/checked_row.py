"""Rows whose results are those that Gymnasium asks for, and whose final observations outlast a reset."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np

from icrl_envs.base.checks import short


class CheckedRow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Checks what an environment returns, and copies what a step returns.

    Gymnasium's vector environments write results into arrays: what does not fit there fails in NumPy's words, or is
    changed without any, as "False" to True. They reset a row before they read the final observation and info, and
    environments may write the next ones into the same objects.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        result: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            self._refuse("reset", "", result, "a tuple (obs, info)")
        obs, info = result
        self._check("reset", obs, info)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._check("step", obs, info)
        number = _array(reward)
        if number is None or number.shape != ():
            self._refuse("step", "reward ", reward, "one number, such as float(reward)")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            value = _array(flag)
            if value is None or value.shape != () or value.dtype != bool:
                self._refuse("step", f"{name} ", flag, f"True or False, such as bool({name})")
        return copy.deepcopy(obs), reward, terminated, truncated, dict(info)

    def _check(self, method: str, obs: Any, info: Any) -> None:
        """Refuse (ValueError) what is no observation or info; who records or sees observations checks their range."""
        shape, dtype = self.observation_space.shape, self.observation_space.dtype
        if shape is not None and dtype is not None:  # None: a space of other things than arrays
            array = _array(obs)
            if array is None or array.shape != shape or not _fits(array, dtype):
                self._refuse(method, "obs ", obs, f"{dtype} of shape {shape}, as its observation_space says")
        if not isinstance(info, Mapping):
            self._refuse(method, "info ", info, "a dict")

    def _refuse(self, method: str, name: str, value: Any, allowed: str) -> NoReturn:
        shown = short(value)
        if isinstance(value, np.ndarray):
            shown = f"{short(value.tolist())} ({value.dtype} of shape {value.shape})"
        raise ValueError(f"{type(self.unwrapped).__name__}.{method}() returned {name}{shown}, expected {allowed}.")


def _array(value: Any) -> np.ndarray | None:
    """Array of numbers, which flags are too; None for a value that is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # ragged, or a tensor with a graph
        return None
    return array if array.dtype.kind in "biuf" else None


def _fits(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether NumPy casts an array to `dtype` when rows are joined, and no integer changes."""
    if array.dtype == dtype:
        return True
    same = dtype.kind == "f" or bool((array.astype(dtype) == array).all())
    return same and np.can_cast(array.dtype, dtype, "same_kind")
