"""The same training on several task splits and with several training seeds: how far a result can be trusted.

Every cell (split, seed) is a training run of its own in `out/split<a>-seed<b>`; a study that was interrupted
continues with the cells, and within a cell with the updates, that are missing.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.atomic import write_text
from icrl_agents.cards import Row
from icrl_agents.evaluation import Curve, bootstrap_mean
from icrl_agents.report import EPISODES, SEEDS, include_rows, span_name, spans
from icrl_agents.run_folder import MODEL, NOTE, read_started, versions

CURVE = "curve.json"


class Cell(NamedTuple):
    """One training run of a study."""

    method: str
    env_id: str
    out: Path
    split: int
    seed: int
    settings: dict[str, Any]
    episodes: int
    num_seeds: int

    @property
    def folder(self) -> Path:
        return self.out / f"split{self.split}-seed{self.seed}"

    @property
    def all_settings(self) -> dict[str, Any]:
        return {**self.settings, "split_seed": self.split, "seed": self.seed}


def study(
    method: str,
    env_id: str,
    out: str | Path,
    *,
    splits: Sequence[int] = (0, 1, 2, 3, 4),
    seeds: Sequence[int] = (0, 1, 2),
    settings: dict[str, Any] | None = None,
    episodes: int = EPISODES,
    num_seeds: int = SEEDS,
    jobs: int = 1,
) -> dict[tuple[int, int], Curve]:
    """Train and evaluate on the held-out tasks every combination of `splits` and `seeds`.

    Args:
        splits: seeds of the train/test split.
        seeds: of the training.
        settings: as of `train`, the same for all cells.
        episodes, num_seeds: of each evaluation.
        jobs: cells at a time, each in a process of its own.

    Returns:
        The test curve of every (split, seed). `out/study.json` gets the table.

    Raises:
        ValueError: a cell in `out` was made with another method, environment, setting or evaluation.
    """
    if jobs < 1 or not splits or not seeds:
        raise ValueError(f"jobs={jobs}, splits={list(splits)}, seeds={list(seeds)}: give at least one of each")
    fixed = {"split_seed", "seed"} & set(settings or {})
    if fixed:
        raise ValueError(f"a study varies {' and '.join(sorted(fixed))} itself: give splits and seeds instead")
    out = Path(out).expanduser()
    cells = [
        Cell(method, env_id, out, split, seed, settings or {}, episodes, num_seeds)
        for seed in seeds
        for split in splits
    ]
    for cell in cells:  # before the first of them trains for minutes
        check_cell(cell)
    if jobs == 1:
        curves = [run_cell(cell) for cell in cells]
    else:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            curves = list(pool.map(run_cell, cells))
    found = {(cell.split, cell.seed): curve for cell, curve in zip(cells, curves, strict=True)}
    table = [row._asdict() for row in study_table(found)]
    note = {
        "env_id": env_id,
        "method": method,
        "splits": list(splits),
        "seeds": list(seeds),
        "settings": settings or {},
        "episodes": episodes,
        "num_seeds": num_seeds,
        "versions": versions(),
        "table": table,
    }
    write_text(out / "study.json", json.dumps(note, indent=1) + "\n")
    return found


def include(folder: str | Path, curves: dict[tuple[int, int], Curve]) -> None:
    """Put the study's rows into the results and the card of a checkpoint that was measured before.

    Raises:
        FileNotFoundError: the folder has no results yet.
        ValueError: its results were measured on other weights.
    """
    include_rows(folder, study_table(curves))


def check_cell(cell: Cell) -> None:
    """Refuse what an earlier study left in the cell's folder if it is not what this one asks for.

    Settings that are not given now are not compared: they are the recipe's, whatever it was then.
    """
    done = cell.folder / CURVE
    if not (cell.folder / NOTE).is_file():
        if done.is_file() or (cell.folder / MODEL).is_file():
            raise ValueError(f"{cell.folder} has no {NOTE} that says how it was trained: give another folder")
        return
    try:
        histories, _ = read_started(cell.folder, cell.method, cell.env_id, None, cell.all_settings)
    except ValueError as error:
        raise ValueError(f"{str(error).rsplit(': ', 1)[0]}: give the study another folder") from None
    found = {"histories": histories}
    wanted: dict[str, Any] = {"histories": None}
    if done.is_file():
        curve = Curve.load(done)
        found |= {"env_id": curve.env_id, "split": curve.split, **curve.facts}
        evaluation = {"episodes": cell.episodes, "num_seeds": cell.num_seeds, "seed": 0}
        wanted |= {"env_id": cell.env_id, "split": "test", **evaluation}
    for name, value in wanted.items():
        if (before := found.get(name)) != value:
            raise ValueError(f"{name}={value!r}, but {cell.folder} has {before!r}: give the study another folder")


def run_cell(cell: Cell) -> Curve:
    """Train unless that was done, evaluate unless that was done."""
    from icrl_agents.agent import ICAgent
    from icrl_agents.evaluation import evaluate
    from icrl_agents.training import train

    done = cell.folder / CURVE
    if done.is_file():
        return Curve.load(done)
    if not (cell.folder / MODEL).is_file():
        begun = (cell.folder / NOTE).is_file()
        train(cell.method, cell.env_id, cell.folder, settings=cell.all_settings, resume=begun, quiet=True)
    agent = ICAgent.from_pretrained(cell.folder)
    curve = evaluate(agent, cell.env_id, "test", cell.episodes, cell.num_seeds)
    curve.save(done)
    return curve


def study_table(curves: dict[tuple[int, int], Curve]) -> list[Row]:
    """Rows of means over all cells, their bootstrap 95% interval over cells, and the worst cell."""
    splits, seeds = (len(set(column)) for column in zip(*curves, strict=True))
    name = f"{splits} split{'s' * (splits > 1)} x {seeds} training seeds"
    rows = []
    for span in spans(min(curve.runs.shape[2] for curve in curves.values())):
        rows.append(_row(f"{name}: mean return, {span_name(*span)}", [c.at(*span).value for c in curves.values()]))
        shares = [c.at(*span).value / c.optimal.mean() for c in curves.values()]
        rows.append(_row(f"{name}: share of optimum, {span_name(*span)}", shares, "share of optimum"))
    worst = {cell: float(curve.share(*span).min()) for cell, curve in curves.items()}
    split, seed = min(worst, key=lambda cell: worst[cell])
    note = f"split seed {split}, training seed {seed}"
    rows.append(
        Row(
            f"{name}: worst task of all, {span_name(*span)}",
            round(worst[split, seed], 4),
            unit="share of optimum",
            note=note,
        )
    )
    return rows


def _row(name: str, values: Sequence[float], unit: str = "return") -> Row:
    value, low, high = (round(number, 4) for number in bootstrap_mean(values))
    return Row(name, value, low, high, unit, f"cells from {min(values):.2f} to {max(values):.2f}")
