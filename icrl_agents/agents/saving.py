"""Saving the context of an agent: one file, `context.safetensors`, with strict JSON in its metadata.

One file, so that a killed process leaves the old context or the new one. Axis letters: B rows, N window capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icrl_agents.agents import pretrained
from icrl_agents.agents.session import Session
from icrl_agents.core import __version__
from icrl_agents.core.arrays import digest
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.files.strict_json import dump_json
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.numerics import check_float32

CONTEXT = "context.safetensors"
FORMAT_VERSION = 2  # incremented when older versions of the package would misread newer files


@dataclass(frozen=True)
class Facts:
    """Metadata of a saved context: all that is no array."""

    format_version: int
    library_version: str
    agent: dict[str, Any]  # method, config and spaces, as in a checkpoint, and the hash of the weights
    device: str  # type of the device that the generators are of
    num_envs: int | None
    mode: str | None  # Gymnasium's name of the autoreset mode
    known: bool  # whether the env was inspected, so that no mode means that the caller resets
    learn: bool  # whether steps are recorded
    lost_env: bool  # whether the session had an env, which is not saved
    reuses: bool  # whether the env returns the same array object at every step
    acted: bool  # whether an action waits for its outcome
    decided: int  # number of decisions so far, the next id
    drawing: dict[str, Any]  # state of the generator of static values, large numbers as text


def save(method: Method, session: Session, folder: str | Path) -> None:
    """Write the context of a session, see `ICAgent.save_context`."""
    from safetensors.numpy import save as to_bytes

    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: name a folder for {CONTEXT}")
    check_float32(method)
    text = dump_json(vars(_facts(method, session)), folder / CONTEXT).decode()
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays_of(session).items()}
    content = to_bytes(arrays, {"context": text})
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, {CONTEXT: content})


def _facts(method: Method, session: Session) -> Facts:
    boundary, state = session.boundary, session.drawing.bit_generator.state
    return Facts(
        format_version=FORMAT_VERSION,
        library_version=__version__,
        agent=identity(method),
        device=session.device.type,
        num_envs=session.num_envs,
        mode=None if boundary.mode is None else boundary.mode.value,
        known=boundary.known,
        learn=session.learn,
        lost_env=session.lost_env or session.env is not None,
        reuses=boundary.reuses,
        acted=session.acted is not None,
        decided=session.decided,
        drawing={**state, "state": {name: str(value) for name, value in state["state"].items()}},
    )


def identity(method: Method) -> dict[str, Any]:
    """What a context depends on: method, config, spaces, and the SHA-256 of the weights."""
    described = pretrained.to_json(method, {})
    del described["facts"]
    return {**described, "weights": digest(method.state_dict())}


def arrays_of(session: Session) -> dict[str, np.ndarray]:
    """Every array of a session, by its name in the file."""
    context, boundary, rows = session.context, session.boundary, session.context.rows
    steps, seen = context.steps, seen_columns(context.length, context.window)
    obs, action = steps.obs, steps.action
    final = boundary.final if boundary.final.shape[1:] == obs.shape[2:] else np.zeros((rows, *obs.shape[2:]))
    late = list(session.late.values())
    memory = {} if context.memory is None else context.memory.arrays()
    return {
        "length": context.length,
        "full": context.full,
        **{f"steps/{name}": value[seen] for name, value in steps.columns.items() if name != "mask"},
        **{f"extras/{name}": value for name, value in steps.extras.items()},
        **{f"static/{name}": value for name, value in steps.static.items()},
        **{f"memory/{name}": value for name, value in memory.items()},
        "plans/right": session.plans.right if len(session.plans.right) == rows else np.zeros(rows),
        "plans/total": session.plans.total if len(session.plans.total) == rows else np.zeros(rows),
        "ended": boundary.ended,
        "unreset": boundary.waiting,
        "final": final.astype(obs.dtype),
        "waiting": session.waiting,
        "acted": np.zeros((rows, *action.shape[2:]), action.dtype) if session.acted is None else session.acted,
        "late/id": np.array(list(session.late), np.int64),
        "late/row": np.array([one.row for one in late], np.int64),
        "late/first": np.array([one.first for one in late], bool),
        "late/obs": np.array([one.obs for one in late], obs.dtype).reshape(-1, *obs.shape[2:]),
        "late/action": np.array([one.action for one in late], action.dtype).reshape(-1, *action.shape[2:]),
        "generator/actions": session.generator.get_state().numpy(),
        "generator/planning": session.planning.get_state().numpy(),
    }


def seen_columns(length: np.ndarray, window: int) -> np.ndarray:
    """(B, N) bool: closed steps and the open one."""
    return np.arange(window) <= length[:, None]
