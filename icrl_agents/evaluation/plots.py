"""Figures: return against in-context episode with random and optimal references, bars, panels of lines, size plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.packages import need
from icrl_agents.core.process.terminal import counted
from icrl_agents.evaluation.intervals import Scores, bootstrap, mean
from icrl_agents.evaluation.protocol import MEASURES, RETURN

SIZE, DPI = (6.4, 4.0), 160  # inches, pixels per inch
KINDS = ("png", "svg", "pdf")
COLUMNS = 5  # maximum number of panels in a row
WIDTH, THINNEST = 2.6, 1.2  # line widths, decreasing: earlier lines stay visible below later ones
COLOURS = ("#2656a0", "#d1672a", "#3a8f5c", "#8a4fa3", "#b5373d", "#c9a227", "#3aa6a6", "#8c6d53", "#d67aa6", "#5b7083")
STYLES = ("-", "-.", ":")  # distinguish lines of the same colour
GREY = "#6b6b6b"
REFERENCES = ("#d6d6d2", GREY, "#a6a6a2", "#4a4a48", "#111111")  # random play, the source, other reference learners


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
    _legend(figure, [axes], f"95% intervals over {curves[0].measured(measure).sample}")
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


def to_png(figure: Any) -> bytes:
    """The figure as a PNG of 128 colours: a third of the size of matplotlib's own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(128).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def to_bytes(figure: Any, kind: str = "png") -> bytes:
    """The figure as matplotlib writes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def with_grid(axes: Any, along: str = "both") -> None:
    """Light grid lines along "x", "y" or "both", and no frame above and at the right."""
    axes.grid(axis=along, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def picture_kind(path: Path) -> str:
    """Suffix of a picture file, one of `KINDS`; ValueError for others."""
    kind = path.suffix.removeprefix(".")
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r} is no picture: end its name with .{', .'.join(KINDS)}")
    return kind


def require_matplotlib() -> Any:
    """Matplotlib's `Figure`, or ImportError; call it before a long measurement whose result will be plotted."""
    return need("matplotlib.figure", "plots").Figure  # without pyplot: no window system, no global state


def new_figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure of `size` in inches."""
    return require_matplotlib()(figsize=size, dpi=DPI, layout="constrained")


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
        _optimal(axes, float(curves[0].optimal.mean()))
        _random(axes, float(curves[0].random.mean()))
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


def _optimal(axes: Any, value: float) -> None:
    if not np.isnan(value):
        axes.axhline(value, color="black", linestyle="--", linewidth=1, zorder=3, label=f"optimal ({value:.2f})")


def _random(axes: Any, value: float) -> None:
    axes.axhline(value, color=GREY, linestyle=":", linewidth=1.2, label=f"random ({value:.2f})")


def _line(measure: str, axes: Any, curve: Plotted, colour: str, style: str, width: float) -> None:
    scores, episodes = curve.measured(measure), np.arange(1, curve.runs.shape[2] + 1)
    low, high = scores.band()
    marker = "o" if len(episodes) == 1 else None  # a line through one point is invisible
    axes.plot(episodes, scores.mean, style, color=colour, linewidth=width, marker=marker, label=curve.name)
    axes.fill_between(episodes, low, high, color=colour, alpha=0.2, linewidth=0)


# ---- sets of tasks ----------------------------------------------------------------------------------------------


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
    _legend(figure, grid, caption)
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
    _legend(figure, grid[: len(panels)], caption)
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
    _optimal(axes, optimal)
    for number, ((name, points), colour) in enumerate(zip(lines.items(), COLOURS * len(lines), strict=False)):
        value, low, high = np.array(list(points.values())).T
        place = np.array(list(points)) * 1.02 ** (number - (len(lines) - 1) / 2)  # shifted, to separate error bars
        error = np.maximum([value - low, high - value], 0)
        axes.errorbar(place, value, error, color=colour, linewidth=1.5, marker="o", markersize=4, capsize=3, label=name)
    _random(axes, random)
    sizes = sorted({size for points in lines.values() for size in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    with_grid(axes)
    _legend(figure, [axes], caption)
    return to_png(figure)


def _legend(figure: Any, grid: Sequence[Any], caption: str = "") -> None:
    """One legend below all panels with each name once, under the caption."""
    named: dict[str, Any] = {}
    for axes in grid:
        named |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = figure.get_size_inches()[0] / (0.6 + 0.08 * max(map(len, named)))  # inches per name at font size 9
    style = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "title": caption or None}
    figure.legend(named.values(), named, loc="outside lower center", ncols=max(1, int(columns)), **style)
