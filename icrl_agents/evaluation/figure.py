"""Figures: size, colours, reference lines, legends and files, the same in all of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icrl_agents.core.process.packages import need

SIZE, DPI = (6.4, 4.0), 160  # inches, pixels per inch
KINDS = ("png", "svg", "pdf")
COLOURS = ("#2656a0", "#d1672a", "#3a8f5c", "#8a4fa3", "#b5373d", "#c9a227", "#3aa6a6", "#8c6d53", "#d67aa6", "#5b7083")
STYLES = ("-", "-.", ":")  # distinguish lines of the same colour
GREY = "#6b6b6b"


def require_matplotlib() -> Any:
    """Matplotlib's `Figure`, or ImportError; call it before a long measurement whose result will be plotted."""
    return need("matplotlib.figure", "plots").Figure  # without pyplot: no window system, no global state


def new_figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure of `size` in inches."""
    return require_matplotlib()(figsize=size, dpi=DPI, layout="constrained")


def with_grid(axes: Any, along: str = "both") -> None:
    """Light grid lines along "x", "y" or "both", and no frame above and at the right."""
    axes.grid(axis=along, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def optimal_line(axes: Any, value: float) -> None:
    if not np.isnan(value):
        axes.axhline(value, color="black", linestyle="--", linewidth=1, zorder=3, label=f"optimal ({value:.2f})")


def random_line(axes: Any, value: float) -> None:
    axes.axhline(value, color=GREY, linestyle=":", linewidth=1.2, label=f"random ({value:.2f})")


def add_legend(figure: Any, grid: Sequence[Any], caption: str = "") -> None:
    """One legend below all panels with each name once, under the caption."""
    named: dict[str, Any] = {}
    for axes in grid:
        named |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = figure.get_size_inches()[0] / (0.6 + 0.08 * max(map(len, named)))  # inches per name at font size 9
    style = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "title": caption or None}
    figure.legend(named.values(), named, loc="outside lower center", ncols=max(1, int(columns)), **style)


def picture_kind(path: Path) -> str:
    """Suffix of a picture file, one of `KINDS`; ValueError for others."""
    kind = path.suffix.removeprefix(".")
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r} is no picture: end its name with .{', .'.join(KINDS)}")
    return kind


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
