"""Experts: where the expert actions of a vector environment come from, the environment or the caller.

Axis letter: B rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from icrl_agents.core.arrays import stored, to_array
from icrl_agents.core.families import Capability, Rules, env_family

EXPERT = "expert"  # name of a given expert in the header of histories


class Expert(ABC):
    """An expert that the caller gives for an environment that has none, or a worse one."""

    name: str  # as histories record it

    def described(self) -> dict[str, Any]:
        """The name, and under "expert.*" what else its actions depend on, as JSON for the header of histories."""
        return {EXPERT: self.name}

    def begin(self, env: VectorEnv, tasks: Sequence[Mapping[str, Any]]) -> None:  # noqa: B027 - optional
        """New lifetimes of the rows of `env`, whose tasks are these make() arguments (B)."""

    @abstractmethod
    def act(self, obs: np.ndarray) -> Any:
        """The expert's actions (B, ...) on observations (B, ...)."""

    @property
    def knows_tasks(self) -> bool:
        """Whether `act_as` is defined."""
        return False

    def act_as(self, obs: np.ndarray, tasks: Sequence[Mapping[str, Any]]) -> Any:
        """The actions (B, ...) of the experts of other tasks, given as make() arguments (B)."""
        raise ValueError(f"the expert {self.name} does not read tasks: give a function of observations and tasks")

    def observe(self, action: np.ndarray, result: tuple[Any, ...]) -> None:  # noqa: B027 - optional
        """See what `env.step(action)` returned; the actions (B, ...) need not be those of the expert."""


class WithExpert(VectorWrapper):
    """A vector environment whose `expert_action()` is that of a given expert.

    Args:
        env: vector environment of B rows.
        expert: the expert, which is asked once before each step at most.
        tasks: make() arguments (B) of the rows' tasks.
    """

    def __init__(self, env: VectorEnv, expert: Expert, tasks: Sequence[Mapping[str, Any]]):
        super().__init__(env)
        self.expert, self.tasks = expert, tasks
        self._advice: np.ndarray | None = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all rows, or those of `options["reset_mask"]` (B,) bool, whose lifetimes go on."""
        self._obs, info = super().reset(seed=seed, options=options)
        self._advice = None
        if "reset_mask" not in (options or {}):
            self.expert.begin(self.env, self.tasks)
        return self._obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Call `env.step`, and show the expert the result."""
        result = super().step(actions)
        self.expert.observe(np.asarray(actions), result)
        self._obs, self._advice = result[0], None
        return result

    def expert_action(self, tasks: np.ndarray | None = None) -> np.ndarray:
        """The expert's actions (B, ...) now, on the rows' own tasks or as if the rows had the `tasks` (B,), ids.

        Raises:
            ValueError: the actions do not fit the action space, or the expert does not read tasks.
        """
        if tasks is not None:
            return self._checked(self.expert.act_as(np.asarray(self._obs), self._describe(tasks)))
        if self._advice is None:
            self._advice = self._checked(self.expert.act(np.asarray(self._obs)))
        return self._advice.copy()

    def _describe(self, tasks: np.ndarray) -> list[dict[str, Any]]:
        """make() arguments of tasks, ids (B,)."""
        if (family := env_family(self.env)) is None:
            raise ValueError(f"{self.env} is of no registered family, so its task ids have no meaning")
        return [family.task_kwargs(int(task)) for task in tasks]

    def _checked(self, actions: Any) -> np.ndarray:
        what, space = f"action of the expert {self.expert.name}", self.single_action_space
        found, wanted = to_array(actions, what), (self.num_envs, *(space.shape or ()))
        if found.shape != wanted:
            raise ValueError(f"{what} has shape {found.shape}, expected {wanted}: return one action for each row")
        return stored(found, space.dtype or found.dtype, what)


@runtime_checkable
class ExpertEnv(Protocol):
    """An environment with an expert."""

    def expert_action(self, *tasks: Any) -> np.ndarray:
        """The expert's actions now, (...) or (B, ...); with `Capability.TASK_EXPERTS` also of other tasks."""


def find_expert(env: Any) -> Callable[[], np.ndarray] | None:
    """The function that returns the expert's actions (B, ...) now; None for a vector env without an expert.

    An expert that is given (`WithExpert`) is preferred to the environment's. Array rules declare their expert. In other
    environments it is declared by the family, or an `expert_action()` of every row.
    """
    if (given := _given(env)) is not None:
        return given.expert_action
    family, inner = env_family(env), env.unwrapped
    declared = family is not None and family.offers(Capability.EXPERT)
    if not declared and (isinstance(family, Rules) or not _rows_have_expert(inner)):
        return None
    if isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
        return lambda: np.array(inner.call("expert_action"))
    return lambda: np.array(inner.expert_action())


def find_task_experts(env: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """The function that returns the actions (B, ...) of the experts of tasks (B,), ids, in the present states.

    None for a vector env whose family does not declare `Capability.TASK_EXPERTS`, and for a given expert that does not
    read tasks. A vector env without `expert_action(tasks)` of its own needs its rows in this process.
    """
    if (given := _given(env)) is not None:
        return given.expert_action if given.expert.knows_tasks else None
    family, inner = env_family(env), env.unwrapped
    if family is None or not family.offers(Capability.TASK_EXPERTS):
        return None
    if isinstance(inner, ExpertEnv):
        return lambda tasks: np.array(inner.expert_action(tasks))
    if not isinstance(inner, SyncVectorEnv):
        return None
    rows: list[Any] = [row.unwrapped for row in inner.envs]
    return lambda tasks: np.array([row.expert_action(int(task)) for row, task in zip(rows, tasks, strict=True)])


def _given(env: Any) -> WithExpert | None:
    """The layer of `env` that has a given expert."""
    while isinstance(env, VectorWrapper):
        if isinstance(env, WithExpert):
            return env
        env = env.env
    return None


def _rows_have_expert(env: Any) -> bool:
    rows = [row.unwrapped for row in env.envs] if isinstance(env, SyncVectorEnv) else [env]
    return all(isinstance(row, ExpertEnv) for row in rows)
