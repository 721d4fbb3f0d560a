"""Measure agents on every published task set: unseen tasks, more actions, unseen actions, renumbered actions.

The measure is the regret of a lifetime if the family has one (bandits), else success, the return of an episode.
Axis letters: R training seeds, N tasks, T points of a curve (pulls with a regret, else episodes), A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_known, check_value, whole
from icrl_agents.core.families import Capability, find_family, legal_mask
from icrl_agents.core.files.strict_json import read_json
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import versions
from icrl_agents.core.rollout import Learner
from icrl_agents.core.splits import TRAIN
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.references import STRONGER, reference_learners
from icrl_agents.evaluation.results import dump_results, spread
from icrl_agents.methods import METHODS
from icrl_agents.studies.action_sets.groups import Entry, complete, find_entries, names_of
from icrl_agents.studies.action_sets.lifetimes import LifetimeStats, Setup, action_groups, run_lifetimes
from icrl_agents.studies.action_sets.resampling import Band, band, divide, interval, resampled

JSON, MAX_BYTES = "sets.json", 1 << 26
MEASURE_AGAIN = "run icrl-agents research actions again"


class Result(NamedTuple):
    """Results of one learner on one set."""

    set: str
    learner: str
    tasks: int
    actions: float  # mean number of legal actions
    final: Interval  # regret of the whole lifetime, or success in its last episode
    normalised: Interval | None  # regret scaled to 0 for random play and 1 for the source
    ratio: Interval | None  # regret divided by the source's
    tried: Interval  # number of different actions in a lifetime
    relabelled: Interval | None  # `final` with the legal actions of each task renumbered at random; agents only
    difference: Interval | None  # `relabelled` minus `final`
    curve: Band
    shares: dict[str, Band]  # share of the legal actions tried so far: "in training" and "unseen" actions
    ratios: dict[str, Interval]  # regret divided by that of each stronger reference


INTERVALS = ("final", "normalised", "ratio", "tried", "relabelled", "difference")


class Mean(NamedTuple):
    """Mean of one learner over all sets, with equal weights."""

    learner: str
    score: Interval | None  # mean of `normalised` with a regret, else of `final`; None if undefined
    tried: Interval
    relabelled: Interval | None  # score with renumbered actions; agents only


@dataclass(frozen=True)
class Report:
    """All results of the study; tables and figures derive from it."""

    env_id: str
    measure: str  # "regret" or "success"
    settings: dict[str, Any]
    references: tuple[str, ...]  # reference learners: random play, the source, then others
    entries: tuple[Entry, ...]
    results: tuple[Result, ...]
    means: tuple[Mean, ...]

    def to_json(self) -> str:
        rows = {name: [row._asdict() for row in getattr(self, name)] for name in ("entries", "results", "means")}
        return dump_results({**vars(self), **rows, "versions": versions()})

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a file of `to_json`, or the `sets.json` of a folder; FileNotFoundError or ValueError otherwise."""
        path = Path(path).expanduser()
        path = path / JSON if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is no file: give a folder with {JSON}, as `icrl-agents research actions -o` writes it"
            )
        data = read_json(path, MAX_BYTES, MEASURE_AGAIN)
        try:
            entries, results = tuple(map(_entry, data["entries"])), tuple(map(_result, data["results"]))
            means = tuple(map(_mean, data.get("means", ())))  # older reports have none
            if not results:
                raise TypeError("it has no results")
            given = {name: data[name] for name in ("env_id", "measure", "settings")}
            return cls(**given, references=tuple(data["references"]), entries=entries, results=results, means=means)
        except (AttributeError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {printable(error)}"
            raise ValueError(f"{path} is no report on sets ({why}): {MEASURE_AGAIN}") from None

    @classmethod
    def join(cls, reports: Sequence[Report]) -> Report:
        """Join the agents of all reports, with the references of the first one.

        Raises:
            ValueError: different environments, sets or settings, or an agent in several reports.
        """
        first = reports[0]
        for other in reports[1:]:
            for name in ("env_id", "settings", "sets", "references"):
                if (found := getattr(other, name)) != (wanted := getattr(first, name)):
                    raise ValueError(
                        f"reports of {name}={wanted} and {found} cannot be joined: measure them with the same settings"
                    )
        called = iter(names_of([entry.hyperparameters for report in reports for entry in report.entries]))
        entries: dict[str, Entry] = {}
        results = [row for row in first.results if row.learner in first.references]
        means = [row for row in first.means if row.learner in first.references]
        for report in reports:
            names = {}
            for entry in report.entries:
                name = names[entry.name] = next(called)
                if name in entries:
                    raise ValueError(f"{name!r} is in several reports: give one of them, or measure them together")
                entries[name] = entry._replace(name=name)
            results += [row._replace(learner=names[row.learner]) for row in report.results if row.learner in names]
            means += [row._replace(learner=names[row.learner]) for row in report.means if row.learner in names]
        return replace(first, entries=tuple(entries.values()), results=tuple(results), means=tuple(means))

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(result.set for result in self.results))


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(row["name"], tuple(row["agents"]), complete(row["hyperparameters"]))


