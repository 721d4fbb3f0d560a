"""Experts: where the expert actions of a vector environment come from. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from icrl_agents.core.families import Capability, Rules, env_family


@runtime_checkable
class ExpertEnv(Protocol):
    """An environment with an expert."""

    def expert_action(self) -> np.ndarray:
        """The expert's actions now, (...) or (B, ...)."""


def find_expert(env: Any) -> Callable[[], np.ndarray] | None:
    """The function that returns the expert's actions (B, ...) now; None for a vector env without an expert.

    Array rules declare their expert. In other environments it is declared by the family, or an `expert_action()` of
    every row.
    """
    family, inner = env_family(env), env.unwrapped
    declared = family is not None and family.offers(Capability.EXPERT)
    if not declared and (isinstance(family, Rules) or not _rows_have_expert(inner)):
        return None
    if isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
        return lambda: np.array(inner.call("expert_action"))
    return lambda: np.array(inner.expert_action())


def _rows_have_expert(env: Any) -> bool:
    rows = [row.unwrapped for row in env.envs] if isinstance(env, SyncVectorEnv) else [env]
    return all(isinstance(row, ExpertEnv) for row in rows)
