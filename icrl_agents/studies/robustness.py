"""Study of robustness: an agent in worlds that differ a little from the one that it was trained in.

Whatever an agent is shown, returns are those of the environment's own rewards, so the rows compare.
Axis letters: R lifetimes of a task, N tasks, B = R * N rows, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.agents.shown import Shown, usual_demos
from icrl_agents.core.checks import check_known, whole
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted
from icrl_agents.core.rollout import Learner, identity_of, rollout
from icrl_agents.core.splits import ALL
from icrl_agents.evaluation.evaluate import block_seeds, learner_splits, optimal_returns, parts_of, random_returns
from icrl_agents.evaluation.intervals import Interval, bootstrap, mean, share_of_optimum
from icrl_agents.evaluation.protocol import demonstrate
from icrl_agents.evaluation.results import dump_results
from icrl_agents.evaluation.results_table import last_episodes, span_name
from icrl_agents.studies.conditions import CONDITIONS, Condition, Lives, Variant

EPISODES = (1, 5, 10)  # single episodes that are reported, before the last ten
MANY = 200  # of more tasks than this, those held out are measured
CHANGE_AFTER = 20  # episodes before the task changes
LOST, GOOD = 0.5, 0.8  # shares of the optimum: below it a task is lost, from it on an episode is good
RETURN, SHARE = "return", "share of optimum"  # units


class Recovery(NamedTuple):
    """Episodes after a change of the task until two in a row are good: the number of the first of these, from 1.

    A lifetime without any counts with all of its remaining episodes.
    """

    median: float
    worst: int
    never: int  # lifetimes without any
    lifetimes: int

    def __str__(self) -> str:
        never = f", {self.never} of {self.lifetimes} never" if self.never else ""
        return f"{GOOD:.0%} again after {self.median:g} episodes (median; worst {self.worst}{never})"


class Row(NamedTuple):
    """Results under one condition."""

    name: str
    unit: str  # of means and worst: SHARE, or RETURN where the optimum is not known
    means: tuple[Interval, ...]  # of the report's spans
    worst: float  # lowest mean of a task in the last span
    lost: float | None  # share of tasks below `LOST` in the last span; None without an optimum, like the following
    regret: Interval | None  # optimum minus return, summed over a lifetime
    recovery: Recovery | None  # also None where the task stays


@dataclass(frozen=True)
class Report:
    """Results under all conditions."""

    agent: dict[str, Any]  # what its actions depend on
    env_id: str
    split: str  # name of the tasks
    tasks: tuple[int, ...]  # (N,) their ids
    episodes: int  # of a lifetime
    num_seeds: int  # lifetimes on each task
    seed: int
    change_after: int
    spans: tuple[tuple[int, int], ...]  # (first, last) episodes of the means
    rows: tuple[Row, ...]
    left_out: dict[str, str]  # conditions that do not apply, and why

    @property
    def title(self) -> str:
        """What was measured, in one line."""
        count, lifetimes = len(self.tasks), counted(self.num_seeds, "lifetime")
        tasks = f"all {counted(count, 'task')}" if self.split == ALL else counted(count, f"{self.split} task")
        told = f"{self.env_id}: {tasks}, {lifetimes} of {counted(self.episodes, 'episode')} on each"
        return f"{told}; shares of the optimum" if any(row.unit == SHARE for row in self.rows) else told

    def to_json(self) -> str:
        """JSON text; `from_json` reads it."""
        rows = [_row_to_json(row) for row in self.rows]
        return dump_results({**vars(self), "rows": rows, "versions": versions()})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The report in the parsed text of `to_json`; ValueError for other data."""
        try:
            given = {name: data[name] for name in cls.__dataclass_fields__}
            spans = tuple((int(first), int(last)) for first, last in data["spans"])
            rows = tuple(_row_from_json(row) for row in data["rows"])
            return cls(**{**given, "tasks": tuple(data["tasks"]), "spans": spans, "rows": rows})
        except (KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {printable(error)}"
            raise ValueError(f"this is no report on robustness ({why}): measure again") from None


def _row_to_json(row: Row) -> dict[str, Any]:
    records = {"regret": row.regret, "recovery": row.recovery}
    found = {name: None if record is None else record._asdict() for name, record in records.items()}
    return {**row._asdict(), "means": [one._asdict() for one in row.means], **found}


def _row_from_json(row: dict[str, Any]) -> Row:
    means = tuple(Interval(**one) for one in row["means"])
    regret, recovery = (
        None if row[name] is None else kind(**row[name])
        for name, kind in (("regret", Interval), ("recovery", Recovery))
    )
    return Row(**{**row, "means": means, "regret": regret, "recovery": recovery})


def robustness(
    agent: Learner,
    env_id: str,
    tasks: str | None = None,
    *,
    episodes: int | None = None,
    num_seeds: int = 1,
    seed: int = 0,
    change_after: int = CHANGE_AFTER,
    only: Sequence[str] = (),
    variants: Sequence[str] = (),
    on_done: Callable[[int], None] = lambda done: None,
) -> Report:
    """Measure an agent under each condition, on the same tasks and seeds.

    Args:
        agent: an `ICAgent`, or any object with its reset, act and observe.
        env_id: environment id.
        tasks: "all", "test", "validation" or "train" of the agent's split, or a published set; default all of up to
            `MANY`, else "test". Tasks of the training are no mistake here.
        episodes: episodes in a lifetime; default as published.
        num_seeds: lifetimes on each task.
        seed: seed of environments, sampled actions and conditions.
        change_after: episodes before the task changes.
        only: names in `CONDITIONS`; default all that apply.
        variants: ids of environments with the same spaces and tasks, each a further row.
        on_done: called with the number of measured rows.

    Raises:
        ValueError: an unknown name, a bad number, or a condition or variant that was asked for and does not apply.
    """
    num_seeds, seed = whole("num_seeds", num_seeds, 1), whole("seed", seed, 0)
    change_after = whole("change_after", change_after, 1)
    splits = learner_splits(agent, env_id)
    family = splits.test.family
    split = tasks or (ALL if len(family.tasks) <= MANY else "test")
    ids = splits.pick(split).ids
    episodes = whole("episodes", family.lifetime if episodes is None else episodes, 1)
    lives = Lives(env_id, np.tile(ids, num_seeds), ids, episodes, change_after, seed)
    chosen, left_out = _choose(agent, lives, only, variants)
    spans = reported_spans(episodes)
    rows: list[Row] = []
    for name, condition in chosen.items():
        returns, played = _run(agent, condition, lives)  # (B, E) each
        optimal, random = _levels(condition.home(env_id), played, seed)
        outcome = Outcome(*(array.reshape(num_seeds, len(ids), episodes) for array in (returns, optimal, random)))
        after = change_after if (played != played[:, :1]).any() else None
        rows.append(to_row(name, outcome, spans, after))
        on_done(len(rows))
    return Report(
        agent=identity_of(agent),
        env_id=env_id,
        split=split,
        tasks=tuple(ids.tolist()),
        episodes=episodes,
        num_seeds=num_seeds,
        seed=seed,
        change_after=change_after,
        spans=spans,
        rows=tuple(rows),
        left_out=left_out,
    )


def reported_spans(episodes: int) -> tuple[tuple[int, int], ...]:
    """Spans (first, last) of a lifetime: the episodes `EPISODES` that it has, and the last ten."""
    single = [(number, number) for number in EPISODES if number <= episodes]
    return tuple(dict.fromkeys([*single, last_episodes(episodes)]))


def _choose(
    agent: Learner, lives: Lives, only: Sequence[str], variants: Sequence[str]
) -> tuple[dict[str, Condition], dict[str, str]]:
    """Conditions and variants to measure by name, and why the others are left out."""
    check_known(only, CONDITIONS, "row")
    wanted = {name: condition for name, condition in CONDITIONS.items() if not only or name in only}
    wanted |= {env_id: Variant(env_id) for env_id in variants}
    reasons = {name: condition.why_not(agent, lives) for name, condition in wanted.items()}
    left_out = {name: why for name, why in reasons.items() if why}
    for name, why in left_out.items():
        if name in only or name in variants:
            fix = "give an id with the same spaces and tasks" if name in variants else "leave it out"
            raise ValueError(f"'{printable(name)}' cannot be measured, {why}: {fix}")
    return {name: condition for name, condition in wanted.items() if name not in left_out}, left_out


def _run(agent: Learner, condition: Condition, lives: Lives) -> tuple[np.ndarray, np.ndarray]:
    """Returns (B, E) of the lifetimes under a condition, and the task (B, E) of each episode."""
    env_id = condition.home(lives.env_id)
    demos = demonstrate(agent, env_id, usual_demos(agent, env_id))
    parts = parts_of(env_id, lives.tasks)
    returns, played = [], []
    for part, seed in zip(parts, block_seeds(lives.seed, len(parts)), strict=True):
        block = lives._replace(env_id=env_id, tasks=part, seed=seed)
        (env, options), tasks = condition.world(block)
        learner = condition.learner(agent, block)
        learner = learner if demos is None else Shown(learner, demos(part, seed))
        returns.append(rollout(learner, env, lives.episodes, seed=seed, options=options))
        played.append(tasks)
        env.close()
    return np.concatenate(returns), np.concatenate(played)


def _levels(env_id: str, played: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Optimum (B, E) of the tasks of all episodes, NaN if unknown, and the return of random play where it counts."""
    ids, place = np.unique(played, return_inverse=True)
    optimal = optimal_returns(env_id, ids)
    random = random_returns(env_id, ids, seed) if (optimal <= 0).any() else np.zeros(len(ids))
    place = place.reshape(played.shape)
    return optimal[place], random[place]


class Outcome(NamedTuple):
    """Lifetimes under one condition, (R, N, E) each."""

    returns: np.ndarray
    optimal: np.ndarray  # optimum of the task of each episode; NaN if it is not known
    random: np.ndarray  # return of random play on it, which counts where the optimum is 0 or less


def to_row(name: str, outcome: Outcome, spans: Sequence[tuple[int, int]], after: int | None = None) -> Row:
    """Results of lifetimes whose task changes `after` that number of episodes, None: stays."""
    share = share_of_optimum(outcome.returns, outcome.random, outcome.optimal)
    known = bool(np.isfinite(share).all())
    values = share if known else outcome.returns
    by_span = [values[:, :, first - 1 : last].mean(2) for first, last in spans]  # (R, N) each
    end = by_span[-1].mean(0)  # (N,)
    return Row(
        name,
        SHARE if known else RETURN,
        tuple(bootstrap(mean, scores) for scores in by_span),
        worst=float(end.min()),
        lost=float((end < LOST).mean()) if known else None,
        regret=bootstrap(mean, (outcome.optimal - outcome.returns).sum(2)) if known else None,
        recovery=recovery_of(share[:, :, after:]) if known and after is not None else None,
    )


def recovery_of(share: np.ndarray) -> Recovery:
    """Recovery of lifetimes, given the shares of the optimum (R, N, E) in the episodes after the change."""
    good = share >= GOOD
    twice = good[:, :, :-1] & good[:, :, 1:]  # (R, N, E - 1)
    ever = twice.any(2)  # (R, N)
    count = np.where(ever, twice.argmax(2) + 1, share.shape[2])
    return Recovery(float(np.median(count)), int(count.max()), int((~ever).sum()), ever.size)


# ---- table ------------------------------------------------------------------------------------------------------


def table(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, as text; the last span with its interval."""
    header = ("world", *(span_name(*span) for span in report.spans), "tasks lost", "worst task", "regret", "")
    return header, [_cells(row) for row in report.rows]


def _cells(row: Row) -> tuple[str, ...]:
    *means, last = row.means
    lost = "-" if row.lost is None else f"{row.lost:.0%}"
    regret = "-" if row.regret is None else f"{row.regret.value:.1f}"
    note = str(row.recovery or ("" if row.unit == SHARE else "mean returns, the optimum is not known"))
    return (row.name, *(f"{one.value:.2f}" for one in means), str(last), lost, f"{row.worst:.2f}", regret, note)