def _mean(row: dict[str, Any]) -> Mean:
    return Mean(row["learner"], *(_as_interval(row.get(name)) for name in Mean._fields[1:]))


def _result(row: dict[str, Any]) -> Result:
    """Result from its JSON form, where intervals and bands are lists."""
    intervals = {name: _as_interval(row[name]) for name in INTERVALS}
    shares = {kind: tuple(band) for kind, band in row["shares"].items()}
    ratios = {name: _as_interval(ratio) for name, ratio in row.get("ratios", {}).items()}  # older reports have none
    return Result(**{**row, **intervals, "curve": tuple(row["curve"]), "shares": shares, "ratios": ratios})


def _as_interval(value: Sequence[float] | None) -> Any:
    return value and Interval(*value)


# ---- measuring --------------------------------------------------------------------------------------------------


def default_sets(env_id: str) -> list[str]:
    """Names of the published sets, the last one of those with equal tasks; ValueError for a family without sets."""
    family = find_family(env_id)
    if not family.named:
        raise ValueError(f"{env_id} has no published sets of tasks: use icrl-agents evaluate")
    return list({ids: name for name, ids in family.named.items()}.values())


def suits(entry: Entry, env_id: str, name: str) -> bool:
    """Whether the agents of an entry are measured on a set by default.

    Agents with a fixed output head that were trained on their own task set are measured on sets with the same number
    of actions, as in the published figures, where AD is trained for each number of arms.
    """
    family, method = find_family(env_id), METHODS.get(entry.hyperparameters["method"])
    task_set = entry.hyperparameters.get("task_set", TRAIN)
    if method is None or method.variable_actions or task_set not in family.training:
        return True
    own = family.tasks.named(task_set).ids
    if np.array_equal(own, family.tasks.named(TRAIN).ids):
        return True
    # numbers of legal actions in the tasks of both sets
    counts = [set(legal_mask(family, ids).sum(1).tolist()) for ids in (own, family.tasks.named(name).ids)]
    return counts[0] == counts[1]


def measure(
    agents: Mapping[str, Any],
    env_id: str,
    sets: Sequence[str] | None = None,
    *,
    tasks: int = 100,
    num_seeds: int = 1,
    seed: int = 0,
    episodes: int | None = None,
    relabel: bool = True,
    on_done: Callable[[int], None] = lambda done: None,
) -> Report:
    """Measure agents on task sets, with random play, the environment's source and stronger learners as references.

    Args:
        agents: agents by folder or name.
        env_id: environment id.
        sets: names of sets; default all published ones, restricted per agent by `suits`.
        tasks: maximum number of tasks in each set, evenly spaced; all learners have the same tasks and seeds.
        num_seeds: lifetimes on each task.
        seed: seed of the environments and of sampled actions.
        episodes: episodes in a lifetime; default as published.
        relabel: measure agents with renumbered actions too.
        on_done: called with the number of finished sets.

    Raises:
        ValueError: unknown id or set, a bad number, or agents trained on another split.
    """
    published = default_sets(env_id)
    tasks, num_seeds, seed = whole("tasks", tasks, 1), whole("num_seeds", num_seeds, 1), whole("seed", seed, 0)
    check_value("episodes", "int | None", episodes, (1, 10**6))
    family, names = find_family(env_id), list(dict.fromkeys(sets or published))
    check_known(names, family.sets, "set of tasks")
    for path, agent in agents.items():
        if (split := agent.facts.get("split_seed")) is not None:
            raise ValueError(f"{path} was trained with split_seed={split}, on tasks of these sets: give another agent")
    entries, bandit = find_entries(agents), family.offers(Capability.REGRET)
    episodes = episodes or family.lifetime
    references = reference_learners(env_id, episodes)
    results: list[Result] = []
    scores: dict[str, list[Scores]] = {}
    numbers = {name: number for number, name in enumerate(family.sets, 1)}  # 0 seeds the resampling of training seeds
    for done, name in enumerate(names, 1):
        ids = spread(family.tasks.named(name).ids, tasks)
        setup = Setup(env_id, ids, episodes, num_seeds, seed)
        measured = [entry for entry in entries if sets or suits(entry, env_id, name)]
        seeds: dict[str, list[Learner]] = {entry.name: [agents[path] for path in entry.agents] for entry in measured}
        alone: dict[str, list[Learner]] = {who: [learner] for who, learner in references.items()}
        lives = _run_all(alone | seeds, setup, groups=action_groups(env_id, ids))
        again = _run_all(seeds, setup, relabel=True) if relabel else {}
        legal = legal_mask(family, ids)
        found = on_set(name, numbers[name], legal, lives, again, bandit, list(STRONGER.get(env_id, ())))
        for who, (result, score) in found.items():
            results.append(result)
            scores.setdefault(who, []).append(score)
        on_done(done)
    settings = {"tasks": tasks, "num_seeds": num_seeds, "seed": seed, "episodes": episodes}
    on_all = {who: parts for who, parts in scores.items() if len(parts) == len(names)}  # measured on all sets
    name = "regret" if bandit else "success"
    return Report(env_id, name, settings, tuple(references), entries, tuple(results), mean_rows(on_all))


