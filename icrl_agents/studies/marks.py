"""Marks of `marked-ad` in a store of histories: the marked share of each task, and a figure of one history.

Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icrl_agents.core.checks import check_value
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.steps import Steps
from icrl_agents.evaluation.figure import COLOURS, GREY, new_figure, to_bytes
from icrl_agents.histories.store import HistoryStore
from icrl_agents.methods.base.transforms import END, START, confident_runs
from icrl_agents.methods.marked_ad import MarkedADConfig

JSON, PICTURE = "marks.json", "marks.png"
SIZE = (9.6, 4.0)  # inches


@dataclass(frozen=True)
class TaskMarks:
    """Numbers of steps, runs and marked steps in the histories of a task."""

    task: int
    steps: int
    runs: int
    marked: int  # steps that belong to a run

    @property
    def share(self) -> float:
        return self.marked / max(self.steps, 1)


@dataclass(frozen=True)
class MarkReport:
    """Marks in all tasks of a store."""

    env_id: str
    source: str
    threshold: float
    min_length: int
    tasks: tuple[TaskMarks, ...]

    @property
    def total(self) -> TaskMarks:
        """Sums over all tasks, as task -1."""
        return TaskMarks(-1, *(sum(getattr(task, name) for task in self.tasks) for name in ("steps", "runs", "marked")))

    @property
    def typical(self) -> int:
        """Id of the first task with a share nearest to that of all tasks."""
        share = self.total.share
        return min(self.tasks, key=lambda task: abs(task.share - share)).task

    def to_json(self) -> dict[str, Any]:
        shares = np.array([task.share for task in self.tasks])  # (tasks,)
        spread = {"all": self.total.share, "mean": shares.mean(), "std": shares.std()}
        spread |= {"min": shares.min(), "max": shares.max()}
        return {
            "env_id": self.env_id,
            "source": self.source,
            "threshold": self.threshold,
            "min_length": self.min_length,
            "share": {name: round(float(value), 6) for name, value in spread.items()},
            "tasks": [{**asdict(task), "share": round(task.share, 6)} for task in self.tasks],
        }


def measure_marks(store: HistoryStore, threshold: float = 0.7, min_length: int = 10) -> MarkReport:
    """Find the runs of confident steps in all histories of a store.

    Args:
        store: histories with the column `log_prob`.
        threshold: minimum probability of the actions in a run.
        min_length: minimum number of steps in a run.

    Raises:
        ValueError: the store has no histories or no column `log_prob`, or a value is not allowed.
    """
    for name, kind, value in (("threshold", "float", threshold), ("min_length", "int", min_length)):
        check_value(name, kind, value, MarkedADConfig.LIMITS[name])
    if not len(store):
        raise ValueError(f"{store.path} has no histories yet: run `icrl-agents collect` again")
    tasks = tuple(_measure(task, store[task, :], threshold, min_length) for task in store)
    return MarkReport(store.info.env_id, store.info.source, threshold, min_length, tasks)


def _measure(task: int, steps: Steps, threshold: float, min_length: int) -> TaskMarks:
    marks = confident_runs(steps, threshold, min_length)
    runs, marked = (marks & START > 0).sum(), (in_run(marks) & steps.mask).sum()  # marks: (B, T) bit flags
    return TaskMarks(task, int(steps.mask.sum()), int(runs), int(marked))


def in_run(marks: np.ndarray) -> np.ndarray:
    """Mask (B, T) bool of the steps inside a run, from marks (B, T)."""
    return (marks & START > 0).cumsum(1) > (marks & END > 0).cumsum(1)  # more starts than ends so far


def write_marks(store: HistoryStore, report: MarkReport, folder: Path) -> None:
    """Write the report and the figure of a typical task's first history to a folder.

    Raises:
        ImportError: matplotlib is not installed.
    """
    history = store[report.typical, 0]
    title = f"{report.env_id}, task {report.typical}, {report.source}: {report.total.share:.1%} of all steps marked"
    picture = draw_marks(history, report.threshold, report.min_length, title)
    text = json.dumps(report.to_json(), indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, {JSON: text.encode(), PICTURE: picture})


def draw_marks(history: Steps, threshold: float, min_length: int, title: str = "") -> bytes:
    """PNG of one history (1, T): action probabilities with shaded runs, and rewards below."""
    figure = new_figure(SIZE)
    fill(figure.subplots(2, sharex=True, height_ratios=(2, 1)), history, threshold, min_length)
    figure.suptitle(title, fontsize=11)
    return to_bytes(figure)


def fill(panels: Any, history: Steps, threshold: float, min_length: int) -> None:
    above, below = panels
    count = int(history.mask.sum())
    marks = confident_runs(history, threshold, min_length)[0, :count]  # (T,) without padding
    starts, ends = (np.flatnonzero(marks & kind) for kind in (START, END))
    # a run at the end of the history has no END mark
    runs = [(start, end - start) for start, end in zip(starts, [*ends, count][: len(starts)], strict=True)]
    above.broken_barh(runs, (0, 1.05), color=COLOURS[2], alpha=0.25, linewidth=0, label="run")
    above.vlines(starts, 0, 1.05, color=COLOURS[2], linewidth=0.8)
    above.plot(np.exp(history.extras["log_prob"][0, :count]), ".", color=COLOURS[0], markersize=2.5, label="the action")
    above.axhline(threshold, color=COLOURS[1], linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
    above.set_ylabel("probability")
    above.set_ylim(0, 1.05)
    above.set_xlim(0, max(count, 1))
    below.plot(history.reward[0, :count], color=GREY, linewidth=0.8)
    below.set_ylabel("reward")
    below.set_xlabel("step of the history")
    above.legend(loc="upper left", fontsize=8)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
