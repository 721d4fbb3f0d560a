"""Rows of a results table, from the curves of an agent: returns and successes by episode span and by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from icrl_agents.core.families import find_family, is_family
from icrl_agents.core.process.terminal import counted
from icrl_agents.core.splits import ALL
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.protocol import MEASURES, SUCCESS
from icrl_agents.hub.cards import Row

SPANS = ((1, 1), (5, 5), (10, 10), (10, 20), (50, 50), (40, 50))  # (first, last) episodes reported in papers
LAST = 10  # final span in episodes, for lifetimes of other lengths
LONG = 50  # lifetimes of more episodes are reported as a whole too
PLANNED = "planned"  # name of a curve measured with a planner
SOURCE = "source "  # name prefix of a source's curve
SHOWN = 20  # maximum number of rows in the tables of tasks and of episodes
QUARTER = 4  # success is measured in the last quarter of the episodes, 16 to 20 of 20
SUCCESS_RATE = "success rate"  # unit


def spans(episodes: int) -> list[tuple[int, int]]:
    """Reported spans (first, last) of a lifetime: those of `SPANS`, a long one as a whole, last episode, the end."""
    found = [span for span in SPANS if span[1] <= episodes]
    end = found.pop() if found[-1][1] == episodes else last_episodes(episodes)
    whole = [(1, episodes)] * (episodes > LONG)
    return list(dict.fromkeys([*found, *whole, (episodes, episodes), end]))


def last_episodes(episodes: int, count: int = LAST) -> tuple[int, int]:
    """Span (first, last) of the last `count` episodes of a lifetime."""
    return max(1, episodes - count + 1), episodes


def span_name(first: int, last: int) -> str:
    return f"episode {first}" if first == last else f"episodes {first}-{last}"


def results_table(curves: Sequence[Curve]) -> list[Row]:
    """Rows of the agent's curve `curves[0]`, of the other curves, and of the references (random, optimal, source)."""
    curve = curves[0]
    rows = [*_means(curve), *success_rows(curve), *_normalised(curve), *_worst(curve)]
    references = _levels(curve)
    for other in curves[1:]:
        if other.name.startswith(SOURCE):
            references += _of_source(other, spans(curve.runs.shape[2])[-1])
        else:
            rows += _beside(other, curve)
        if other.name == PLANNED:
            rows += _gains(other, curve)
    return [*rows, *references]


def _beside(other: Curve, curve: Curve) -> list[Row]:
    """Rows of another curve of the agent, with its name as their prefix."""
    if other.split == ALL != curve.split:
        normalised = [*_normalised(other), *_unsolved(other), *_worst(other)]
        count, rows = "", [*_means(other), *success_rows(other), *normalised, *_levels(other)]
    else:
        count = "" if other.tasks == curve.tasks else f" on {counted(len(other.tasks), 'task')}"
        rows = [*_means(other), *success_rows(other), *_worst(other)]
    return [row._replace(name=f"{other.name}{count}: {row.name}") for row in rows]


def _gains(planned: Curve, curve: Curve) -> list[Row]:
    episodes, same = curve.runs.shape[2], curve.on(planned.tasks)
    gains = {
        f"gain by planning, {span_name(*span)}": (planned.gain(same, *span), "return")
        for span in dict.fromkeys([(1, episodes), spans(episodes)[-1]])
    }
    if planned.success is not None and curve.success is not None:
        span = last_quarter(episodes)
        gain = planned.gain(same, *span, measure=SUCCESS)
        gains[f"gain in success by planning, {span_name(*span)}"] = gain, SUCCESS_RATE
    return [interval_row(name, gain, planned, unit, _verdict(gain)) for name, (gain, unit) in gains.items()]


def _verdict(gain: Interval) -> str:
    return f"planning: {'helps' if gain.low > 0 else 'hurts' if gain.high < 0 else 'no clear difference'}"


def _levels(curve: Curve) -> list[Row]:
    """Rows of the returns of random and optimal play."""
    rows = [
        Row("random", _rounded(curve.random.mean()), unit="return", note="uniformly random actions", reference=True)
    ]
    if not np.isnan(curve.optimal).any():
        rows.append(
            Row("optimal", _rounded(curve.optimal.mean()), unit="return", note="knows the task", reference=True)
        )
    return rows


def _means(curve: Curve) -> list[Row]:
    return [_mean(curve, "mean return, ", span) for span in spans(curve.runs.shape[2])]


def _mean(curve: Curve, what: str, span: tuple[int, int]) -> Row:
    return interval_row(f"{what}{span_name(*span)}", curve.at(*span), curve, note=_trained_on(curve))


def _trained_on(curve: Curve) -> str:
    """Note on the numbers of held-out and training tasks for a curve on all tasks; "" for other splits."""
    parts = curve.facts.get("tasks") if curve.split == ALL else None
    if not isinstance(parts, dict):
        return ""
    train, *others = (f"{count} {name}" for name, count in parts.items())
    return f"{' and '.join(others)} tasks, trained on the other {train.removesuffix(' train')}"


