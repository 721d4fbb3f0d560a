"""Run folders of unfinished trainings: error with the resuming command, `train.json`, and the newest checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.core.files.strict_json import read_json
from icrl_agents.hub.checkpoint import CONFIG

NOTE, STATES = "train.json", "checkpoints"  # original arguments of a run, and folder of its resumable checkpoints


class Note(NamedTuple):
    """Content of `train.json`, as far as resuming and loading need it."""

    method: str
    env_id: str
    train: dict[str, Any]  # fields of TrainConfig
    agent: dict[str, Any]  # fields of the method's config
    source: dict[str, Any]  # settings of the source that are not its defaults
    command: str
    histories: str | list[str] | None = None  # files
    family: str | None = None  # checksum of the tasks of a user's environment
    expert: dict[str, Any] | None = None  # what the actions of a given expert depend on; older runs lack it
    contents: str | None = None  # checksum of the histories; older runs lack it


TYPES = dict(zip(Note._fields[:6], (str, str, dict, dict, dict, str), strict=True))


def refuse_unfinished(folder: Path) -> None:
    """FileNotFoundError for a run folder without a final agent; the message has the command that finishes it."""
    if (folder / CONFIG).exists() or not (folder / NOTE).is_file():
        return
    note = read_note(folder)
    words = ["icrl-agents", "train", note.method, "--env", note.env_id, "-o", str(folder), "--resume"]
    if note.family and note.command.startswith("icrl-agents "):  # it names the module and the file of tasks
        words = [*shlex.split(note.command.replace(" --overwrite", "").replace(" --resume", "")), "--resume"]
    state = newest_checkpoint(folder)
    until_then = f" (until then there is {state})" if state else ""
    raise FileNotFoundError(f"{folder} is not finished: {shlex.join(words)}{until_then}")


def read_note(out: Path) -> Note:
    """Read `train.json`; ValueError if it is not of a training run."""
    path = out / NOTE
    if not path.is_file():
        raise FileNotFoundError(f"{out} has no train.json, so there is no run to resume: leave --resume out")
    data = read_json(path, fix="the run cannot be resumed, --overwrite starts it over")
    if not all(isinstance(data.get(name), kind) for name, kind in TYPES.items()):
        raise ValueError(f"{path} is not of a training run: resume in another folder, or start another run")
    fields: dict[str, Any] = {name: data.get(name) for name in Note._fields}
    return Note(**fields)


def newest_checkpoint(out: Path) -> Path | None:
    """The last complete checkpoint; None without one."""
    folder = out / STATES
    whole = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(whole, default=None)
