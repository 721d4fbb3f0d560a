"""Window study: memory (CAD) against a longer window (AD), trained equally, on lifetimes of many windows.

All agents have the same lifetimes, updates and seeds, and about as many steps with a loss per update: AD all steps of
its windows, CAD those after its newest folds, conditioned on the whole lifetime so far. CAD takes longer; the results
state the training times. With one training seed the intervals ignore the variation between trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_distinct, check_value, whole
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.jobs.backends import Backend
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.figure import require_matplotlib
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results import dump_results
from icrl_agents.evaluation.results_table import LAST, last_episodes, span_name
from icrl_agents.hub.checkpoint import read_config
from icrl_agents.studies.cells import Cell, run_cells
from icrl_agents.studies.panels import draw_sizes
from icrl_agents.studies.windows.designs import Design, Plan

JSON, PICTURE = "windows.json", "windows.png"
EPISODES, TASKS, RUNS = 100, 32, 4  # episodes in a lifetime, maximum number of test tasks, lifetimes on each


class Measured(NamedTuple):
    """Results of a design: test curve over all training seeds, and mean training time."""

    design: Design
    curve: Curve
    seconds: float
    end: tuple[int, int]  # the last episodes, first and last number
    gain: Interval | None  # return in the last episodes minus that of AD with the same window; None for AD

    @property
    def last(self) -> Interval:
        return self.curve.at(*self.end)

    @property
    def whole(self) -> Interval:
        return self.curve.at(1, self.curve.runs.shape[2])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with null for an unknown optimum."""
        design, optimal = self.design, float(self.curve.optimal.mean())
        returns = {"last": self.last, "whole": self.whole, "gain": self.gain}
        return {
            "name": design.name,
            "method": design.method,
            "window": design.window,
            "latents": design.latents,
            "parameters": design.parameters,
            "batch_size": design.batch_size,
            "seconds": self.seconds,
            **{name: value and value._asdict() for name, value in returns.items()},
            "optimal": None if math.isnan(optimal) else optimal,
            "random": float(self.curve.random.mean()),
            "config": asdict(design.config),
        }


def study_windows(
    plan: Plan,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    spec: EvalSpec = EvalSpec(episodes=EPISODES, num_seeds=RUNS, tasks=TASKS),
    last: int = LAST,
    jobs: int | None = 1,
    backend: str | Backend = "local",
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Measured]:
    """Train every design of `make_plan` with every seed, and measure it on held-out tasks.

    Every training has its own folder in `out`, `<design>-seed<number>`; a second call continues an interrupted study.
    At the end `out` gets `windows.json` and `windows.png`.

    Args:
        seeds: of the training.
        spec: of the measurement; episodes, lifetimes and tasks are needed.
        last: number of episodes at the end of a lifetime that are compared.
        jobs: trainings at a time, each in a process of its own; None: the backend's default.
        backend: "local", "ray" or a `Backend`; machines of a cluster share the folder `out`.
        on_done: called with the number of trainings that are done and measured.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a bad value, or `out` has agents of another training or evaluation.
    """
    require_matplotlib()
    episodes, num_seeds, tasks = (whole(name, getattr(spec, name), 1) for name in ("episodes", "num_seeds", "tasks"))
    check_value("jobs", "int | None", jobs, (1, 2**31 - 1))
    end = last_episodes(episodes, whole("last", last, 1))
    check_distinct("seeds", seeds)
    out = Path(out).expanduser()
    cells = [
        Cell(
            design.method,
            plan.env_id,
            out / f"{design.name}-seed{seed}",
            {**plan.settings, **asdict(design.config), "batch_size": design.batch_size, "seed": seed},
            spec._replace(episodes=episodes, num_seeds=num_seeds, tasks=tasks),
        )
        for design in plan.designs
        for seed in seeds
    ]
    curves = []
    for curve in run_cells(cells, jobs, Backend.of(backend)):
        curves.append(curve)
        on_done(len(curves))
    found = _measured(plan.designs, cells, curves, end)
    results = {
        "env_id": plan.env_id,
        "split": spec.split,
        "tasks": found[0].curve.tasks,
        "episodes": episodes,
        "last": end,  # episodes, first and last
        "num_seeds": num_seeds,
        "seed": spec.seed,
        "seeds": list(seeds),
        "settings": plan.settings,
        "versions": versions(),
        "left_out": [{"window": window, "latents": count} for window, count in plan.left_out],
        "cells": [measured.to_json() for measured in found],
    }
    write_files(out, {JSON: dump_results(results).encode(), PICTURE: draw(found)})
    return found


def _measured(
    designs: Sequence[Design], cells: Sequence[Cell], curves: Sequence[Curve], end: tuple[int, int]
) -> list[Measured]:
    """Results of every design; `cells` and `curves` are grouped by design."""
    found: list[Measured] = []
    plain: dict[int, Curve] = {}  # AD's curves by window; AD's designs come first
    trainings = len(cells) // len(designs)
    for number, design in enumerate(designs):
        own = slice(number * trainings, (number + 1) * trainings)
        curve = Curve.join(curves[own], design.line)
        seconds = [read_config(cell.folder).facts["seconds"] for cell in cells[own]]
        rival = plain.setdefault(design.window, curve)
        gain = curve.gain(rival, *end) if design.latents else None
        found.append(Measured(design, curve, round(float(np.mean(seconds)), 1), end, gain))
    return found


def draw(found: Sequence[Measured]) -> bytes:
    """PNG of the return at the end of a lifetime against the window, one line for AD and each number of latents."""
    first = found[0].curve
    lines: dict[str, dict[int, Interval]] = {}
    for measured in found:
        lines.setdefault(measured.design.line, {})[measured.design.window] = measured.last
    tasks = counted(len(first.tasks), f"{first.split} task")
    title = f"{first.env_id}, {tasks}, equal parameters"
    ylabel = f"mean return, {span_name(*found[0].end)}"
    levels = float(first.optimal.mean()), float(first.random.mean())
    xlabel, about = "window (visible steps, the place of latents included)", f"95% intervals over {first.sample}"
    return draw_sizes(lines, *levels, title, xlabel, ylabel, about)


def table(found: Sequence[Measured]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the results table, as text."""
    start, end = found[0].end
    header = ("agent", "window", "parameters", span_name(start, end), "more than ad", f"episodes 1-{end}", "training")
    rows: list[tuple[str, ...]] = [
        (
            measured.design.line,
            str(measured.design.window),
            f"{measured.design.parameters:,}",
            str(measured.last),
            "" if measured.gain is None else str(measured.gain),
            str(measured.whole),
            f"{measured.seconds:.0f} s",
        )
        for measured in found
    ]
    return header, rows
