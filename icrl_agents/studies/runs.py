"""Compare training runs from their folders: settings, loss and validation returns, as table, JSON and figure."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.files.strict_json import parse_json, read_bounded, read_json
from icrl_agents.training.run_folder import METRICS, NOTE, is_finished

JSON, PICTURE = "runs.json", "runs.png"
FILES = (JSON, PICTURE)
MAX_METRICS_BYTES = 1 << 28
LATE = 20  # number of last updates in the reported mean loss; single batches are noisy
POINTS = 200  # maximum number of points in a line of losses
VALIDATION = "validation_return"
PARTS = ("train", "agent", "source")  # sections of settings in train.json
LEAVE_OUT = "leave the run out"


class TrainingRun(NamedTuple):
    """Settings and metrics of one training run."""

    name: str
    folder: Path
    method: str
    env_id: str
    settings: dict[str, Any]  # settings of training, method and, as "source.<name>", source
    rows: list[dict[str, Any]]  # metrics of each update
    finished: bool

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Updates (N,) with a value of a metric, and the values (N,)."""
        found = [(row["update"], row[name]) for row in self.rows if name in row]
        return np.array([update for update, _ in found], int), np.array([value for _, value in found], float)


class Summary(NamedTuple):
    """One row of the table; None for missing measurements."""

    run: str
    method: str
    env: str
    seed: int
    updates: int  # finished updates
    planned: int  # configured updates
    finished: bool
    seconds: float | None
    loss: float | None  # mean over the last `LATE` updates
    validation: float | None  # last in-context return on validation tasks
    best: float | None  # highest in-context return on validation tasks
    best_update: int | None
    random: float | None  # return of random play on the validation tasks
    optimum: float | None  # optimal return on the validation tasks
    settings: dict[str, Any]  # settings that differ between the runs


def read_runs(paths: Sequence[str | Path]) -> list[TrainingRun]:
    """Read run folders; a folder without `train.json` stands for the run folders in it, sorted by name.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: no path, or files that are not from `train`.
    """
    folders = list(dict.fromkeys(found for path in paths for found in _folders(Path(path).expanduser())))
    if not folders:
        raise ValueError("no run is given: name run folders, or a folder that holds some")
    count = Counter(folder.absolute().name for folder in folders)
    names = [f.absolute().name if count[f.absolute().name] == 1 else str(f) for f in folders]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _folders(path: Path) -> list[Path]:
    if (path / NOTE).is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: give the run folders that train wrote")
    found = sorted(note.parent for note in path.glob(f"*/{NOTE}"))
    if not found:
        raise FileNotFoundError(f"{path} has no {NOTE}, and no folder in it has: give the run folders that train wrote")
    return found


def _read(folder: Path, name: str) -> TrainingRun:
    note = read_json(folder / NOTE, fix=LEAVE_OUT)
    train, agent, source = (part if isinstance(part := note.get(key), dict) else {} for key in PARTS)
    method, env_id = note.get("method"), note.get("env_id")
    numbers = train.get("seed"), train.get("updates")
    if not isinstance(method, str) or not isinstance(env_id, str) or not all(type(n) is int for n in numbers):
        raise ValueError(f"{folder / NOTE} is not of a training run: {LEAVE_OUT}")
    of_source = {f"source.{key}": value for key, value in source.items()}
    settings = {**train, **agent, **of_source, "histories": note.get("histories")}
    return TrainingRun(name, folder, method, env_id, settings, list(_metrics(folder / METRICS)), is_finished(folder))


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a metrics file, the last one of each update; an incomplete last line is skipped."""
    if not os.path.lexists(path):  # a run before its first update
        return
    rows: dict[int, dict[str, Any]] = {}
    for line in read_bounded(path, MAX_METRICS_BYTES).split(b"\n")[:-1]:
        row = parse_json(line, path, LEAVE_OUT)
        if type(row.get("update")) is not int or not all(_is_number(value) for value in row.values()):
            raise ValueError(f"{path} has a line that is no update's metrics: {LEAVE_OUT}")
        rows[row["update"]] = row
    yield from (rows[update] for update in sorted(rows))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- the table --------------------------------------------------------------------------------------------------


def summarise(runs: Sequence[TrainingRun]) -> list[Summary]:
    """One row per run, with the settings that differ between runs, except the seed and the number of updates."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in ("seed", "updates"))
    different = [name for name in names if len({json.dumps(run.settings.get(name)) for run in runs}) > 1]
    return [_summary(run, {name: run.settings[name] for name in different if name in run.settings}) for run in runs]


