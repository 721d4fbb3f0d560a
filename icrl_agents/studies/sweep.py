"""Sweep: one training for each combination of settings and seed, each as a job of its own, and one JSON of results.

Every cell is a training run in `out/<setting>=<value>-...-seed<n>`, the same as `train` alone makes. Settings are
compared on the validation tasks by default: a choice among them on the test tasks would be measured too high.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.core.checks import check_distinct, check_value
from icrl_agents.core.families import TaskSet
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.jobs.backends import Backend
from icrl_agents.core.process.packages import versions
from icrl_agents.core.splits import TRAIN, split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results_table import last_episodes, span_name
from icrl_agents.histories.shards import Paths
from icrl_agents.studies.cells import Cell, run_cells, with_defaults
from icrl_agents.training.request import Given
from icrl_agents.training.run_folder import note_files, stored_files

JSON, PICTURE = "sweep.json", "sweep.png"
VALIDATION = EvalSpec(split="validation")


@dataclass(frozen=True)
class Grid:
    """What is trained: a method in an environment, with every combination of the values of some settings and seeds.

    Args:
        settings: as in `train`, the same for all cells.
        values: settings that vary, and the values of each.
        seeds: training seeds.
        histories: files to train on, as in `train`; None: fresh lifetimes.

    Raises:
        ValueError: nothing to train, a value or seed twice, or a setting that is given as fixed and as varied.
    """

    method: str
    env_id: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    histories: Paths | None = None

    def __post_init__(self) -> None:
        for name, values in {**self.values, "seeds": self.seeds}.items():
            check_distinct(name, values)
        if "seed" in {*self.settings, *self.values}:
            raise ValueError("seed varies by itself: give seeds instead")
        if both := sorted(set(self.settings) & set(self.values)):
            raise ValueError(f"{both[0]}={self.settings[both[0]]!r} is fixed and varied: give it once")

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the values that vary; one that is empty if none do."""
        return [dict(zip(self.values, chosen, strict=True)) for chosen in itertools.product(*self.values.values())]

    def cells(self, out: Path, spec: EvalSpec) -> list[list[Cell]]:
        """The cells of each point, one for each seed."""
        spec = with_defaults(spec, self.measured(spec))
        files = None if self.histories is None else tuple(stored_files(self.histories))
        return [
            [
                Cell(
                    self.method,
                    self.env_id,
                    out / folder_name(point, seed),
                    {**self.settings, **point, "seed": seed},
                    spec,
                    files,
                )
                for seed in self.seeds
            ]
            for point in self.points()
        ]

    def measured(self, spec: EvalSpec) -> TaskSet:
        """The tasks of the measurement; ValueError where a setting that varies changes them."""
        settings = [{**self.settings, **point} for point in self.points()]
        sets = [
            split_tasks(self.env_id, one.get("split_seed"), one.get("task_set", TRAIN)).pick(spec.split)
            for one in settings
        ]
        if len({tuple(found.ids.tolist()) for found in sets}) > 1:
            varied = next(name for name in ("split_seed", "task_set") if name in self.values)
            raise ValueError(f"{varied} changes the {spec.split} tasks, and points are compared on the same: fix it")
        return sets[0]


def folder_name(point: Mapping[str, Any], seed: int) -> str:
    """Name of a cell's folder, such as lr=0.001-width=64-seed0."""
    words = [f"{name}={value}" for name, value in point.items()]
    return "-".join(re.sub(r"[^\w.=+-]", "_", word) for word in [*words, f"seed{seed}"])


class Measured(NamedTuple):
    """Results of a point over its seeds."""

    point: dict[str, Any]
    cells: list[Cell]
    curves: list[Curve]  # one for each cell

    @property
    def joined(self) -> Curve:
        return Curve.join(self.curves, "agent")

    def last(self, curve: Curve | None = None) -> Interval:
        """Mean return at the end of a lifetime, over all seeds or of one curve."""
        return (curve or self.joined).at(*last_episodes(self.curves[0].runs.shape[2]))

    def to_json(self) -> dict[str, Any]:
        episodes = self.curves[0].runs.shape[2]
        return {
            "settings": self.point,
            "last": self.last()._asdict(),
            "whole": self.joined.at(1, episodes)._asdict(),
            "seeds": [
                {"seed": cell.settings["seed"], "folder": cell.folder.name, "last": self.last(curve)._asdict()}
                for cell, curve in zip(self.cells, self.curves, strict=True)
            ],
        }


