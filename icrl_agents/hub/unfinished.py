"""Run folders of unfinished trainings: error with the resuming command, `train.json`, and the newest checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from icrl_agents.core.files.strict_json import read_json
from icrl_agents.hub.checkpoint import CONFIG

NOTE, STATES = "train.json", "checkpoints"  # original arguments of a run, and folder of its resumable checkpoints
STARTED = {"method": str, "env_id": str, "train": dict, "agent": dict, "source": dict, "command": str}


def refuse_unfinished(folder: Path) -> None:
    """FileNotFoundError for a run folder without a final agent; the message has the command that finishes it."""
    if (folder / CONFIG).exists() or not (folder / NOTE).is_file():
        return
    data = read_note(folder)
    words = ["train", data["method"], "--env", data["env_id"], "-o", str(folder), "--resume"]
    state = newest_checkpoint(folder)
    until_then = f" (until then there is {state})" if state else ""
    raise FileNotFoundError(f"{folder} is not finished: {shlex.join(['icrl-agents', *words])}{until_then}")


def read_note(out: Path) -> dict[str, Any]:
    """Content of `train.json`, with the keys and types of `STARTED`; FileNotFoundError or ValueError otherwise."""
    note = out / NOTE
    if not note.is_file():
        raise FileNotFoundError(f"{out} has no train.json, so there is no run to resume: leave --resume out")
    data = read_json(note, fix="the run cannot be resumed, --overwrite starts it over")
    if not all(isinstance(data.get(name), kind) for name, kind in STARTED.items()):
        raise ValueError(f"{note} is not of a training run: resume in another folder, or start another run")
    return data


def newest_checkpoint(out: Path) -> Path | None:
    """The last complete checkpoint; None without one."""
    folder = out / STATES
    whole = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(whole, default=None)
