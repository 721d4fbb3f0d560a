"""A training run's folder: who may write there, its metrics, and the states a killed run continues from.

States are safetensors and JSON, never pickles; on a CPU a resumed run ends with bit-identical weights.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from icrl_agents.atomic import write_text
from icrl_agents.strict_json import read_json

NOTE, METRICS, STATES = "train.json", "metrics.jsonl", "checkpoints"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def read_started(
    out: Path, method: str, env_id: str, histories: str | Path | None, settings: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """The histories and settings a run was started with; those given now may only repeat them."""
    note = out / NOTE
    if not note.is_file():
        raise FileNotFoundError(f"{out} has no train.json, so there is no run to resume: leave --resume out")
    data = read_json(note)
    if not all(isinstance(data.get(name), dict) for name in ("train", "agent", "source")):
        raise ValueError(f"{note} is not of a training run: resume in another folder, or start anew")
    started = {**data["train"], **data["agent"], **{f"source.{name}": value for name, value in data["source"].items()}}
    given = {"method": method, "env_id": env_id, **settings}
    if histories is not None:
        given["histories"] = str(Path(histories).expanduser().resolve())
    for name, value in given.items():
        if (before := started.get(name, data.get(name))) != value:
            raise ValueError(
                f"{name}={value!r}, but {note} was started with {before!r}: resume with the same, or start anew"
            )
    return data["histories"], started


def is_finished(out: Path) -> bool:
    return (out / MODEL).is_file() and newest_checkpoint(out) is None


def claim(out: Path, overwrite: bool) -> None:
    """Only an empty folder is written to, and only a run of ours is ever deleted."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{out} is not empty: give --resume to continue it or --overwrite to replace it")
    if not (out / NOTE).is_file():
        raise FileExistsError(f"{out} is not a training run, so it is not overwritten: choose another folder")


def versions() -> dict[str, str]:
    """What a result depends on besides the settings."""
    names = ("icrl-agents", "torch", "numpy", "gymnasium", "accelerate")
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "uninstalled"
    return found


def command_line() -> str:
    """The command of this process, or the call for those who train from Python."""
    program = Path(sys.argv[0])
    ours = program.name in ("icrl-agents", "cli.py") or program.parts[-2:] == ("icrl_agents", "__main__.py")
    return shlex.join(["icrl-agents", *sys.argv[1:]]) if ours else "icrl_agents.train(...)"


@contextmanager
def open_metrics(out: Path, active: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends one JSON line, and to TensorBoard where it is installed."""
    if not active:
        yield lambda row: None
        return
    board = _tensorboard(out)
    with (out / METRICS).open("a", buffering=1) as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            for name, value in row.items() if board else ():
                board.add_scalar(name, value, row["update"])

        yield write
    if board:
        board.close()


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))


def start_over(out: Path, note: dict[str, Any]) -> None:
    """An empty folder with the note of what is about to run."""
    out.mkdir(parents=True, exist_ok=True)
    for child in out.iterdir():  # the folder itself may be a link, or where the user stands
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    write_text(out / NOTE, json.dumps(note, indent=2) + "\n")


def save_state(out: Path, update: int, model: nn.Module, optimizer: torch.optim.Optimizer, seconds: float) -> None:
    """Write `out/checkpoints/<update>` under a temporary name, rename it, then delete older ones."""
    folder = out / STATES
    final, temporary = folder / f"{update:09d}", folder / f"{update:09d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_plain(model.state_dict()), temporary / MODEL)
    save_file(_optimizer_tensors(optimizer) | {"rng": torch.get_rng_state()}, temporary / OPTIMIZER)
    (temporary / STATE).write_text(json.dumps({"update": update, "seconds": seconds}))
    temporary.rename(final)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def newest_checkpoint(out: Path) -> Path | None:
    """The last state that was written whole."""
    folder = out / STATES
    whole = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(whole, default=None)


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restore weights, optimizer and random state; gives the number of updates done and the seconds they took."""
    state = read_json(folder / STATE)
    model.load_state_dict(load_file(folder / MODEL))
    tensors = load_file(folder / OPTIMIZER)
    torch.set_rng_state(tensors.pop("rng"))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".")
        slots.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["update"], state["seconds"]


def trim_metrics(out: Path, update: int) -> None:
    """Keep the rows of the first `update` updates; the others will be written again."""
    metrics = out / METRICS
    if metrics.is_file():
        rows = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        write_text(metrics, "".join(line for line in rows if json.loads(line)["update"] <= update))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return _plain({f"{number}.{key}": value for number, slot in state.items() for key, value in slot.items()})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
