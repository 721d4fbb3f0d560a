"""Checks of caller inputs to an agent: env, rows, decisions, flags of a step. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from icrl_agents.agents.session import Batch, Late, Session
from icrl_agents.core.arrays import to_array
from icrl_agents.core.boundary import autoreset_mode
from icrl_agents.core.checks import check_choice, whole
from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn
from icrl_agents.core.spaces import as_one_array
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.codecs.distributions import Distribution

Env = gymnasium.Env | VectorEnv


def read_batch(method: Method, env: Any, num_envs: Any, mode: AutoresetMode | str | None) -> Batch:
    """Batch of a session, from `env` if given, else from `num_envs`.

    Raises:
        ValueError: the spaces of the env and the method differ, or the arguments contradict each other.
    """
    if mode is not None:
        name = mode.value if isinstance(mode, AutoresetMode) else str(mode)
        check_choice("autoreset_mode", name, [known.value for known in AutoresetMode])
    if env is not None:
        _check_env(method, env)
        found, own = (env.num_envs if isinstance(env, VectorEnv) else None), autoreset_mode(env)
        if own is not None and mode is not None and own != AutoresetMode(mode):
            raise ValueError(f"autoreset_mode={mode!r}, but the env has {own.value!r}: leave it out")
        mode = own or mode
        if num_envs not in (None, found):
            raise ValueError(f"num_envs={num_envs}, but the env has {found}: leave num_envs out when you give env")
        num_envs = found
    return Batch(None if num_envs is None else whole("num_envs", num_envs, 1), mode, known=env is not None)


def _check_env(method: Method, env: Any) -> None:
    if not isinstance(env, gymnasium.Env | VectorEnv):
        raise ValueError(f"env is {str(env)[:80]!r}, expected a Gymnasium environment: for a batch size give num_envs=")
    prefix = "single_" if isinstance(env, VectorEnv) else ""
    check_spaces(method, getattr(env, f"{prefix}observation_space"), getattr(env, f"{prefix}action_space"))


def check_spaces(method: Method, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
    """Refuse (ValueError) the spaces of an env that are not those of the method."""
    for kind, theirs in (("observation_space", observation_space), ("action_space", action_space)):
        ours = getattr(method, kind)
        if theirs != ours and not (kind == "action_space" and method.accepts_action_space(theirs)):
            fix = "use the env it was trained on" if theirs.shape is not None else as_one_array(theirs)
            shown = f"the env's {kind} is {printable(theirs)}, the agent's is {printable(ours)}"
            raise ValueError(f"{shown}: {fix}")


def warn_foreign(facts: Mapping[str, Any], env: Env) -> None:
    """Warn if the agent was trained on another environment id (with the same spaces)."""
    trained, here = facts.get("env_id"), env_id_of(env)
    if isinstance(trained, str) and here and here != trained:
        warn(f"the agent was trained on {trained}, this is {here}: it may not learn here")


def env_id_of(env: Env) -> str | None:
    """Registered id of `env`, or of the first row of a vector env; None for an env made without an id."""
    spec = env.spec
    if spec is None and isinstance(env, VectorEnv) and hasattr(env.unwrapped, "get_attr"):  # Gymnasium's vector envs
        spec = env.unwrapped.get_attr("spec")[0]
    return None if spec is None else spec.id


def read_rows(rows: Any, session: Session) -> np.ndarray | None:
    """Row numbers (n,) of the argument `rows`, None: all; ValueError if they are no rows of the session."""
    if rows is None:
        return None
    count = session.num_envs
    if count is None:
        raise ValueError("rows is for batches: leave it out, or call reset(num_envs=...) first")
    index = np.asarray(rows)
    fits = index.dtype.kind in "iu" and index.ndim == 1 and len(index) and index.min() >= 0 and index.max() < count
    if not fits or len(np.unique(index)) < len(index):
        raise ValueError(f"rows={printable(rows)}: give different row numbers from 0 to {count - 1}, such as [0, 2]")
    return index.astype(np.int64)


def read_decisions(ids: Any, session: Session) -> list[Late]:
    """Waiting decisions of the argument `decision`: one id, or an array (n,) of ids of different rows in a batch.

    Raises:
        ValueError: an id is not that of a waiting decision, or two are of the same row.
    """
    numbers = np.asarray(ids)
    if numbers.dtype.kind not in "iu" or numbers.ndim != (session.num_envs is not None) or not numbers.size:
        shape = "one whole number" if session.num_envs is None else "a list of whole numbers, such as [4]"
        raise ValueError(f"decision={printable(ids)}: give the id that decide() returned, {shape}")
    found = [_waiting(int(number), session) for number in numbers.ravel()]
    if len({one.row for one in found}) < len(found):
        raise ValueError(f"decision={printable(ids)} has two decisions of one row: observe them one after the other")
    return found


def _waiting(number: int, session: Session) -> Late:
    if number in session.late:
        return session.late[number]
    if 0 <= number < session.decided:
        raise ValueError(f"decision {number} was observed already, or its row has begun a new task: it is not waiting")
    raise ValueError(f"decision {number} is unknown: {session.decided} were made since the last reset")


def check_flag(value: Any, rows: int | None, what: str) -> np.ndarray:
    """Flag of `env.step` as a bool array, () for a single env or (B,); ValueError for another shape or dtype."""
    array = to_array(value, what)
    wanted = () if rows is None else (rows,)
    if array.shape != wanted or array.dtype != bool:
        raise ValueError(
            f"{what} has dtype {array.dtype} and shape {array.shape}, expected bool {wanted}: "
            "pass what env.step returned"
        )
    return array


def most_probable(distribution: Distribution, generator: torch.Generator) -> Tensor:
    """Most probable actions (B, ...) of a policy, with a warning if acting by them explores nothing."""
    if distribution.caution:
        warn(distribution.caution)
    return distribution.best(generator)
