"""Restoring a saved context: an untrusted file, of which every array is checked before it is used.

Names, dtypes and shapes are compared with those of a new session of one row before the arrays are read.
Axis letters: B rows, N window capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from icrl_agents.agents.action_sets import ActionSets, from_arguments
from icrl_agents.agents.saving import CONTEXT, FORMAT_VERSION, Facts, arrays_of, identity, seen_columns
from icrl_agents.agents.session import Batch, Late, Session
from icrl_agents.core.action_masks import MAX_ACTIONS
from icrl_agents.core.arrays import under
from icrl_agents.core.checks import check_known, check_value, whole
from icrl_agents.core.files.strict_json import MAX_JSON_BYTES, parse_json, require_file
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK, HIGHEST, LOWEST, Steps, check_previous, check_steps
from icrl_agents.hub.checkpoint import within_memory
from icrl_agents.hub.header import Kind, read_header, read_metadata
from icrl_agents.methods.base.method import Method
from icrl_agents.nn.numerics import acting

NO_CONTEXT = "a context is a folder as agent.save_context writes it"
SAVE_AGAIN = "it is damaged, save the context again"
MAY_BE_INFINITE = {f"extras/{name}" for name in ("log_prob", LOWEST, HIGHEST)}  # infinite where nothing is known yet
ADDED = "plans/"  # arrays that contexts of format version 1 lack


def load(method: Method, folder: str | Path) -> Session:
    """Session of a saved context, see `ICAgent.load_context`."""
    from safetensors import SafetensorError

    path = Path(folder).expanduser() / CONTEXT
    require_file(path, NO_CONTEXT)
    kinds = read_header(path, SAVE_AGAIN)
    try:
        facts = _read_facts(read_metadata(path, SAVE_AGAIN), path)
        _check_agent(facts, method, path)
        with within_memory(path), acting(method):
            return _restored(method, facts, kinds, path)
    except (ValueError, IndexError, KeyError, OverflowError, SafetensorError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {printable(error, 200)}; {SAVE_AGAIN}") from None


def _read_facts(metadata: Any, path: Path) -> Facts:
    text = metadata.get("context") if isinstance(metadata, dict) else None
    if not isinstance(text, str) or len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path} is no saved context: {NO_CONTEXT}")
    data = parse_json(text.encode(errors="replace"), path, SAVE_AGAIN)
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


def _restored(method: Method, facts: Facts, kinds: Mapping[str, Kind], path: Path) -> Session:
    from safetensors.numpy import load_file

    rows = 1 if facts.num_envs is None else whole("num_envs", facts.num_envs, 1)
    mask = kinds.get(f"static/{ACTION_MASK}")
    if mask is not None and not (len(mask.shape) == 2 and 0 < mask.shape[1] <= MAX_ACTIONS):
        raise ValueError(f"an action mask of shape {printable(mask.shape)}")
    legal = None if mask is None else from_arguments(method, np.ones((1, mask.shape[1]), bool), None, 1)
    one = _new(method, facts, 1, legal)
    expected = {name: value for name, value in arrays_of(one).items() if name in kinds or not name.startswith(ADDED)}
    _check_kinds(kinds, expected, rows)
    arrays = load_file(path)
    _check_finite(arrays)
    session = _new(method, facts, rows, arrays.get(f"static/{ACTION_MASK}"))
    drawn = session.context.steps.static
    _fill_context(method, session, arrays)
    _fill_memory(session, arrays)
    method.check_restored(session.context, drawn)
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


def _check_kinds(kinds: Mapping[str, Kind], expected: Mapping[str, np.ndarray], rows: int) -> None:
    """Compare names, dtypes and shapes with those of a session of one row; the first axes are compared later."""
    if different := sorted(kinds.keys() ^ expected.keys()):
        raise ValueError(f"array {printable(different[0])} is missing or one too many")
    for name, value in expected.items():
        kind, dtype = kinds[name], _dtype(value)
        free = len(value) != 1 or name.startswith(("steps/", "late/", "generator/"))  # other numbers than that of rows
        first = kind.shape[:1] if free else (rows,)
        if kind != Kind(dtype, (*first, *value.shape[1:])) or not kind.shape:
            shown = printable(kind.shape, 40)
            raise ValueError(f"{name} is {kind.dtype} {shown}, expected {dtype} {(*first, *value.shape[1:])}")


def _dtype(value: np.ndarray) -> str:
    """Name of a dtype in a safetensors header."""
    return "BOOL" if value.dtype == bool else f"{value.dtype.kind}{8 * value.dtype.itemsize}".upper()


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        allowed = ~np.isnan(value) if name in MAY_BE_INFINITE else np.isfinite(value)
        if not allowed.all():
            raise ValueError(f"NaN or infinity in {name}")


def _fill_context(method: Method, session: Session, arrays: Mapping[str, np.ndarray]) -> None:
    context, length = session.context, arrays["length"]
    if length.min() < 0 or length.max() > context.window:
        raise ValueError(f"a context of {printable(length)} steps, of a window of {context.window}")
    seen, columns = seen_columns(length, context.window), context.steps.columns
    for name, packed in under("steps/", arrays).items():
        if len(packed) != seen.sum():
            raise ValueError(f"{len(packed)} entries in {name}, expected {seen.sum()}")
        columns[name][seen] = packed
    static = under("static/", arrays)
    context.length, context.full = length.copy(), arrays["full"].copy()
    mask = np.arange(context.window) < length[:, None]
    context.steps = context.steps._replace(static=static, extras=under("extras/", arrays), mask=mask)
    _check_context(method, context.steps, seen, arrays["waiting"], length)


def _check_context(method: Method, steps: Steps, seen: np.ndarray, waiting: np.ndarray, length: np.ndarray) -> None:
    """Refuse values outside the spaces: of closed steps, of what precedes them, and of observations acted on."""
    codecs = {"obs": method.obs, "action": method.action, "reward": method.reward}
    check_steps(steps._replace(extras={}), {**codecs, "next_obs": method.obs}, "the context")
    known = seen & ~steps.start
    check_previous(steps, codecs, known, "the context")
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
        memory.fill({**under("memory/", arrays), "length": arrays["length"]})


def _fill_session(method: Method, session: Session, facts: Facts, arrays: Mapping[str, np.ndarray]) -> None:
    boundary, waiting = session.boundary, arrays["waiting"]
    boundary.ended, boundary.waiting, boundary.final = arrays["ended"], arrays["unreset"], arrays["final"]
    boundary.reuses, session.lost_env = facts.reuses, facts.lost_env
    none = np.zeros(len(waiting))
    session.plans.right, session.plans.total = (arrays.get(f"{ADDED}{name}", none) for name in ("right", "total"))
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
