"""Figures of curves: return, regret or success against in-context episode, with random and optimal references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.terminal import counted
from icrl_agents.evaluation.figure import (
    COLOURS,
    GREY,
    add_legend,
    new_figure,
    optimal_line,
    picture_kind,
    random_line,
    to_bytes,
    to_png,
    with_grid,
)
from icrl_agents.evaluation.intervals import Scores, bootstrap, mean
from icrl_agents.evaluation.protocol import MEASURES, RETURN

WIDTH, THINNEST = 2.6, 1.2  # line widths, decreasing: earlier lines stay visible below later ones


class Plotted(Protocol):
    """Part of `Curve` that figures read. Axis letters: R runs, N tasks, E episodes, T steps of an episode."""

    @property
    def env_id(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def tasks(self) -> tuple[int, ...]: ...
    @property
    def runs(self) -> np.ndarray: ...  # (R, N, E)
    @property
    def optimal(self) -> np.ndarray: ...  # (N,)
    @property
    def random(self) -> np.ndarray: ...  # (N,)
    @property
    def pace(self) -> np.ndarray | None: ...  # (T,)
    @property
    def trainings(self) -> int: ...
    def measured(self, measure: str) -> Scores: ...
    def renamed(self, name: str) -> Self: ...


def plot_curves(curves: Sequence[Plotted], path: str | Path, measure: str = RETURN) -> None:
    """Plot curves into one file, atomically; its suffix is .png, .svg or .pdf.

    Each line is the mean over tasks and runs with its bootstrap 95% interval; the legend names the resampled levels.
    The random and optimal lines belong to the first curve. Curves with a name that starts with "source" are grey. If
    lifetimes are single episodes, the figure shows cumulative regret by step (cumulative reward without a known
    optimum), with the interval of the whole episode at its end.

    Args:
        measure: one of `MEASURES`; shares of successes are drawn by episode, without random and optimal lines.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no curve, curves of several environments, another suffix or measure, or no success in a curve.
    """
    path = Path(path).expanduser()
    picture = draw_curves(curves, picture_kind(path), measure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files(path.parent, {path.name: picture})


def draw_curves(curves: Sequence[Plotted], kind: str = "png", measure: str = RETURN) -> bytes:
    """The figure of `plot_curves` as the bytes of a file of that kind ("png", "svg" or "pdf")."""
    figure = new_figure()
    if not curves or len({curve.env_id for curve in curves}) > 1:
        raise ValueError(f"cannot draw curves of {sorted({curve.env_id for curve in curves})}: give those of one id")
    axes = figure.add_subplot()
    fill_curves(axes, told_apart(curves), measure)
    add_legend(figure, [axes], f"95% intervals over {curves[0].measured(measure).sample}")
    return to_png(figure) if kind == "png" else to_bytes(figure, kind)


def told_apart(curves: Sequence[Plotted]) -> list[Plotted]:
    """Curves with unique names: duplicates get their origin, else their split, else a number."""
    curves = _with_details(curves, [curve.origin for curve in curves])
    curves = _with_details(curves, [curve.split for curve in curves])
    names = [curve.name for curve in curves]
    return _with_details(curves, [str(names[: place + 1].count(name)) for place, name in enumerate(names)])


def _with_details(curves: Sequence[Plotted], details: Sequence[str]) -> list[Plotted]:
    """Append its detail to a curve's name if another curve has the same name and a different detail."""
    of_name: dict[str, set[str]] = {}
    for curve, detail in zip(curves, details, strict=True):
        of_name.setdefault(curve.name, set()).add(detail)
    return [
        curve.renamed(f"{curve.name} ({detail})") if detail and len(of_name[curve.name]) > 1 else curve
        for curve, detail in zip(curves, details, strict=True)
    ]


def fill_curves(axes: Any, curves: Sequence[Plotted], measure: str = RETURN) -> None:
    inside = measure == RETURN and _live_one_episode(curves)
    draw = _lines_inside if inside else partial(_line, measure)
    colours = iter(COLOURS * len(curves))
    for number, curve in enumerate(curves):
        if curve.tasks != curves[0].tasks and measure == RETURN:
            curve = curve.renamed(f"{curve.name} (optimal {curve.optimal.mean():.2f})")
        source = curve.name.startswith("source")
        width = max(THINNEST, WIDTH - 0.7 * number)
        draw(axes, curve, GREY if source else next(colours), "-." if source else "-", width)
    if inside:
        _random_inside(axes, curves[0])
    elif measure == RETURN:
        optimal_line(axes, float(curves[0].optimal.mean()))
        random_line(axes, float(curves[0].random.mean()))
    axes.set_title(f"{curves[0].env_id}, {counted(len(curves[0].tasks), f'{curves[0].split} task')}", fontsize=11)
    axes.set_xlabel("step of the only episode (weights frozen)" if inside else "in-context episode (weights frozen)")
    axes.set_ylabel(_so_far_of(curves[0]) if inside else MEASURES[measure])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(1, None if inside else max(2, *(curve.runs.shape[2] for curve in curves)))
    axes.set_ylim(*((min(0.0, axes.get_ylim()[0]), None) if measure == RETURN else (-0.02, 1.02)))
    with_grid(axes)


def _live_one_episode(curves: Sequence[Plotted]) -> bool:
    """Whether steps can be plotted: all lifetimes are single episodes of the same length."""
    paces = [curve.pace for curve in curves if curve.pace is not None]
    return len(paces) == len(curves) and len({len(pace) for pace in paces}) == 1


def _so_far_of(curve: Plotted) -> str:
    return "reward so far" if np.isnan(curve.optimal).any() else "regret so far"


def _so_far(curve: Plotted, earned: Any, share: Any) -> Any:
    """Cumulative regret after a `share` of the steps with return `earned`; `earned` itself without a known optimum."""
    return earned if np.isnan(curve.optimal).any() else curve.optimal.mean() * share - earned


def _lines_inside(axes: Any, curve: Plotted, colour: str, style: str, width: float) -> None:
    pace: Any = curve.pace
    steps = np.arange(1, len(pace) + 1)
    line = _so_far(curve, np.cumsum(pace), steps / len(pace))
    axes.plot(steps, line, style, color=colour, linewidth=width, label=curve.name)
    scores = curve.runs[:, :, 0] if np.isnan(curve.optimal).any() else curve.optimal - curve.runs[:, :, 0]
    _, low, high = bootstrap(mean, scores, trainings=curve.trainings)
    error = np.maximum([[line[-1] - low], [high - line[-1]]], 0)
    axes.errorbar(steps[-1:], line[-1:], error, color=colour, linewidth=width, capsize=3)


def _random_inside(axes: Any, curve: Plotted) -> None:
    end = len(curve.pace) if curve.pace is not None else 1
    lost = float(_so_far(curve, curve.random.mean(), 1.0))
    axes.plot([0, end], [0, lost], ":", color=GREY, linewidth=1.2, label=f"random ({lost:.2f} in the end)")


def _line(measure: str, axes: Any, curve: Plotted, colour: str, style: str, width: float) -> None:
    scores, episodes = curve.measured(measure), np.arange(1, curve.runs.shape[2] + 1)
    low, high = scores.band()
    marker = "o" if len(episodes) == 1 else None  # a line through one point is invisible
    axes.plot(episodes, scores.mean, style, color=colour, linewidth=width, marker=marker, label=curve.name)
    axes.fill_between(episodes, low, high, color=colour, alpha=0.2, linewidth=0)
