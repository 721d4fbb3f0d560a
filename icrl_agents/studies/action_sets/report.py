"""Tables, CSV, JSON, figures and card rows of a report on task sets."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icrl_agents.core.files.atomic import write_files
from icrl_agents.evaluation.figure import COLOURS, GREY, STYLES
from icrl_agents.evaluation.intervals import Interval, Sample
from icrl_agents.evaluation.results import include_rows
from icrl_agents.hub.cards import Row
from icrl_agents.studies.action_sets.groups import Entry
from icrl_agents.studies.action_sets.resampling import Band
from icrl_agents.studies.action_sets.results import JSON, Report, Result
from icrl_agents.studies.panels import LineStyle, Series, draw_bars, draw_lines

MARKDOWN, CSV, HYPER_CSV = "sets.md", "sets.csv", "hyperparameters.csv"
BARS, MEANS, CURVES, TRIED = "bars.png", "means.png", "curves.png", "tried.png"
FILES = (JSON, MARKDOWN, CSV, HYPER_CSV, BARS, MEANS, CURVES, TRIED)
REFERENCES = ("#d6d6d2", GREY, "#a6a6a2", "#4a4a48", "#111111")  # random play, the source, other reference learners
NUMBER = re.compile(r"_\d+$")  # number of actions in the name of a set
RENUMBERED = ", renumbered"  # suffix of a learner measured with renumbered actions
COLUMNS = ("set", "learner", "tasks", "actions", "final", "normalised", "ratio", "tried", "relabelled", "difference")


# ---- files ------------------------------------------------------------------------------------------------------


def write_sets(report: Report, folder: str | Path) -> None:
    """Write tables, figures and `sets.json` to a folder, all or none; replaces those of an earlier report.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder = Path(folder).expanduser()
    rows = [{"name": entry.name, **entry.hyperparameters} for entry in report.entries]
    texts = {
        JSON: report.to_json(),
        MARKDOWN: markdown(*table(report)),
        CSV: _csv([_flat(report, result) for result in report.results]),
        HYPER_CSV: _csv(rows),
    }
    contents = {**{name: text.encode() for name, text in texts.items()}, **figures(report)}
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, contents)
    for name in set(FILES) - set(contents):  # figures of an earlier report that this one lacks
        (folder / name).unlink(missing_ok=True)


def include_sets(report: Report) -> None:
    """Add each entry's results to the card of its first agent, a measured checkpoint folder.

    Raises:
        FileNotFoundError: no such folder, or one without results.
        ValueError: its results were measured on other weights.
    """
    for entry in report.entries:
        include_rows(entry.agents[0], card_rows(report, entry))


def card_rows(report: Report, entry: Entry) -> list[Row]:
    """Card rows of an entry for each set: regret or success, comparison with references, change by renumbering."""
    found: dict[str, dict[str, Result]] = {}
    for result in report.results:
        found.setdefault(result.set, {})[result.learner] = result
    return [
        row
        for learners in found.values()
        if entry.name in learners
        for row in _set_rows(report, learners[entry.name], learners, len(entry.agents))
    ]


def _set_rows(report: Report, mine: Result, learners: Mapping[str, Result], trainings: int) -> list[Row]:
    """Rows of one learner on one set; `learners` are the results of all learners on this set."""
    random, source = report.references[:2]
    others = ", ".join(f"{name} {learners[name].final.value:.2f}" for name in report.references if name in learners)
    scale = f"0 {random}, 1 {source}"
    rows: list[tuple[str, Interval | None, str, str]] = [
        (report.measure, mine.final, report.measure, others),
        ("normalised", mine.normalised, "normalised regret", scale),
        ("ratio", mine.ratio, "ratio", f"to {source}"),
        *((f"ratio to {name}", ratio, "ratio", "") for name, ratio in mine.ratios.items()),
        (f"{report.measure}, actions renumbered", mine.relabelled, report.measure, ""),
        ("change by renumbering", mine.difference, report.measure, ""),
    ]
    over = str(Sample(trainings, mine.tasks))
    return [_row(f"{mine.set}: {name}", value, unit, note, over) for name, value, unit, note in rows if value]


