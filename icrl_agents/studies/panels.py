"""Figures of studies: bars, panels of lines, lines against a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.evaluation.figure import (
    COLOURS,
    SIZE,
    add_legend,
    new_figure,
    optimal_line,
    random_line,
    to_png,
    with_grid,
)

COLUMNS = 5  # maximum number of panels in a row


class LineStyle(NamedTuple):
    """Colour and style of a learner."""

    colour: str
    style: str = "-"  # line style
    hatch: str = ""  # bar hatch


class Series(NamedTuple):
    """A line of a panel and its 95% interval, (T,) each."""

    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    look: LineStyle


def draw_bars(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    looks: Mapping[str, LineStyle],
    ylabel: str,
    same: bool = True,
    caption: str = "",
) -> bytes:
    """PNG of bar panels, one below the other.

    Args:
        panels: (value, low, high) by title, set and learner.
        looks: colour and style of each learner, in the order of their bars.
        ylabel: label of the y axis.
        same: whether the panels share a scale.
        caption: text above the legend, about the intervals.
    """
    sets = max(len(panel) for panel in panels.values())
    size = max(SIZE[0], 0.16 * sets * (len(looks) + 1)), 0.6 + 2.6 * len(panels)
    figure = new_figure(size)
    grid = figure.subplots(len(panels), squeeze=False, sharey=same)[:, 0]
    for axes, (title, panel) in zip(grid, panels.items(), strict=True):
        fill_bars(axes, panel, looks)
        axes.set_title(title, fontsize=11)
        axes.set_ylabel(ylabel)
    add_legend(figure, grid, caption)
    return to_png(figure)


def fill_bars(axes: Any, panel: Mapping[str, Mapping[str, Sequence[float]]], looks: Mapping[str, LineStyle]) -> None:
    width = 0.85 / len(looks)
    for number, (learner, look) in enumerate(looks.items()):
        here = [place for place, learners in enumerate(panel.values()) if learner in learners]
        if not here:
            continue
        value, low, high = np.array([learners[learner] for learners in panel.values() if learner in learners]).T
        place = np.array(here) + (number - (len(looks) - 1) / 2) * width
        error = np.maximum([value - low, high - value], 0)
        style = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
        axes.bar(place, value, width, label=learner, yerr=error, error_kw={"linewidth": 0.8}, **style)
    axes.set_xticks(np.arange(len(panel)), list(panel))
    axes.set_axisbelow(True)
    with_grid(axes, "y")


def draw_lines(panels: Mapping[str, Mapping[str, Series]], xlabel: str, ylabel: str, caption: str = "") -> bytes:
    """PNG of line panels with shared axes, up to `COLUMNS` in a row; `panels` has lines by title and name."""
    columns, rows = min(len(panels), COLUMNS), -(-len(panels) // COLUMNS)
    size = max(SIZE[0], 2.6 * columns), 1.0 + 3.0 * rows
    figure = new_figure(size)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid, panels.items(), strict=False):
        for name, line in panel.items():
            points = np.arange(1, len(line.mean) + 1)
            axes.plot(points, line.mean, line.look.style, color=line.look.colour, linewidth=1.5, label=name)
            axes.fill_between(points, line.low, line.high, color=line.look.colour, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(xlabel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        with_grid(axes)
    for axes in grid[::columns]:
        axes.set_ylabel(ylabel)
    grid[0].set_ylim(bottom=0)  # shared by all panels; set last, so autoscaling finds the top
    add_legend(figure, grid[: len(panels)], caption)
    return to_png(figure)


def draw_sizes(
    lines: Mapping[str, Mapping[int, Sequence[float]]],
    optimal: float,
    random: float,
    title: str,
    xlabel: str,
    ylabel: str,
    caption: str = "",
) -> bytes:
    """PNG of lines against a size on a log2 axis; `lines` has (value, low, high) by name and size."""
    figure = new_figure()
    axes = figure.add_subplot()
    optimal_line(axes, optimal)
    for number, ((name, points), colour) in enumerate(zip(lines.items(), COLOURS * len(lines), strict=False)):
        value, low, high = np.array(list(points.values())).T
        place = np.array(list(points)) * 1.02 ** (number - (len(lines) - 1) / 2)  # shifted, to separate error bars
        error = np.maximum([value - low, high - value], 0)
        axes.errorbar(place, value, error, color=colour, linewidth=1.5, marker="o", markersize=4, capsize=3, label=name)
    random_line(axes, random)
    sizes = sorted({size for points in lines.values() for size in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    with_grid(axes)
    add_legend(figure, [axes], caption)
    return to_png(figure)