def success_rows(curve: Curve) -> list[Row]:
    """Rows of the success at the end of a lifetime and of the success so far; none where no success was recorded."""
    if curve.success is None:
        return []
    last, note = curve.runs.shape[2], "an episode is a success if one of its steps is"
    span = last_quarter(last)
    rate = interval_row(f"success, {span_name(*span)}", curve.success_rate.at(*span), curve, SUCCESS_RATE, note)
    name, note = f"best-so-far success, {span_name(last, last)}", "a success in this episode or an earlier one"
    return [rate, interval_row(name, curve.best_so_far.at(last), curve, SUCCESS_RATE, note)]


def last_quarter(episodes: int) -> tuple[int, int]:
    """The last quarter of a lifetime, at least one episode: (16, 20) of 20."""
    return last_episodes(episodes, max(1, episodes // QUARTER))


def _of_source(other: Curve, span: tuple[int, int]) -> list[Row]:
    """Rows of the source: its mean return in a span of episodes, and its successes."""
    successes = [row._replace(name=f"{other.name}, {row.name}") for row in success_rows(other)]
    return [row._replace(reference=True) for row in (_mean(other, f"{other.name}, ", span), *successes)]


def _normalised(curve: Curve) -> list[Row]:
    """Rows of the mean normalised return at the end, and of interquartile means; every task has the same weight."""
    if not curve.normalises:
        return []
    end, note = spans(curve.runs.shape[2])[-1], "0 random, 1 optimal"
    rows = [interval_row(f"normalised return, {span_name(*end)}", curve.solved(*end), curve, "normalised return", note)]
    for span in spans(curve.runs.shape[2]):
        if span[0] < span[1]:
            name = f"interquartile mean, {span_name(*span)}"
            rows.append(interval_row(name, curve.iqm(*span), curve, "normalised return (IQM)", note))
    return rows


def _unsolved(curve: Curve) -> list[Row]:
    """Row of the share of lifetimes that end below half of the normalised return, which a mean hides."""
    if not curve.normalises:
        return []
    span, note = spans(curve.runs.shape[2])[-1], "nearer to random play than to the optimum"
    return [interval_row(f"lives not solved, {span_name(*span)}", curve.unsolved(*span), curve, "share of lives", note)]


def _worst(curve: Curve) -> list[Row]:
    span = spans(curve.runs.shape[2])[-1]
    share = curve.share(*span)
    if np.isnan(share).any():
        return []
    name = f"worst task's share of its optimum, {span_name(*span)}"
    task = task_name(curve.env_id, curve.tasks[int(share.argmin())])
    return [Row(name, _rounded(share.min()), unit="share of optimum", note=task)]


def interval_row(name: str, interval: Interval, curve: Curve, unit: str = "return", note: str = "") -> Row:
    """Table row of an interval over the runs of a curve, rounded."""
    value, low, high = map(_rounded, interval)
    return Row(name, value, low, high, unit, note, over=str(curve.sample))


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def task_name(env_id: str, task: int) -> str:
    """Task as make() arguments; as its id if these are long or the environment has no family."""
    family = find_family(env_id) if is_family(env_id) else None
    if family is None or not 0 <= task < family.set_tasks:
        return f"task {task}"
    name = family.task_text(task)
    return name if len(name) <= 80 else f"task {task}"


def task_table(curve: Curve) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, as text, of the returns by task at the end of a lifetime; the worst tasks if there are many."""
    first, last = spans(curve.runs.shape[2])[-1]
    share = curve.share(first, last)
    worth = curve.returns[:, first - 1 : last].mean(1) if np.isnan(share).any() else share
    picked = np.arange(len(share)) if len(share) <= SHOWN else np.argsort(worth)[:SHOWN]
    columns = {
        f"return, {span_name(first, last)}": (curve.returns[:, first - 1 : last].mean(1), ".2f"),
        **_task_success(curve),
        "random": (curve.random, ".2f"),
        "optimal": (curve.optimal, ".2f"),
        "share of optimum": (share, ".0%"),
    }
    names = [task_name(curve.env_id, curve.tasks[i]) for i in picked]
    cells = [[_cell(value, form) for value in column[picked]] for column, form in columns.values()]
    header = "task" if len(picked) == len(share) else f"worst {SHOWN} of {len(share)} tasks", *columns
    return header, list(zip(names, *cells, strict=True))


def _task_success(curve: Curve) -> dict[str, tuple[np.ndarray, str]]:
    """Column of the success rate by task at the end of a lifetime, with its format; {} if none was recorded."""
    if curve.success is None:
        return {}
    span = last_quarter(curve.runs.shape[2])
    return {f"success, {span_name(*span)}": (curve.success_rate.within(*span).mean(0), ".2f")}


def episode_table(curve: Curve) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, as text, of return, success and success so far by episode; some of many, evenly spaced."""
    count = curve.runs.shape[2]
    picked = np.unique(np.linspace(1, count, min(count, SHOWN)).round().astype(int)).tolist()
    scores = [curve.measured(measure) for measure in MEASURES]
    header = ("episode", *(measure.replace("_", " ") for measure in MEASURES))
    return header, [(str(number), *(str(one.at(number)) for one in scores)) for number in picked]


def _cell(value: float, form: str) -> str:
    """A number as text; "-" for one that is not known."""
    return "-" if np.isnan(value) else format(value, form)