def _run_all(learners: Mapping[str, list[Learner]], setup: Setup, **options: Any) -> dict[str, list[LifetimeStats]]:
    """Statistics by learner, one for each training seed."""
    return {who: [run_lifetimes(one, setup, **options) for one in group] for who, group in learners.items()}


class Scores(NamedTuple):
    """Scores of one learner on one set, the mean and its resamples: (1 + RESAMPLES,) each."""

    score: np.ndarray
    tried: np.ndarray
    relabelled: np.ndarray | None


def on_set(
    name: str,
    number: int,
    legal: np.ndarray,
    lives: Mapping[str, Sequence[LifetimeStats]],
    again: Mapping[str, Sequence[LifetimeStats]],
    bandit: bool,
    stronger: Sequence[str] = (),
) -> dict[str, tuple[Result, Scores]]:
    """Results and scores of all learners on one set.

    Args:
        name: name of the set.
        number: its number, the seed of its resampled tasks.
        legal: (N, A) bool legal-action mask.
        lives: one `LifetimeStats` per training seed, by learner; random play first, the source second.
        again: the same with renumbered actions, for agents.
        bandit: whether the measure is regret.
        stronger: names of references stronger than the source.
    """

    def mean(scores: Iterable[np.ndarray]) -> np.ndarray:
        return resampled(list(scores), number)

    means = {who: mean(life.curve for life in group) for who, group in lives.items()}  # (1 + RESAMPLES, T) each
    random, source = (curve[:, -1] for curve in list(means.values())[:2])  # (1 + RESAMPLES,) each
    rivals = {name: means[name][:, -1] for name in stronger if name in means}  # (1 + RESAMPLES,) each

    def scaled(value: np.ndarray) -> np.ndarray:
        return divide(random - value, random - source) if bandit else value  # 0 random play, 1 the source

    found = {}
    for who, group in lives.items():
        final, tried = means[who][:, -1], mean(life.tried for life in group)
        moved = mean(life.curve[:, -1] for life in again[who]) if who in again else None
        result = Result(
            set=name,
            learner=who,
            tasks=len(legal),
            actions=float(legal.sum(1).mean()),
            final=interval(final),
            normalised=interval(scaled(final)) if bandit else None,
            ratio=interval(divide(final, source)) if bandit else None,
            tried=interval(tried),
            relabelled=None if moved is None else interval(moved),
            difference=None if moved is None else interval(moved - final),
            curve=band(means[who]),
            shares={kind: band(mean(life.shares[kind] for life in group)) for kind in group[0].shares},
            ratios={name: ratio for name, rival in rivals.items() if (ratio := interval(divide(final, rival)))},
        )
        found[who] = result, Scores(scaled(final), tried, None if moved is None else scaled(moved))
    return found


def mean_rows(scores: Mapping[str, Sequence[Scores]]) -> tuple[Mean, ...]:
    """Means over sets; tasks are resampled independently per set, training seeds jointly."""
    found = []
    for who, parts in scores.items():
        columns = zip(*parts, strict=True)
        values: list[Any] = [None if part[0] is None else interval(np.mean(part, 0)) for part in columns]
        found.append(Mean(who, *values))
    return tuple(found)
