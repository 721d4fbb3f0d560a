"""Run folder: ownership, metrics and resumable checkpoints.

Checkpoints are safetensors and JSON, never pickles; on a CPU a resumed run ends with bit-identical weights. Each one
is an agent's checkpoint too, so an unfinished run can be played and evaluated.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from icrl_agents.core.families import tasks_checksum
from icrl_agents.core.files.atomic import append_line, drop_leftovers, write_files, write_text
from icrl_agents.core.files.folder_lock import OURS, FolderLock
from icrl_agents.core.files.strict_json import dump_json, read_json, refuse_special
from icrl_agents.core.printable import printable
from icrl_agents.core.process.interrupts import continuing
from icrl_agents.core.process.launched import is_first
from icrl_agents.histories.shards import Paths, find_files
from icrl_agents.hub.checkpoint import CONFIG, WEIGHTS
from icrl_agents.hub.unfinished import NOTE, STATES, newest_checkpoint, read_note

METRICS = "metrics.jsonl"
AUTOMATIC = {"pool": 0}  # settings that let a training choose; `train.json` has what it chose
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


class Started(NamedTuple):
    """Original arguments of a run."""

    histories: str | list[str] | None
    settings: dict[str, Any]
    command: str
    expert: dict[str, Any] | None  # what the actions of a given expert depend on
    contents: str | None  # checksum of the histories


def read_started(out: Path, method: str, env_id: str, histories: Paths | None, settings: dict[str, Any]) -> Started:
    """Original arguments of the run in `out`; ValueError if the given ones differ from them."""
    note = read_note(out)
    started = all_settings(note.train, note.agent, note.source)
    given = {"method": method, "env_id": env_id, "family": tasks_checksum(env_id), **settings}
    if histories is not None:
        given["histories"] = note_files(stored_files(histories))
    # learning rate and stages depend on the total number of updates: a longer run differs from its first update on
    way = (
        f"go on with its agent in another folder, --init {shlex.quote(str(out))}"
        if is_finished(out)
        else "start another run"
    )
    for name, value in given.items():
        if (before := started.get(name, note._asdict().get(name))) != value and not leaves_open(name, value):
            differs = f"{name}={value!r}, but {out / NOTE} was started with {before!r}"
            raise ValueError(f"{differs}: resume with that, or {way}")
    return Started(note.histories, started, note.command, note.expert, note.contents)


def leaves_open(name: str, value: Any) -> bool:
    """Whether a setting lets the training choose: what an earlier one chose is no difference."""
    return name in AUTOMATIC and value == AUTOMATIC[name]


def all_settings(train: Mapping[str, Any], agent: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by the names that `--set` has for them."""
    return {**train, **agent, **{f"source.{name}": value for name, value in source.items()}}


def stored_files(histories: Paths) -> list[Path]:
    """Absolute paths, links resolved, of the files that `find_files` finds; ValueError for special files like pipes."""
    files = find_files(histories)
    for path in files:
        refuse_special(path)
    return [Path(os.path.realpath(path)) for path in files]


def note_files(files: Sequence[Path] | None) -> str | list[str] | None:
    """Files of histories as `train.json` names them: one as a text."""
    return None if files is None else str(files[0]) if len(files) == 1 else [str(path) for path in files]


def is_finished(out: Path) -> bool:
    return (out / WEIGHTS).is_file() and (out / CONFIG).is_file() and newest_checkpoint(out) is None


@contextmanager
def own(out: Path) -> Iterator[None]:
    """Lock on the run folder during training; under `accelerate launch` the first process holds it.

    Raises:
        BlockingIOError: another run trains in the folder.
    """
    if not is_first():
        yield
        return
    with FolderLock(out, "training in"):
        if not is_finished(out):  # to a finished one an evaluation may be writing
            drop_leftovers(out)
        yield


def resumable(out: Path) -> AbstractContextManager[None]:
    """Add to the message of an interruption the update at which --resume continues."""
    return continuing(lambda: f"--resume continues at update {_updates_done(out)}")


def _updates_done(out: Path) -> int:
    state = newest_checkpoint(out)
    return int(state.name) if state else 0


