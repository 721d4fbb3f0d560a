"""The value of a memory beside a longer window: AD and CAD, trained the same way, on lifetimes of many windows.

All agents have the same lifetimes, updates and seeds, and learn from about as many steps in an update: AD from all
steps of its windows, CAD from those decided after its newest folds, which all of the life before has led to. That takes
longer, and the results say how long. With one training seed their intervals are about that one training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_value, whole
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.plots import draw_sizes, require_matplotlib
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results import dump_results
from icrl_agents.evaluation.results_table import LAST, span_name
from icrl_agents.hub.checkpoint import read_config
from icrl_agents.studies.cells import Cell, run_cells
from icrl_agents.studies.windows.designs import Design, Plan

JSON, PICTURE = "windows.json", "windows.png"
EPISODES, TASKS, RUNS = 100, 32, 4  # of a lifetime; of those that are measured, at most; lifetimes on each


class Measured(NamedTuple):
    """What became of a design: the test curve over all training seeds, and how long their trainings took."""

    design: Design
    curve: Curve
    seconds: float
    gain: Interval | None  # in the last episodes over AD with the same window; None of AD

    @property
    def last(self) -> Interval:
        return self.curve.at(*_end(self.curve))

    @property
    def whole(self) -> Interval:
        return self.curve.at(1, self.curve.runs.shape[2])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an optimum that the environment does not tell is null."""
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
    jobs: int = 1,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Measured]:
    """Train every design of `make_plan` with every seed, and measure it on held-out tasks.

    Every training has a folder of its own in `out`, `<design>-seed<number>`; what an interrupted study lacks is done
    when it is called again. In the end `out` gets `windows.json` and `windows.png`.

    Args:
        seeds: of the training.
        spec: of the measurement on the test split; all its numbers are needed.
        jobs: trainings at a time, each in a process of its own.
        on_done: called with the number of trainings that are done and measured.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a bad value, or `out` holds agents that were trained or measured otherwise.
    """
    require_matplotlib()
    episodes, num_seeds, tasks = (whole(name, getattr(spec, name), 1) for name in ("episodes", "num_seeds", "tasks"))
    check_value("jobs", "int", jobs, (1, 2**31 - 1))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)}: give at least one, each once")
    out = Path(out).expanduser()
    cells = [
        Cell(
            design.method,
            plan.env_id,
            out / f"{design.name}-seed{seed}",
            {**plan.settings, **asdict(design.config), "batch_size": design.batch_size, "seed": seed},
            episodes,
            num_seeds,
            tasks,
        )
        for design in plan.designs
        for seed in seeds
    ]
    curves = []
    for curve in run_cells(cells, jobs):
        curves.append(curve)
        on_done(len(curves))
    found = _measured(plan.designs, cells, curves)
    results = {
        "env_id": plan.env_id,
        "split": "test",
        "tasks": found[0].curve.tasks,
        "episodes": episodes,
        "last": _end(found[0].curve),  # episodes, first and last
        "num_seeds": num_seeds,
        "seeds": list(seeds),
        "settings": plan.settings,
        "versions": versions(),
        "left_out": [{"window": window, "latents": count} for window, count in plan.left_out],
        "cells": [measured.to_json() for measured in found],
    }
    write_files(out, {JSON: dump_results(results).encode(), PICTURE: draw(found)})
    return found


def _measured(designs: Sequence[Design], cells: Sequence[Cell], curves: Sequence[Curve]) -> list[Measured]:
    """Of every design, whose cells follow each other."""
    found: list[Measured] = []
    plain: dict[int, Curve] = {}  # AD's by window, which come first
    trainings = len(cells) // len(designs)
    for number, design in enumerate(designs):
        own = slice(number * trainings, (number + 1) * trainings)
        curve = Curve.join(curves[own], design.line)
        seconds = [read_config(cell.folder)["facts"]["seconds"] for cell in cells[own]]
        rival = plain.setdefault(design.window, curve)
        gain = curve.gain(rival, *_end(curve)) if design.latents else None
        found.append(Measured(design, curve, round(float(np.mean(seconds)), 1), gain))
    return found


def _end(curve: Curve) -> tuple[int, int]:
    episodes = curve.runs.shape[2]
    return max(1, episodes - LAST + 1), episodes


def draw(found: Sequence[Measured]) -> bytes:
    """A PNG of the return at the end of a lifetime against the window: lines for AD and each number of latents."""
    first = found[0].curve
    lines: dict[str, dict[int, Interval]] = {}
    for measured in found:
        lines.setdefault(measured.design.line, {})[measured.design.window] = measured.last
    tasks = counted(len(first.tasks), f"{first.split} task")
    title = f"{first.env_id}, {tasks}, equal parameters"
    start, end = _end(first)
    ylabel = f"mean return, {span_name(start, end)}"
    levels = float(first.optimal.mean()), float(first.random.mean())
    xlabel, about = "window (visible steps, the place of latents included)", f"95% intervals over {first.sample}"
    return draw_sizes(lines, *levels, title, xlabel, ylabel, about)


def table(found: Sequence[Measured]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, as text."""
    start, end = _end(found[0].curve)
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
