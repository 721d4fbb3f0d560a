"""Saving the context of an agent: one file, `context.safetensors`, with strict JSON in its metadata.

Files are untrusted input: the names, dtypes and shapes of the arrays are compared with those of an agent that has acted
before they are read, and every value is checked before it is used. Axis letters: B rows, N window, T steps of all rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from icrl_agents.agents import pretrained
from icrl_agents.agents.action_sets import ActionSets
from icrl_agents.agents.session import Batch, Late, Session
from icrl_agents.core.action_masks import MAX_ACTIONS
from icrl_agents.core.checks import check_known, check_value, whole
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.files.strict_json import MAX_JSON_BYTES, require_file
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK, Steps, check_steps
from icrl_agents.core.version import __version__
from icrl_agents.hub import checkpoint
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.numerics import acting

CONTEXT = "context.safetensors"
FORMAT_VERSION = 1  # incremented when older versions of the package would misread newer files
NO_CONTEXT = "a context is a folder as agent.save_context writes it"
SAVE_AGAIN = "it is damaged, save the context again"
PREFIXES = ("steps", "extras", "static", "memory")
MAY_BE_INFINITE = {"extras/log_prob"}  # -inf: the probability is unknown
BEFORE = {"prev_obs": "obs", "prev_action": "action", "prev_reward": "reward"}


@dataclass(frozen=True)
class Facts:
    """Metadata of a saved context: all that is no array."""

    format_version: int
    library_version: str
    agent: dict[str, Any]  # method, config and spaces, as in a checkpoint, and the hash of the weights
    device: str  # type of the device, of which the generators are
    num_envs: int | None
    mode: str | None  # Gymnasium's name of the autoreset mode
    known: bool
    learn: bool
    lost_env: bool
    reuses: bool
    acted: bool
    decided: int
    drawing: dict[str, Any]  # state of the generator of static values, large numbers as text


# ---- writing ----------------------------------------------------------------------------------------------------


def save(method: Method, session: Session, folder: str | Path) -> None:
    """Write the context of a session, see `ICAgent.save_context`."""
    from safetensors.numpy import save as to_bytes

    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: name a folder for {CONTEXT}")
    text = checkpoint.dump_json(vars(_facts(method, session)), folder / CONTEXT).decode()
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
    total = hashlib.sha256()
    for name, tensor in sorted(method.state_dict().items()):
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.data)
    described = pretrained.to_json(method, {})
    del described["facts"]
    return {**described, "weights": total.hexdigest()}


def arrays_of(session: Session) -> dict[str, np.ndarray]:
    """Every array of a session, by its name in the file."""
    context, boundary, rows = session.context, session.boundary, session.context.rows
    steps, seen = context.steps, _seen(context.length, context.window)
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


def _seen(length: np.ndarray, window: int) -> np.ndarray:
    """(B, N) bool: closed steps and the open one."""
    return np.arange(window) <= length[:, None]


# ---- reading ----------------------------------------------------------------------------------------------------


def load(method: Method, folder: str | Path) -> Session:
    """Session of a saved context, see `ICAgent.load_context`."""
    path = Path(folder).expanduser() / CONTEXT
    require_file(path, NO_CONTEXT)
    kinds, metadata = checkpoint.read_header(path, SAVE_AGAIN)
    facts = _read_facts(metadata, path)
    _check_agent(facts, method, path)
    try:
        with checkpoint.within_memory(path), acting(method):
            return _restored(method, facts, kinds, path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"{path}: {printable(error, 200)}; {SAVE_AGAIN}") from None


def _read_facts(metadata: Mapping[str, Any], path: Path) -> Facts:
    text = metadata.get("context")
    if not isinstance(text, str) or len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path} is no saved context: {NO_CONTEXT}")
    data = checkpoint.parse_json(text.encode(errors="replace"), path, SAVE_AGAIN)
    version = data.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {printable(version)}, this package reads 1..{FORMAT_VERSION}: a newer one is "
            "of a newer icrl-agents, run pip install -U icrl-agents"
        )
    known = Facts.__dataclass_fields__
    check_known(data, known, f"key in {path}")
    if missing := sorted(set(known) - set(data)):
        raise ValueError(f"{path} lacks {', '.join(missing)}: {SAVE_AGAIN}")
    for name, field in known.items():
        kind = str(field.type)
        if not kind.startswith("dict"):
            check_value(name, kind, data[name], None)
        elif not isinstance(data[name], dict):
            raise ValueError(f"{path} has {name}={printable(data[name])}, expected an object: {SAVE_AGAIN}")
    return Facts(**data)


def _check_agent(facts: Facts, method: Method, path: Path) -> None:
    ours = identity(method)
    different = sorted(name for name in ours | facts.agent if facts.agent.get(name) != ours.get(name))
    if different:
        raise ValueError(
            f"{path} is the context of another agent ({', '.join(map(printable, different[:5]))} differ): load it "
            "into the agent that saved it"
        )
    if facts.device != method.device.type:
        raise ValueError(
            f"{path} was saved on {printable(facts.device)}, the agent is on {method.device.type}: move the agent there"
        )


def _restored(method: Method, facts: Facts, kinds: Mapping[str, checkpoint.Kind], path: Path) -> Session:
    from safetensors.numpy import load_file

    rows = 1 if facts.num_envs is None else whole("num_envs", facts.num_envs, 1)
    mask = kinds.get(f"static/{ACTION_MASK}")
    if mask is not None and not (len(mask.shape) == 2 and 0 < mask.shape[1] <= MAX_ACTIONS):
        raise ValueError(f"an action mask of shape {printable(mask.shape)}")
    one = _new(method, facts, 1, None if mask is None else np.ones((1, mask.shape[1]), bool))
    _check_kinds(kinds, arrays_of(one), rows)
    arrays = load_file(path)
    _check_finite(arrays)
    session = _new(method, facts, rows, arrays.get(f"static/{ACTION_MASK}"))
    _fill_context(method, session, arrays)
    _fill_memory(session, arrays)
    _fill_session(method, session, facts, arrays)
    return session


def _new(method: Method, facts: Facts, rows: int, mask: np.ndarray | None) -> Session:
    if mask is not None and not mask.any(1).all():
        raise ValueError("a row without a legal action")
    mode = None if facts.mode is None else AutoresetMode(facts.mode)
    batch = Batch(None if facts.num_envs is None else rows, mode, facts.known)
    session = Session(method, batch, 0, facts.learn, ActionSets(mask))
    method.begin(session.context, np.arange(rows))
    return session


def _check_kinds(kinds: Mapping[str, checkpoint.Kind], expected: Mapping[str, np.ndarray], rows: int) -> None:
    """Compare names, dtypes and shapes with those of a session of one row; the first axes are compared later."""
    if different := sorted(kinds.keys() ^ expected.keys()):
        raise ValueError(f"array {printable(different[0])} is missing or one too many")
    for name, value in expected.items():
        kind, dtype = kinds[name], checkpoint.numpy_kind(value)
        free = len(value) != 1 or name.startswith(("steps/", "late/", "generator/"))  # other numbers than that of rows
        first = kind.shape[:1] if free else (rows,)
        if kind != (dtype, (*first, *value.shape[1:])) or not kind.shape:
            shown = printable(kind.shape, 40)
            raise ValueError(f"{name} is {kind.dtype} {shown}, expected {dtype} {(*first, *value.shape[1:])}")


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            if name not in MAY_BE_INFINITE or np.isnan(value).any() or np.isposinf(value).any():
                raise ValueError(f"NaN or infinity in {name}")


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _fill_context(method: Method, session: Session, arrays: Mapping[str, np.ndarray]) -> None:
    context, length = session.context, arrays["length"]
    if length.min() < 0 or length.max() > context.window:
        raise ValueError(f"a context of {printable(length)} steps, of a window of {context.window}")
    seen, columns = _seen(length, context.window), context.steps.columns
    for name, packed in _part(arrays, "steps/").items():
        if len(packed) != seen.sum():
            raise ValueError(f"{len(packed)} entries in {name}, expected {seen.sum()}")
        columns[name][seen] = packed
    static = _part(arrays, "static/")
    for name, value in static.items():
        drawn = context.steps.static[name]
        if value.dtype.kind == "i" and (np.sort(value, -1) != np.sort(drawn, -1)).any():
            raise ValueError(f"{name} is none that could be drawn")
    context.length, context.full = length.copy(), arrays["full"].copy()
    mask = np.arange(context.window) < length[:, None]
    context.steps = context.steps._replace(static=static, extras=_part(arrays, "extras/"), mask=mask)
    _check_context(method, context.steps, seen, arrays["waiting"], length)


def _check_context(method: Method, steps: Steps, seen: np.ndarray, waiting: np.ndarray, length: np.ndarray) -> None:
    """Refuse values outside the spaces: of closed steps, of what precedes them, and of observations acted on."""
    codecs = {"obs": method.obs, "action": method.action, "reward": method.reward}
    check_steps(steps._replace(extras={}), {**codecs, "next_obs": method.obs}, "the context")
    known = seen & ~steps.start
    for name, codec in BEFORE.items():
        values = getattr(steps, name)[known]
        codecs[codec].check(values, len(values), name)
    open_ = np.flatnonzero(waiting & (length < seen.shape[1]))
    if len(open_) < waiting.sum():
        raise ValueError("a full row between act and observe")
    method.obs.check(steps.obs[open_, length[open_]], len(open_), "obs")
    _check_legal(steps, steps.action[steps.mask], "action")
    _check_legal(steps, steps.prev_action[known], "prev_action")


def _check_legal(steps: Steps, action: np.ndarray, name: str) -> None:
    """Refuse actions that have no entry in the static values."""
    if ACTION_MASK in steps.static and action.size and action.max() >= steps.static[ACTION_MASK].shape[1]:
        raise ValueError(f"{name} {action.max()} outside the action set")


def _fill_memory(session: Session, arrays: Mapping[str, np.ndarray]) -> None:
    memory = session.context.memory
    if memory is not None:
        memory.fill({**_part(arrays, "memory/"), "length": arrays["length"]})


def _fill_session(method: Method, session: Session, facts: Facts, arrays: Mapping[str, np.ndarray]) -> None:
    boundary, waiting = session.boundary, arrays["waiting"]
    boundary.ended, boundary.waiting, boundary.final = arrays["ended"], arrays["unreset"], arrays["final"]
    boundary.reuses, session.lost_env = facts.reuses, facts.lost_env
    if waiting.any() != facts.acted:
        raise ValueError(f"acted is {facts.acted}, and {waiting.sum()} rows wait for their outcome")
    method.action.check(arrays["acted"][waiting], int(waiting.sum()), "acted")
    _check_legal(session.context.steps, arrays["acted"][waiting], "acted")
    session.acted = arrays["acted"].copy() if facts.acted else None
    session.partly = None if waiting.all() or not facts.acted else waiting.copy()
    session.late, session.decided = _late(method, session, facts, arrays), facts.decided
    for name, generator in (("actions", session.generator), ("planning", session.planning)):
        _set_generator(generator, arrays[f"generator/{name}"])
    _set_drawing(session.drawing, facts.drawing)


def _late(method: Method, session: Session, facts: Facts, arrays: Mapping[str, np.ndarray]) -> dict[int, Late]:
    held = {name: arrays[f"late/{name}"] for name in ("id", "row", "obs", "action", "first")}
    count, rows = len(held["id"]), session.context.rows
    whole("decided", facts.decided, 0, 1 << 62)
    if any(len(value) != count for value in held.values()) or len(np.unique(held["id"])) < count:
        raise ValueError("decisions of different numbers, or one twice")
    if count and not (0 <= held["id"].min() <= held["id"].max() < facts.decided):
        raise ValueError(f"a decision that is none of {facts.decided}")
    if count and not (0 <= held["row"].min() <= held["row"].max() < rows):
        raise ValueError(f"a decision of a row beyond {rows}")
    method.obs.check(held["obs"], count, "obs of a decision")
    method.action.check(held["action"], count, "action of a decision")
    _check_legal(session.context.steps, held["action"], "action of a decision")
    parts = zip(held["row"], held["obs"], held["action"], held["first"], strict=True)
    made = [Late(int(row), obs.copy(), action.copy(), bool(first)) for row, obs, action, first in parts]
    return dict(zip(held["id"].tolist(), made, strict=True))


def _set_generator(generator: torch.Generator, state: np.ndarray) -> None:
    try:
        generator.set_state(torch.from_numpy(state.copy()))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the state of a generator is not one ({printable(error, 80)})") from None


def _set_drawing(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    known = generator.bit_generator.state
    if state.keys() != known.keys() or state["bit_generator"] != known["bit_generator"]:
        raise ValueError(f"drawing is {printable(state)}, expected the state of a {known['bit_generator']}")
    inner = state["state"]
    fits = isinstance(inner, dict) and inner.keys() == known["state"].keys()
    if not fits or not all(isinstance(text, str) and text.isdecimal() and len(text) <= 40 for text in inner.values()):
        raise ValueError(f"drawing is {printable(inner)}, expected numbers as text")
    numbers = {name: int(text) for name, text in inner.items()}
    whole("has_uint32", state["has_uint32"], 0, 1)
    whole("uinteger", state["uinteger"], 0, 2**32 - 1)
    if max(numbers.values()) >= 1 << 128:
        raise ValueError("drawing has a number of more than 128 bits")
    generator.bit_generator.state = {**state, "state": numbers}
