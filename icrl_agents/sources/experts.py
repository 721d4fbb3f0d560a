"""Experts that a caller gives: a function, a Stable-Baselines3 model, or an in-context agent. Axis letter: B rows."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from icrl_agents.core.arrays import digest
from icrl_agents.core.printable import printable
from icrl_agents.core.rollout import AGENT, WEIGHTS, can_act, identity_of
from icrl_agents.histories.experts import EXPERT, Expert

IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # "package.module:function"


def as_expert(given: Any, name: str | None = None) -> Expert:
    """The expert of what a caller gives.

    Args:
        given: one of
            - a function of the observations (B, ...), or of these and the tasks, a list of B dicts of make()
              arguments, that returns actions (B, ...);
            - its import path "package.module:function";
            - a model with `predict(obs, deterministic=True)`, as those of Stable-Baselines3 (the object: its files are
              pickles, which this package never reads);
            - an agent with `reset`, `act` and `observe`, such as an `ICAgent`.
        name: name in the histories; default the import path, or the class in angle brackets.

    Raises:
        ValueError: none of these.
    """
    if isinstance(given, Expert):
        return given
    if isinstance(given, str):
        return as_expert(_imported(given), name or given)
    name, model = name or _name(given), callable(getattr(given, "predict", None)) and not isinstance(given, type)
    if can_act(given):
        return AgentExpert(given, name)
    if model:
        return ModelExpert(given, name)
    if callable(given) and not isinstance(given, type):
        return FunctionExpert(given, name)
    raise ValueError(
        f"expert={printable(given)} cannot act: give a function, 'module:function', a model with predict(), or an agent"
    )


def _name(given: Any) -> str:
    """Import path of a function at the top of a module; the class of anything else."""
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", "")
    path = f"{module}:{name}"
    return path if IMPORT_PATH.fullmatch(path) and module != "__main__" else f"<{type(given).__name__}>"


def _imported(path: str) -> Any:
    if not IMPORT_PATH.fullmatch(path):
        raise ValueError(f"expert='{printable(path)}' is no import path: give 'package.module:function'")
    module, name = path.split(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expert='{path}' is not found ({printable(error, 160)}): is it on the Python path?") from None
    return found


class FunctionExpert(Expert):
    """A function of observations, or of observations and tasks."""

    def __init__(self, function: Callable[..., Any], name: str):
        self.function, self.name, self.informed = function, name, _parameters(function) > 1

    def begin(self, env: VectorEnv, tasks: Sequence[Mapping[str, Any]]) -> None:
        self.tasks = tasks

    def act(self, obs: np.ndarray) -> Any:
        return self.function(obs, self.tasks) if self.informed else self.function(obs)

    @property
    def knows_tasks(self) -> bool:
        return self.informed

    def act_as(self, obs: np.ndarray, tasks: Sequence[Mapping[str, Any]]) -> Any:
        return self.function(obs, tasks) if self.informed else super().act_as(obs, tasks)


def _parameters(function: Callable[..., Any]) -> int:
    """Number of required positional parameters; 1 for a builtin without a signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in places and one.default is inspect.Parameter.empty for one in parameters)


class ModelExpert(Expert):
    """A model of Stable-Baselines3, which acts deterministically and does not know the task."""

    def __init__(self, model: Any, name: str):
        self.model, self.name = model, name

    def act(self, obs: np.ndarray) -> Any:
        return self.model.predict(obs, deterministic=True)[0]

    def described(self) -> dict[str, Any]:
        weights = getattr(getattr(self.model, "policy", None), "state_dict", None)
        return super().described() | ({f"{EXPERT}.{WEIGHTS}": digest(weights())} if callable(weights) else {})


class AgentExpert(Expert):
    """An agent that learns in context from the row's steps, with the actions that were taken instead of its own."""

    def __init__(self, agent: Any, name: str):
        self.agent, self.name = agent, name

    def described(self) -> dict[str, Any]:
        known = identity_of(self.agent)
        return super().described() | {f"{EXPERT}.{part}": value for part, value in known.items() if part != AGENT}

    def begin(self, env: VectorEnv, tasks: Sequence[Mapping[str, Any]]) -> None:
        self.agent.reset(env, seed=0)
        self.asked = False

    def act(self, obs: np.ndarray) -> Any:
        self.asked, self.obs = True, obs
        return self.agent.act(obs)

    def observe(self, action: np.ndarray, result: tuple[Any, ...]) -> None:
        if self.asked and hasattr(self.agent, "session"):  # an ICAgent would record the action it proposed
            self.agent.session.acted = action
        self.agent.observe(*result)
        self.asked = False