def sweep(
    grid: Grid,
    out: str | Path,
    *,
    spec: EvalSpec = VALIDATION,
    jobs: int | None = 1,
    backend: str | Backend = "local",
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Measured]:
    """Train every cell of a grid and measure it; called again, it continues.

    Writes `sweep.json` into `out`, and the figure `sweep.png` if matplotlib is installed and a number varies.

    Args:
        spec: of the measurement; numbers that are None as in `study`.
        jobs: trainings at a time; None: the backend's default.
        backend: "local", "ray", "slurm" or a `Backend`; machines of a cluster share the folder `out`.
        on_done: called with the number of trainings that are done and measured.

    Returns:
        Results of every point, best first.

    Raises:
        ValueError: a bad value, or `out` has agents of another training or evaluation.
    """
    check_value("jobs", "int | None", jobs, (1, 2**31 - 1))
    points = grid.cells(Path(out).expanduser(), spec)
    cells = [cell for point in points for cell in point]
    if len({cell.folder for cell in cells}) < len(cells):
        raise ValueError(f"values of {', '.join(grid.values)} have the same folder: give shorter or plainer ones")
    curves = []
    for curve in run_cells(cells, jobs, Backend.of(backend)):
        curves.append(curve)
        on_done(len(curves))
    count = len(grid.seeds)
    parts = [curves[place : place + count] for place in range(0, len(curves), count)]
    found = [Measured(*one) for one in zip(grid.points(), points, parts, strict=True)]
    found.sort(key=lambda measured: measured.last().value, reverse=True)
    files = {JSON: (json.dumps(_note(grid, cells[0], found), indent=1) + "\n").encode()}
    axis = next((name for name, values in grid.values.items() if len(values) > 1 and numeric(values)), None)
    if axis and importlib.util.find_spec("matplotlib"):
        files[PICTURE] = draw(found, axis)
    write_files(cells[0].folder.parent, files)
    return found


def numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def draw(found: Sequence[Measured], axis: str) -> bytes:
    """PNG of the mean return at the end of a lifetime against the setting `axis`, one line for each of the others."""
    from icrl_agents.evaluation.figure import COLOURS, new_figure, to_bytes, with_grid

    lines: dict[str, list[Measured]] = {}
    for one in sorted(found, key=lambda one: one.point[axis]):
        others = ", ".join(f"{name}={value}" for name, value in one.point.items() if name != axis)
        lines.setdefault(others, []).append(one)
    figure = new_figure()
    axes = figure.subplots()
    for number, (name, line) in enumerate(lines.items()):
        x, spans = [one.point[axis] for one in line], [one.last() for one in line]
        values, colour = [span.value for span in spans], COLOURS[number % len(COLOURS)]
        axes.plot(x, values, marker="o", markersize=4, color=colour, label=name)
        axes.fill_between(x, [span.low for span in spans], [span.high for span in spans], alpha=0.15, color=colour)
    positive = [one.point[axis] for one in found if one.point[axis] > 0]
    if len(positive) == len(found) and max(positive) >= 10 * min(positive):
        axes.set_xscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel(f"mean return, {found[0].curves[0].split} tasks")
    with_grid(axes)
    if any(lines):
        axes.legend(frameon=False, fontsize=9)
    return to_bytes(figure)


def _note(grid: Grid, cell: Cell, found: Sequence[Measured]) -> dict[str, Any]:
    return {
        "env_id": grid.env_id,
        "method": grid.method,
        "settings": Given.of(grid.settings).settings,
        "histories": note_files(cell.histories),
        "seeds": list(grid.seeds),
        "split": cell.spec.split,
        "tasks": found[0].curves[0].tasks,
        "episodes": cell.spec.episodes,
        "num_seeds": cell.spec.num_seeds,
        "seed": cell.spec.seed,
        "demos": found[0].curves[0].facts.get("demos", 0),
        "versions": versions(),
        "points": [measured.to_json() for measured in found],
    }


def table(found: Sequence[Measured]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the results, best first, as text."""
    first = found[0].curves[0]
    span = span_name(*last_episodes(first.runs.shape[2]))
    header = (*found[0].point, "seeds", f"mean return, {span}, {first.split} tasks", "of the seeds")
    rows: list[tuple[str, ...]] = []
    for measured in found:
        each = ", ".join(f"{measured.last(curve).value:.2f}" for curve in measured.curves)
        rows.append((*map(str, measured.point.values()), str(len(measured.cells)), str(measured.last()), each))
    return header, rows
