"""Curve: return and success against in-context episode on every task, with bootstrap intervals.

Axis letters: R runs (lifetimes per task, over all trainings), N tasks, E in-context episodes, T steps of an episode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from icrl_agents.core.checks import check_choice
from icrl_agents.core.files.atomic import write_text
from icrl_agents.core.files.strict_json import read_json
from icrl_agents.core.printable import printable
from icrl_agents.evaluation.intervals import (
    Interval,
    Rates,
    Scores,
    bootstrap,
    interquartile_mean,
    mean,
    share_of_optimum,
)
from icrl_agents.evaluation.protocol import MEASURES, RETURN, SUCCESS

MAX_BYTES = 1 << 28  # maximum file size: about 100,000 lifetimes
AGAIN = "evaluate again"


@dataclass(frozen=True)
class Curve(Scores):
    """Return, and success where there is one, against in-context episode, for every task and run.

    `mean`, `at` and `band` are of the returns. `Curve.join` combines the curves of several training seeds or splits.
    """

    env_id: str
    split: str
    tasks: tuple[int, ...]  # (N,) task ids
    runs: np.ndarray  # (R, N, E) returns
    optimal: np.ndarray  # (N,) optimal expected return; NaN if the family declares none
    random: np.ndarray  # (N,) mean return of uniformly random actions
    name: str = "agent"  # "source ..." for the source of the agent's training data
    facts: dict[str, Any] = field(default_factory=dict)  # settings of the evaluation
    pace: np.ndarray | None = None  # (T,) mean reward of each step; None unless a lifetime is one episode of T steps
    trainings: int = 1  # number of trained agents in the runs; each has R / trainings consecutive runs
    origin: str = ""  # folder or id of the agent, to distinguish curves of the same name
    success: np.ndarray | None = None  # (R, N, E) bool, success in some step of the episode; None without any in infos

    @property
    def returns(self) -> np.ndarray:
        """(N, E) mean return over runs."""
        return self.runs.mean(0)

    @property
    def regret(self) -> np.ndarray:
        """(N, E) optimal return minus mean return."""
        return self.optimal[:, None] - self.returns

    @property
    def success_rate(self) -> Rates:
        """Share of lifetimes with a success in each episode, such as `success_rate.at(16, 20)` with its interval.

        Raises:
            ValueError: the environment reports no success.
        """
        return Rates(self._known_success().astype(float), self.trainings)

    @property
    def best_so_far(self) -> Rates:
        """Share of lifetimes with a success in this episode or an earlier one: the published measure of Meta-World.

        Raises:
            ValueError: as `success_rate`.
        """
        return Rates(np.maximum.accumulate(self._known_success(), 2).astype(float), self.trainings)

    def measured(self, measure: str) -> Scores:
        """Returns, success rate or best so far, as `measure` is "return", "success" or "best_so_far".

        Raises:
            ValueError: another measure, or as `success_rate`.
        """
        check_choice("measure", measure, MEASURES)
        if measure == RETURN:
            return self
        return self.success_rate if measure == SUCCESS else self.best_so_far

    def _known_success(self) -> np.ndarray:
        if self.success is None:
            raise ValueError(
                f"the curve of {self.env_id} has no success, its infos hold none or it was measured before that was "
                f"recorded: {AGAIN}, or take the returns"
            )
        return self.success

    def iqm(self, first: int, last: int | None = None) -> Interval:
        """Interquartile mean (Agarwal et al. 2021) of the normalised returns of all (run, task) pairs.

        With raw returns the trimmed quarters would be the tasks with the lowest and highest optimum.

        Raises:
            ValueError: as `normalised`.
        """
        return bootstrap(interquartile_mean, self.normalised(first, last), trainings=self.trainings)

    def solved(self, first: int, last: int | None = None) -> Interval:
        """Mean normalised return of those episodes; ValueError as `normalised`."""
        return bootstrap(mean, self.normalised(first, last), trainings=self.trainings)

    def unsolved(self, first: int, last: int | None = None) -> Interval:
        """Share of lifetimes with a normalised return below 1/2 in those episodes; ValueError as `normalised`."""
        return bootstrap(mean, self.normalised(first, last) < 0.5, trainings=self.trainings)

    def normalised(self, first: int, last: int | None = None) -> np.ndarray:
        """(R, N) mean returns of those episodes, scaled per task: 0 is random play, 1 the optimum.

        Raises:
            ValueError: some task has no known optimum, or random play reaches it.
        """
        possible = self.optimal - self.random  # (N,)
        if unknown := int((~(possible > 0)).sum()):
            raise ValueError(
                f"returns on {unknown} of {len(self.tasks)} tasks cannot be normalised, their optimum is not known or "
                "that of random play: take the mean, at()"
            )
        return (self.within(first, last) - self.random) / possible

    @property
    def normalises(self) -> bool:
        """Whether `normalised` is defined: every task has an optimum above random play."""
        return bool((self.optimal > self.random).all())

    def gain(self, other: Curve, first: int, last: int | None = None, measure: str = RETURN) -> Interval:
        """Mean of this curve minus that of `other` in those episodes, on the same tasks and seeds.

        The bootstrap is paired: both have the same resampled trainings, tasks and lifetimes.

        Raises:
            ValueError: other tasks, another number of runs or trainings, or as `measured`.
        """
        mine, theirs = (curve.measured(measure).within(first, last) for curve in (self, other))  # (R, N) each
        if (self.env_id, self.tasks) != (other.env_id, other.tasks):
            raise ValueError(f"cannot compare returns on other tasks, of {other.env_id}, with {self.env_id}: {AGAIN}")
        if mine.shape != theirs.shape or self.trainings != other.trainings:
            runs = [f"{len(curve.runs)} runs of {curve.trainings} trainings" for curve in (other, self)]
            raise ValueError(f"cannot compare {' with '.join(runs)}: {AGAIN}")
        return bootstrap(mean, mine - theirs, trainings=self.trainings)

    def on(self, tasks: Sequence[int]) -> Curve:
        """The curve restricted to `tasks` (ids)."""
        index = [self.tasks.index(task) for task in tasks]
        success = None if self.success is None else self.success[:, index]
        part = replace(self, tasks=tuple(tasks), runs=self.runs[:, index], success=success, pace=None)
        return replace(part, optimal=self.optimal[index], random=self.random[index])

    def share(self, first: int, last: int | None = None) -> np.ndarray:
        """(N,) mean returns of those episodes as shares of the task's optimum, see `share_of_optimum`."""
        return share_of_optimum(self.within(first, last).mean(0), self.random, self.optimal)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with null for NaN."""
        return {
            "env_id": self.env_id,
            "split": self.split,
            "name": self.name,
            "tasks": list(self.tasks),
            "optimal": [None if np.isnan(value) else value for value in self.optimal.tolist()],
            "random": self.random.tolist(),
            "runs": self.runs.tolist(),
            "facts": self.facts,
            "pace": None if self.pace is None else self.pace.tolist(),
            "trainings": self.trainings,
            "origin": self.origin,
            **({} if self.success is None else {"success": self.success.astype(int).tolist()}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Curve:
        """Inverse of `to_json`; ValueError for other data."""
        try:
            runs = np.asarray(data["runs"], float)
            curve = cls(
                env_id=data["env_id"],
                split=data["split"],
                name=data["name"],
                tasks=tuple(data["tasks"]),
                optimal=np.asarray(data["optimal"], float),
                random=np.asarray(data["random"], float),
                runs=runs,
                facts=data["facts"],
                pace=None if data.get("pace") is None else np.asarray(data["pace"], float),
                trainings=data.get("trainings", 1),
                origin=str(data.get("origin", "")),
                success=None if data.get("success") is None else _read_success(data["success"], runs),
            )
            _check(curve)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not a curve ({type(error).__name__}: {printable(error)}): {AGAIN}") from None
        return curve

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, atomically."""
        write_text(path, json.dumps(self.to_json(), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Curve:
        """Read a file of `save`, or the first curve of a `results.json`, which is the agent's.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is neither of them.
        """
        data = read_json(Path(path).expanduser(), MAX_BYTES, AGAIN, "give a file that Curve.save wrote")
        curves = data.get("curves", [data])  # only results.json has several
        return cls.from_json(curves[0] if isinstance(curves, list) and curves else {})

    @classmethod
    def join(cls, curves: Sequence[Curve], name: str) -> Curve:
        """Join curves of the same tasks (training seeds) along the runs, and of other tasks (splits) along the tasks.

        Raises:
            ValueError: environments or numbers of episodes or runs differ, some tasks have more curves than others, or
                sets of tasks overlap.
        """
        groups: dict[tuple[int, ...], list[Curve]] = {}
        for curve in curves:
            groups.setdefault(curve.tasks, []).append(curve)
        every = [task for tasks in groups for task in tasks]
        if twice := len(every) - len(set(every)):
            raise ValueError(f"cannot join curves of sets with {twice} tasks in common, which would count twice")
        shapes = {(curve.env_id, curve.runs.shape[2]) for curve in curves}
        # every set of tasks needs the same runs, to join them into one array (R, N, E)
        counts = {(len(group), len(curve.runs), curve.trainings) for group in groups.values() for curve in group}
        if len(shapes) != 1 or len(counts) != 1:
            runs = sorted({len(curve.runs) for curve in curves}), sorted({len(group) for group in groups.values()})
            raise ValueError(
                f"cannot join curves of {sorted(shapes)} with {runs[0]} runs each, {runs[1]} for a task: "
                "give those of one environment with as many episodes and runs"
            )
        heads = [group[0] for group in groups.values()]  # one curve per set of tasks, for what its runs share
        return cls(
            env_id=heads[0].env_id,
            split=" + ".join(sorted({curve.split for curve in curves})),
            tasks=tuple(task for head in heads for task in head.tasks),
            runs=_side_by_side([[curve.runs for curve in group] for group in groups.values()]),
            success=_joined_success(list(groups.values())),
            optimal=np.concatenate([head.optimal for head in heads]),
            random=np.concatenate([head.random for head in heads]),
            pace=_mean_pace(curves),  # over all joined lifetimes
            trainings=sum(curve.trainings for curve in next(iter(groups.values()))),
            name=name,
            facts={"joined": [curve.facts for curve in curves]},
        )

    def renamed(self, name: str) -> Curve:
        return replace(self, name=name)

    def plot(self, path: str | Path, others: Sequence[Curve] = (), measure: str = RETURN) -> None:
        """Plot a measure against episode, with the curves `others`; errors and further lines as `plot_curves`."""
        from icrl_agents.evaluation.plots import plot_curves

        plot_curves([self, *others], path, measure)


def _check(curve: Curve) -> None:
    """ValueError for a curve from a file whose values have a wrong type or do not fit together."""
    runs, trainings = curve.runs, curve.trainings
    if type(trainings) is not int or trainings < 1 or len(runs) % trainings:
        raise ValueError(f"{len(runs)} runs of {trainings} trainings")
    texts = (curve.env_id, curve.split, curve.name)
    if not all(isinstance(text, str) for text in texts) or not isinstance(curve.facts, dict):
        raise ValueError("its env_id, split and name are no text, or its facts no object")
    if not all(type(task) is int for task in curve.tasks):
        raise ValueError("its tasks are no task ids")
    whole = runs.ndim == 3 and runs.size and (curve.pace is None or curve.pace.ndim == 1)
    if not whole or not runs.shape[1:2] == curve.optimal.shape == curve.random.shape == (len(curve.tasks),):
        raise ValueError(f"runs of shape {runs.shape} for {len(curve.tasks)} tasks")


def _read_success(data: Any, runs: np.ndarray) -> np.ndarray:
    """Success (R, N, E) bool from JSON, 0 or 1 for every episode of the `runs`; ValueError for other data."""
    found = np.asarray(data)
    if found.shape != runs.shape or not np.isin(found, (0, 1)).all():
        raise ValueError(f"success of shape {found.shape} that is not 0 or 1 for each of the runs {runs.shape}")
    return found.astype(bool)


def _side_by_side(groups: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Arrays (R, N, E), those of a group joined along the runs, the groups along the tasks."""
    return np.concatenate([np.concatenate(group) for group in groups], 1)


def _joined_success(groups: Sequence[Sequence[Curve]]) -> np.ndarray | None:
    """Success of joined curves; None if one of them has none."""
    known = [[curve.success for curve in group if curve.success is not None] for group in groups]
    return _side_by_side(known) if list(map(len, known)) == list(map(len, groups)) else None


def _mean_pace(curves: Sequence[Curve]) -> np.ndarray | None:
    """Mean pace (T,) over all lifetimes; None if a curve has none, or if lengths differ."""
    known = [curve.pace for curve in curves if curve.pace is not None]
    if len(known) < len(curves) or len({len(pace) for pace in known}) != 1:
        return None
    return np.average(known, 0, [curve.runs.size for curve in curves])  # weighted by the number of lifetimes