def claim(out: Path, overwrite: bool) -> None:
    """FileExistsError unless `out` is empty, or holds a training run that may be overwritten."""
    if not _content(out):
        return
    if not overwrite:
        raise FileExistsError(f"{out} is not empty: give --resume to continue it or --overwrite to replace it")
    if not (out / NOTE).is_file():
        raise FileExistsError(f"{out} is not a training run, so it is not overwritten: choose another folder")


def _content(out: Path) -> list[Path]:
    return [child for child in out.iterdir() if child.name not in OURS] if out.exists() else []


def command_line() -> str:
    """Command line of this process, or "icrl_agents.train(...)" for a call from Python."""
    program = Path(sys.argv[0])
    ours = program.name == "icrl-agents" or program.parts[-2:] in (
        ("icrl_agents", "__main__.py"),
        ("cli", "__main__.py"),
    )
    return shlex.join(["icrl-agents", *sys.argv[1:]]) if ours else "icrl_agents.train(...)"


@contextmanager
def open_metrics(out: Path, active: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that appends one JSON line to `metrics.jsonl`; it does nothing unless `active`."""
    if not active:
        yield lambda row: None
        return
    yield lambda row: append_line(out / METRICS, json.dumps(row))


def start_over(out: Path, note: dict[str, Any]) -> None:
    """Empty the folder and write `train.json` with the content `note`.

    Raises:
        ValueError: `note` is not strict JSON, or too large; nothing is deleted.
    """
    text = dump_json(note, out / NOTE)
    out.mkdir(parents=True, exist_ok=True)
    for child in _content(out):  # not the folder itself: it may be a link, or a working directory
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    write_files(out, {NOTE: text})


def save_state(
    out: Path, update: int, save_agent: Callable[[Path], None], optimizer: torch.optim.Optimizer, seconds: float
) -> None:
    """Write `out/checkpoints/<update>` under a temporary name, rename it, then delete older ones.

    Args:
        save_agent: writes the agent's checkpoint to a folder.
    """
    folder = out / STATES
    final, temporary = folder / f"{update:09d}", folder / f"{update:09d}.tmp"
    tensors = save(_optimizer_tensors(optimizer) | {"rng": torch.get_rng_state()})
    state = json.dumps({"update": update, "seconds": seconds})
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_agent(temporary)
        write_files(temporary, {OPTIMIZER: tensors, STATE: state.encode()})
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def drop_states(out: Path) -> None:
    """Delete the checkpoints of a finished run."""
    while state := newest_checkpoint(out):  # renamed first: a partly deleted one must not count as a checkpoint
        state.rename(state.with_suffix(".tmp"))
    shutil.rmtree(out / STATES, ignore_errors=True)


def drop_killed(out: Path) -> None:
    """Delete what is left of the checkpoints of a finished run that was killed while it deleted them."""
    if (out / STATES).exists():
        with suppress(OSError), own(out):  # a finished run may be read-only, or just be started over
            if is_finished(out):
                drop_states(out)


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restore weights, optimizer and random state; returns the number of updates and the training time in seconds.

    Raises:
        ValueError: the checkpoint is damaged, or of another run.
    """
    contents = {name: (folder / name).read_bytes() for name in (WEIGHTS, OPTIMIZER)}
    state = read_json(folder / STATE, fix=f"delete {folder}")
    try:
        model.load_state_dict(load(contents[WEIGHTS]))
        tensors = load(contents[OPTIMIZER])
        torch.set_rng_state(tensors.pop("rng"))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, key = name.split(".")
            slots.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(state["update"]), float(state["seconds"])
    except (SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = printable(error, 200)
        raise ValueError(f"{folder} is damaged, or of another run ({why}): delete it, or give --overwrite") from None


def trim_metrics(out: Path, update: int) -> None:
    """Keep the metrics of the first `update` updates; the resumed run repeats the later ones."""
    metrics = out / METRICS
    if metrics.is_file():
        rows = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        try:
            kept = [line for line in rows if json.loads(line)["update"] <= update]
        except (LookupError, TypeError, ValueError) as error:
            why = printable(error, 160)
            raise ValueError(f"{metrics} is damaged ({why}): mend it, or give --overwrite") from None
        write_text(metrics, "".join(kept))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return _plain({f"{number}.{key}": value for number, slot in state.items() for key, value in slot.items()})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
