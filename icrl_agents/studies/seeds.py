"""Study of seeds: one training repeated over task splits and training seeds, for the variance of a result.

Every cell (split, seed) is a training run in `out/split<a>-seed<b>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_distinct, check_value
from icrl_agents.core.files.atomic import write_text
from icrl_agents.core.process.jobs.backends import Backend
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted
from icrl_agents.core.splits import TRAIN, split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.intervals import bootstrap, mean, share_of_optimum
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results import check_measured, include_rows
from icrl_agents.evaluation.results_table import SUCCESS_RATE, last_quarter, span_name, spans
from icrl_agents.hub.cards import Row
from icrl_agents.hub.checkpoint import read_config
from icrl_agents.studies.cells import Cell, run_cells, with_defaults
from icrl_agents.training.request import Given


def study(
    method: str,
    env_id: str,
    out: str | Path,
    *,
    splits: Sequence[int] = (0, 1, 2, 3, 4),
    seeds: Sequence[int] = (0, 1, 2),
    settings: dict[str, Any] | None = None,
    episodes: int | None = None,
    num_seeds: int | None = None,
    jobs: int | None = 1,
    backend: str | Backend = "local",
) -> dict[tuple[int, int], Curve]:
    """Train every combination of `splits` and `seeds`, and evaluate it on its held-out tasks.

    Args:
        method: a name in `METHODS`.
        env_id: environment id.
        out: folder of the cells and of the table, `study.json`.
        splits: seeds of the train/test split.
        seeds: training seeds.
        settings: as in `train`, the same for all cells.
        episodes: episodes in an evaluated lifetime; default as published.
        num_seeds: lifetimes on each test task; default `usual_seeds`.
        jobs: number of cells in parallel, each in its own process; None: the backend's default.
        backend: "local", "ray" or a `Backend`; machines of a cluster share the folder `out`.

    Returns:
        The test curve of every (split, seed).

    Raises:
        ValueError: a bad argument, or a cell in `out` of another method, environment, setting or evaluation.
    """
    check_value("jobs", "int | None", jobs, (1, 2**31 - 1))
    check_distinct("splits", splits)
    check_distinct("seeds", seeds)
    _check_settings(settings or {})
    spec = with_defaults(EvalSpec(episodes=episodes, num_seeds=num_seeds), split_tasks(env_id).test)
    out = Path(out).expanduser()
    cells = {}
    for seed in seeds:  # outside: an interrupted study has all splits of the first seed
        for split in splits:
            own = {**(settings or {}), "split_seed": split, "seed": seed}
            cells[split, seed] = Cell(method, env_id, out / f"split{split}-seed{seed}", own, spec)
    found = dict(zip(cells, run_cells(list(cells.values()), jobs, Backend.of(backend)), strict=True))
    note = {
        "env_id": env_id,
        "method": method,
        "splits": list(splits),
        "seeds": list(seeds),
        "settings": Given.of(settings).settings,
        "episodes": spec.episodes,
        "num_seeds": spec.num_seeds,
        "versions": versions(),
        "table": [row._asdict() for row in study_table(found)],
    }
    write_text(out / "study.json", json.dumps(note, indent=1) + "\n")
    return found


def _check_settings(settings: Mapping[str, Any]) -> None:
    """ValueError for settings that the study varies, or that leave nothing to split."""
    if fixed := {"split_seed", "seed"} & settings.keys():
        raise ValueError(f"a study varies {' and '.join(sorted(fixed))} itself: give splits and seeds instead")
    if (task_set := settings.get("task_set", TRAIN)) != TRAIN:
        raise ValueError(
            f"task_set={task_set!r} is not split again, as a study does: train it with each --seed instead"
        )


def check_card(folder: str | Path, method: str, env_id: str) -> None:
    """ValueError for an agent to whose card a study does not belong: not measured, of another method or environment."""
    check_measured([str(folder)], env_id, "--into")
    if (theirs := read_config(Path(folder).expanduser()).method) != method:
        raise ValueError(f"--into {folder} is an agent of {theirs}, the study is of {method}: give one of {method}")


def include(folder: str | Path, curves: dict[tuple[int, int], Curve]) -> None:
    """Add the study's rows to the results and the card of a measured checkpoint.

    Raises:
        FileNotFoundError: the folder has no results yet.
        ValueError: its results were measured on other weights.
    """
    include_rows(folder, study_table(curves))


class Grid(NamedTuple):
    """The curves of all splits with each training seed in turn."""

    splits: list[int]
    seeds: list[int]
    curves: list[Curve]

    def __str__(self) -> str:
        return f"{counted(len(self.splits), 'split')} x {counted(len(self.seeds), 'training seed')}"


def study_table(curves: dict[tuple[int, int], Curve]) -> list[Row]:
    """Rows of means over all cells with their bootstrap 95% interval, and of the worst cell.

    Splits are resampled, then the trainings on each: those on the same split share its tasks, so they tell less than as
    many on splits of their own. Shares of the optimum are left out where it is not known, and successes where none were
    recorded.
    """
    splits, seeds = (list(dict.fromkeys(column)) for column in zip(*curves, strict=True))
    grid = Grid(splits, seeds, [curves[split, seed] for seed in seeds for split in splits])
    known = all(np.isfinite(curve.share(1)).all() for curve in grid.curves)
    rows = []
    for span in spans(min(curve.runs.shape[2] for curve in grid.curves)):
        earned = [curve.at(*span).value for curve in grid.curves]
        rows.append(_row(grid, f"mean return, {span_name(*span)}", earned))
        if known:  # one optimum per cell: optima differ between splits
            shares = [
                float(share_of_optimum(value, curve.random.mean(), curve.optimal.mean()))
                for value, curve in zip(earned, grid.curves, strict=True)
            ]
            rows.append(_row(grid, f"share of optimum, {span_name(*span)}", shares, "share of optimum"))
    return [*rows, *_successes(grid), *(_worst(str(grid), curves, span) if known else [])]


def _successes(grid: Grid) -> list[Row]:
    """Rows of the success rates over cells."""
    if any(curve.success is None for curve in grid.curves):
        return []
    last = min(curve.runs.shape[2] for curve in grid.curves)
    span = last_quarter(last)
    rates = [curve.success_rate.at(*span).value for curve in grid.curves]
    best = [curve.best_so_far.at(last).value for curve in grid.curves]
    return [
        _row(grid, f"success, {span_name(*span)}", rates, SUCCESS_RATE),
        _row(grid, f"best-so-far success, {span_name(last, last)}", best, SUCCESS_RATE),
    ]


def _worst(name: str, curves: dict[tuple[int, int], Curve], span: tuple[int, int]) -> list[Row]:
    """Row of the worst task of all cells at the end of the lifetime."""
    worst = {cell: float(curve.share(*span).min()) for cell, curve in curves.items()}
    split, seed = min(worst, key=lambda cell: worst[cell])
    value, note = round(worst[split, seed], 4), f"split seed {split}, training seed {seed}"
    return [Row(f"{name}: worst task of all, {span_name(*span)}", value, unit="share of optimum", note=note)]


def _row(grid: Grid, what: str, values: Sequence[float], unit: str = "return") -> Row:
    scores = np.reshape(values, (len(grid.seeds), len(grid.splits)))  # resampled as lifetimes of tasks are
    value, low, high = (round(number, 4) for number in bootstrap(mean, scores))
    note = f"cells from {min(values):.2f} to {max(values):.2f}"
    return Row(f"{grid}: {what}", value, low, high, unit, note, over=str(grid))
