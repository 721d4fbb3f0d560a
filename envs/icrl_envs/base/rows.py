"""Rows: tasks and states of a batch of environments, shared by `ArrayEnv` and `ArrayVectorEnv`.

Axis letters: B rows, A actions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from icrl_envs.base.actions import all_legal
from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import as_array, reject_unknown, short
from icrl_envs.base.rules import Rules


class Rows:
    """B rows of a family: their tasks, constant over episodes, and their states.

    Attributes:
        started: (B,) bool, rows that have been reset.
        task: (B,) int64 task ids, -1 before the first reset.
        state: (B, ...) states, valid in started rows.
    """

    def __init__(self, rules: Rules, task: dict[str, Any], num: int):
        self.rules, self.num = rules, num
        self.fixed = bool(task)  # make() arguments fix the task
        self.started = np.zeros(num, bool)
        self.task = np.full(num, rules.task_id(**task) if task else -1, np.int64)
        self.state = np.empty(0)  # allocated by the first reset, which knows shape and dtype

    def begin(self, rows: np.ndarray, options: Mapping[str, Any], seeded: bool, rng: Callable[[int], Any]) -> None:
        """Start an episode in `rows` (indices); `rng(row)` is the generator that samples a row's task.

        A new task is sampled at the first reset and at a `seeded` one, unless make() or `options` fix the task.
        """
        fresh = seeded or not self.started[rows[0]]  # a new lifetime, not the next episode of one
        draws = fresh and not self.fixed and "task" not in options
        if "task" in options:
            self.task[rows] = read_tasks(options["task"], self.rules, self.num)[rows]
        position = np.zeros(len(rows), np.int64)  # noise positions; 0 in deterministic families
        if draws or (fresh and self.rules.stochastic):
            generators = [rng(int(row)) for row in rows]
            if draws:
                # tasks of the extra sets are never sampled
                self.task[rows] = [generator.integers(self.rules.num_tasks) for generator in generators]
            if self.rules.stochastic:
                position[:] = [generator.integers(2**62) for generator in generators]
        if fresh:
            self._put(rows, self.rules.begin(position, self.task[rows]))
        else:
            self._put(rows, self.rules.resume(self.state[rows], self.task[rows]))

    def _put(self, rows: np.ndarray, state: np.ndarray) -> None:
        if not self.started.any():
            self.state = np.zeros((self.num, *state.shape[1:]), state.dtype)
        self.state[rows] = state
        self.started[rows] = True

    def resume(self, where: np.ndarray) -> None:
        """Start the next episode of the same task in rows `where` (B,) bool."""
        self.state[where] = self.rules.resume(self.state[where], self.task[where])

    def step(self, action: np.ndarray, frozen: np.ndarray | None = None) -> np.ndarray:
        """Step all rows and return the rewards (B,); rows `frozen` (B,) bool keep their state."""
        state, reward = self.rules.step(self.state, action, self.task)
        if frozen is not None and frozen.any():
            state[frozen] = self.state[frozen]  # rows between two episodes (NEXT_STEP)
        self.state = state
        return reward

    def require_reset(self, method: str) -> None:
        """Raise ResetNeeded before the first `reset`."""
        if not self.started.all():
            raise ResetNeeded(f"{method}() was called before reset(): call reset() first.")

    def expert_action(self, tasks: Any = None) -> np.ndarray:
        """Return optimal actions (B, ...) given the rows' own tasks, or other `tasks`, as `read_tasks` reads them.

        Raises:
            UndeclaredError: the family declares no expert.
            ValueError: unknown tasks.
        """
        if not self.rules.offers(Capability.EXPERT):
            self.rules.undeclared(Capability.EXPERT)
        self.require_reset("expert_action")
        task = self.task if tasks is None else read_tasks(tasks, self.rules, self.num, "tasks")
        return self.rules.expert_action(self.state, task)

    def action_mask(self) -> np.ndarray:
        """Return (B, A) int8, 1 for the legal actions of a row's task."""
        if not self.rules.offers(Capability.ACTION_MASKS):
            return all_legal(self.rules.action_space, self.num)
        if not self.fixed:
            self.require_reset("action_mask")
        return self.rules.action_mask(self.task)

    def render(self, mode: str | None) -> tuple[Any, ...] | None:
        """Draw every row in a render mode; None without one."""
        self.require_reset("render")
        if mode is None:
            gymnasium.logger.warn("render() does nothing without a mode: make the env with render_mode='ansi'.")
            return None
        draw = {"ansi": self.rules.text, "rgb_array": self.rules.frame}[mode]
        states = self.state.tolist() if self.state.ndim == 1 else self.state.copy()
        return tuple(draw(state, int(task)) for state, task in zip(states, self.task, strict=True))

    def facts(self) -> dict[str, np.ndarray]:
        """Return the entries of infos, each (B, ...)."""
        return {"task": self.task.copy(), **self.rules.facts(self.state, self.task)}

    def info(self, where: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return `facts` in Gymnasium's batched form, with masks; rows outside `where` (B,) bool are absent."""
        info = self.facts()
        for name, value in list(info.items()):
            if where is not None:
                value[~where] = 0  # Gymnasium's placeholder for absent rows
            info[f"_{name}"] = np.ones(self.num, bool) if where is None else where.copy()
        return info


def build_rules(rules_class: type[Rules], kwargs: dict[str, Any]) -> tuple[Rules, dict[str, Any]]:
    """Return the rules built from make() arguments, and the task that these fix ({} if none)."""
    options = tuple(inspect.signature(rules_class).parameters)
    reject_unknown(kwargs, rules_class.task_names + options, "argument")
    task = {name: kwargs[name] for name in rules_class.task_names if kwargs.get(name) is not None}
    return rules_class(**{name: kwargs[name] for name in options if name in kwargs}), task


def read_tasks(task: Any, rules: Rules, num: int, name: str = "options['task']") -> np.ndarray:
    """Return task ids (num,) from the argument `name`: one dict or id for all of `num` rows, or one per row.

    Raises:
        ValueError: wrong type or shape, or an unknown task.
    """
    if isinstance(task, Mapping):
        return np.full(num, rules.task_id(**task), np.int64)
    if isinstance(task, Sequence) and len(task) == num and all(isinstance(item, Mapping) for item in task):
        return np.array([rules.task_id(**item) for item in task], np.int64)
    ids = as_array(task)
    if ids.dtype.kind not in "iu" or ids.shape not in ((), (num,)):
        raise ValueError(
            f"{name}={short(task)}: give a dict such as {short(rules.task_kwargs(0))}, "
            f"or {num} of them (one a row), or an integer array of {num} task ids."
        )
    if ids.min() < 0 or ids.max() >= rules.known_tasks:
        raise ValueError(f"{name}={short(task)}: task ids go from 0 to {rules.known_tasks - 1}.")
    return np.broadcast_to(ids, num).astype(np.int64)