def _row(name: str, interval: Interval, unit: str, note: str, over: str) -> Row:
    value, low, high = (round(number, 4) for number in interval)
    return Row(name, value, low, high, unit, note, over=over)


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, without empty columns."""
    names = _filled(report)
    rows = [[cell(getattr(result, name)) for name in names] for result in report.results]
    return [report.measure if name == "final" else name for name in names], rows


def _filled(report: Report) -> list[str]:
    return [name for name in COLUMNS if any(getattr(result, name) is not None for result in report.results)]


def cell(value: Any) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *rows))


def _flat(report: Report, result: Result) -> dict[str, Any]:
    """A result as one CSV row: an interval has three cells."""
    cells: dict[str, Any] = {}
    for name in _filled(report):
        value, shown = getattr(result, name), report.measure if name == "final" else name
        interval = isinstance(value, Interval)
        cells |= {shown: value[0], f"{shown}_low": value[1], f"{shown}_high": value[2]} if interval else {shown: value}
    return cells


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# ---- figures ----------------------------------------------------------------------------------------------------


def figures(report: Report) -> dict[str, bytes]:
    """Figures (PNG) by file name, without empty ones."""
    palette, about = looks(report), caption(report)
    found = {BARS: draw_bars(bars(report), palette, f"final {report.measure}", caption=about)}
    if report.means:  # older reports have none
        found[MEANS] = draw_bars(means(report), palette, "mean over all sets", False, about)
    if report.measure == "regret":
        curves = lines(report, lambda result: {result.set: result.curve})
        found[CURVES] = draw_lines(curves, "pull", "regret so far", about)
    if tried := lines(report, lambda result: {f"{result.set}, {kind}": band for kind, band in result.shares.items()}):
        found[TRIED] = draw_lines(tried, "in-context episode", "share of these actions tried", about)
    return found


def caption(report: Report) -> str:
    """Caption about the intervals of the figures."""
    tasks = sorted({result.tasks for result in report.results})
    seeds = max((len(entry.agents) for entry in report.entries), default=1)
    trainings = f", and up to {seeds} trainings of an agent" if seeds > 1 else ""
    return f"95% intervals over {' or '.join(map(str, tasks))} tasks of each set{trainings}"


def drawn_as(report: Report) -> dict[str, str]:
    """Names of learners in figures: agents trained on sets that differ in a number share one name.

    Example: AD trained for each number of arms and measured on the set with that number. Agents keep their own names
    if two of them are measured on the same set.
    """
    names = {name: name for name in report.references}
    for entry in report.entries:
        task_set = str(entry.hyperparameters.get("task_set", ""))
        names[entry.name] = entry.name.replace(task_set, NUMBER.sub("_k", task_set)) if task_set else entry.name
    shown = Counter((result.set, names[result.learner]) for result in report.results)
    several = {name for (_, name), count in shown.items() if count > 1}
    return {name: name if found in several else found for name, found in names.items()}


def looks(report: Report) -> dict[str, LineStyle]:
    """Colour and style of each learner: references grey, agents coloured, renumbered actions hatched."""
    names = drawn_as(report)
    moved = {names[result.learner] for result in report.results if result.relabelled}
    found = {name: LineStyle(grey, "--") for name, grey in zip(report.references, REFERENCES, strict=False)}
    for number, name in enumerate(dict.fromkeys(names[entry.name] for entry in report.entries)):
        look = LineStyle(COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)])
        found[name] = look
        if name in moved:
            found[name + RENUMBERED] = look._replace(hatch="////")
    return found


def bars(report: Report) -> dict[str, dict[str, dict[str, Interval]]]:
    """Final intervals by panel, set and learner; sets <actions>_<goals> have one panel per kind of goals."""
    panels: dict[str, dict[str, dict[str, Interval]]] = {}
    names = drawn_as(report)
    for result in report.results:
        head, _, tail = result.set.rpartition("_")
        title, name = (report.env_id, result.set) if report.measure == "regret" else (f"{tail} goals", head or tail)
        learners = panels.setdefault(title, {}).setdefault(name, {})
        learners[names[result.learner]] = result.final
        if result.relabelled:
            learners[names[result.learner] + RENUMBERED] = result.relabelled
    return panels


def means(report: Report) -> dict[str, dict[str, dict[str, Interval]]]:
    """Panels of the means over all sets: the score, and the number of actions tried."""
    random, source = report.references[:2]
    title = f"normalised regret, 0 {random}, 1 {source}" if report.measure == "regret" else f"final {report.measure}"
    score: dict[str, Interval] = {}
    tried: dict[str, Interval] = {}
    names = drawn_as(report)
    for mean in report.means:
        shown = names[mean.learner]
        values = {shown: mean.score, shown + RENUMBERED: mean.relabelled}
        score |= {name: value for name, value in values.items() if value is not None}
        tried[shown] = mean.tried
    panels = {title: score, "different actions in a lifetime": tried}
    return {title: {"all sets": panel} for title, panel in panels.items()}


def lines(report: Report, pick: Callable[[Result], Mapping[str, Band]]) -> dict[str, dict[str, Series]]:
    """Lines by panel and learner; `pick` maps a result to its bands by panel title."""
    palette, names = looks(report), drawn_as(report)
    panels: dict[str, dict[str, Series]] = {}
    for result in report.results:
        name = names[result.learner]
        for title, band in pick(result).items():
            panels.setdefault(title, {})[name] = Series(*band, palette[name])
    return panels
