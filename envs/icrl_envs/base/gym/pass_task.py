"""How a task reaches an environment after it is made: by `reset(options=...)`, as attributes, or by a function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium

from icrl_envs.base.checks import short

MAKE, OPTIONS, ATTRIBUTES = "make", "options", "attributes"
WAYS = (MAKE, OPTIONS, ATTRIBUTES)

SetTask = Callable[[Any, dict[str, Any]], None]  # called with the unwrapped environment and the task


def set_attributes(env: Any, task: dict[str, Any]) -> None:
    """Set attributes of an environment; ValueError for a name that it does not have."""
    for name, value in task.items():
        if not hasattr(env, name):
            raise ValueError(f"{type(env).__name__} has no attribute {name}: name one of its own, or pass a function.")
        setattr(env, name, value)


class PassTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps an environment on one task: hands the task over before or at every reset, those of autoresets included.

    Args:
        env: environment to wrap.
        task: values by name.
        way: "options": `reset(options={**task})`, beside the caller's own options of other names; "attributes":
            attributes of the unwrapped environment; or a function `set_task(env, task)` of the unwrapped environment.
    """

    def __init__(self, env: gymnasium.Env, task: dict[str, Any], way: str | SetTask):
        super().__init__(env)
        self._task, self._in_options = task, way == OPTIONS
        self._set: SetTask | None = set_attributes if way == ATTRIBUTES else way if callable(way) else None
        self._hand_over()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset to the first step of an episode of the task."""
        self._hand_over()
        if self._in_options:
            options = {**(options or {}), **copy.deepcopy(self._task)}
        return self.env.reset(seed=seed, options=options)

    def _hand_over(self) -> None:
        if self._set is not None:
            self._set(self.unwrapped, copy.deepcopy(self._task))  # it may change lists in it while it plays


def check_way(way: Any) -> str | SetTask:
    """Return `way`; ValueError unless it is one of `WAYS` or a function."""
    if callable(way) or way in WAYS:
        return way
    raise ValueError(f"pass_task={short(way)}: allowed are {', '.join(WAYS)}, and a function set_task(env, task).")


def way_name(way: str | SetTask) -> str:
    """Return the way as text, of a function its module and name."""
    return way if isinstance(way, str) else f"{getattr(way, '__module__', '')}:{getattr(way, '__qualname__', way)}"
