"""Environments of a user on the command line: `--env MODULE:ID` imports the module, `--tasks FILE` registers tasks."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium

from icrl_agents.core.families import is_family, register_family, restore_family
from icrl_agents.core.files.strict_json import parse_object, read_bounded
from icrl_agents.core.printable import printable

FIX = "write tables [[tasks]] with values, or one table [tasks] with ranges such as length = {low = 0.3, high = 2.0}"
_MODULES: dict[str, str] = {}  # id -> the module that --env named, for commands that are printed


def resolve(env: str | None, task_file: Path | None) -> str | None:
    """The id of an environment that --env and --tasks name, after the import of its module and with its tasks.

    Args:
        env: an id, or "module:id" as in `gymnasium.make`; None without --env.
        task_file: a file that `read_task_file` reads, if given.

    Raises:
        ValueError: the module cannot be imported, the file is none of tasks, or its tasks are others than those that
            the module registers.
    """
    if env is None:
        if task_file is not None:
            raise ValueError(f"--tasks {task_file} are of an environment: give --env too")
        return None
    env_id = import_env(env)
    if task_file is not None:
        _register(env_id, task_file)
    return env_id


def import_env(env: str) -> str:
    """The id in "module:id", after the import of the module from the path of Python or the current folder."""
    module, colon, env_id = env.rpartition(":")
    if not colon:
        return env
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"--env '{printable(env)}' is not MODULE:ID, such as mypkg.envs:my/CartPole-v0")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that no file here hides an installed package
    try:
        import_module(module)
    except Exception as error:
        why = printable(f"{type(error).__name__}: {error}", 160)
        fix = "run the command in the folder that holds it, or install it (--debug shows where)"
        raise ValueError(f"--env {printable(env)}: the module {module} cannot be imported ({why}): {fix}") from error
    if env_id not in gymnasium.registry:
        raise ValueError(f"--env {printable(env)}: {module} registers no {printable(env_id)} with gymnasium.register")
    _MODULES[env_id] = module
    return env_id


def given_env(env_id: str) -> list[str]:
    """The option --env for a later command on the environment; [] if that finds the id by itself."""
    return ["--env", f"{_MODULES[env_id]}:{env_id}"] if env_id in _MODULES else []


def from_facts(env_id: str, facts: Any, given: bool) -> None:
    """Register the tasks that an agent was trained on, if its environment has none yet.

    Args:
        facts: the agent's.
        given: whether --env names the environment; without it the message asks for it.
    """
    if is_family(env_id):
        return
    own = facts if facts.get("env_id") == env_id else {}
    if env_id in gymnasium.registry or (own.get("family") and not given):
        restore_family(env_id, own)


def read_task_file(path: Path) -> dict[str, Any]:
    """Arguments of `register_family` in a TOML or JSON file: `tasks`, and settings such as horizon and pass_task.

    A JSON file may be a list of tasks.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is neither, or has no tasks.
    """
    raw = read_bounded(path.expanduser())
    try:
        found = _parse_json(raw) if path.suffix == ".json" else tomllib.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ValueError(f"{path} is not {kind} ({printable(error, 160)}): {FIX}") from None
    if "tasks" not in found:
        raise ValueError(f"{path} has no tasks, but {printable(', '.join(found) or 'nothing')}: {FIX}")
    return found


def _parse_json(raw: bytes) -> dict[str, Any]:
    return parse_object(b'{"tasks": ' + raw + b"}" if raw.lstrip().startswith(b"[") else raw)


def _register(env_id: str, path: Path) -> None:
    found = read_task_file(path)
    try:
        register_family(env_id, **found)
    except ValueError as error:
        known = is_family(env_id) and "already registered" in str(error)
        why = f"{env_id} has tasks already, and other ones: leave --tasks out" if known else str(error)
        raise ValueError(f"{path}: {why}") from error
    except TypeError as error:
        raise ValueError(f"{path}: {printable(error, 160)}: {FIX}") from None