def _summary(run: TrainingRun, different: dict[str, Any]) -> Summary:
    (updates, values), (_, losses) = run.column(VALIDATION), run.column("loss")
    best = int(values.argmax()) if len(values) else None
    return Summary(
        run=run.name,
        method=run.method,
        env=run.env_id,
        seed=run.settings["seed"],
        updates=run.rows[-1]["update"] if run.rows else 0,
        planned=run.settings["updates"],
        finished=run.finished,
        seconds=_last(run, "seconds"),
        loss=float(losses[-LATE:].mean()) if len(losses) else None,
        validation=_last(run, VALIDATION),
        best=None if best is None else float(values[best]),
        best_update=None if best is None else int(updates[best]),
        random=_last(run, "validation_random"),
        optimum=_last(run, "validation_optimal"),
        settings=different,
    )


def _last(run: TrainingRun, name: str) -> float | None:
    _, values = run.column(name)
    return float(values[-1]) if len(values) else None


def table(found: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, as text."""
    rows = [_cells(line) for line in found]
    return list(rows[0]), [list(row.values()) for row in rows]


def _cells(line: Summary) -> dict[str, str]:
    """A row of the table by the titles of its columns."""
    return {
        "run": line.run,
        "method": line.method,
        "env": line.env,
        "seed": str(line.seed),
        "updates": f"{line.updates}/{line.planned}",
        "state": "finished" if line.finished else "not finished",
        "seconds": _number(line.seconds, 0),
        "loss": _number(line.loss, 3),
        "validation": _number(line.validation),
        "best": _number(line.best) + ("" if line.best is None else f" at {line.best_update}"),
        "random": _number(line.random),
        "optimum": _number(line.optimum),
        "settings": " ".join(f"{name}={value}" for name, value in line.settings.items()),
    }


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def to_json(found: Sequence[Summary]) -> str:
    """Table as JSON text."""
    return json.dumps({"runs": [line._asdict() for line in found]}, indent=1) + "\n"


# ---- the figure -------------------------------------------------------------------------------------------------


def write_runs(runs: Sequence[TrainingRun], found: Sequence[Summary], folder: Path) -> None:
    """Write the table as JSON and the figure to a folder, both or none.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, {JSON: to_json(found).encode(), PICTURE: draw_runs(runs)})


def draw_runs(runs: Sequence[TrainingRun]) -> bytes:
    """PNG of loss and validation return against updates, one named line per run."""
    from icrl_agents.evaluation.figure import COLOURS, STYLES, new_figure, to_bytes, with_grid

    figure = new_figure((6.4, 6.4))
    top, bottom = figure.subplots(2, sharex=True)
    for number, run in enumerate(runs):
        look = {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}
        top.plot(*_thinned(*run.column("loss")), linewidth=1.4, label=run.name, **look)
        bottom.plot(*run.column(VALIDATION), linewidth=1.4, marker="o", markersize=3, **look)
    for value, style in zip(_references(runs), (":", "--"), strict=False):
        bottom.axhline(value, color="black", linestyle=style, linewidth=1)
    top.set_ylabel("loss")
    names = ("", " (random :)", " (random :, optimum --)")
    bottom.set_ylabel(f"validation return{names[len(_references(runs))]}")
    bottom.set_xlabel("update")
    for axes in (top, bottom):
        with_grid(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return to_bytes(figure)


def _thinned(updates: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of up to `POINTS` groups of consecutive updates: updates and values."""
    parts = max(1, min(POINTS, len(values)))
    pairs = zip(np.array_split(updates, parts), np.array_split(values, parts), strict=True)
    means = [(part.mean(), value.mean()) for part, value in pairs if len(part)]
    return np.array([x for x, _ in means]), np.array([y for _, y in means])


def _references(runs: Sequence[TrainingRun]) -> tuple[float, ...]:
    """(random, optimal) return on the validation tasks, as far as known, if all runs have the same; else ()."""
    found = {(_last(run, "validation_random"), _last(run, "validation_optimal")) for run in runs}
    pair = next(iter(found))
    return tuple(value for value in pair if value is not None) if len(found) == 1 else ()
