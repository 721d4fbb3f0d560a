"""Agents on every published set of tasks: other tasks, more actions, other ones, and the same ones renumbered.

What is measured on a set is the regret of a lifetime where the rules tell one (bandits), else success, an episode's
return. Axis letters: R training seeds, N tasks, T points of a curve (pulls where there is a regret, else episodes),
E episodes, A actions, B rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from icrl_envs import FAMILIES

from icrl_agents.action_sets import legal_actions
from icrl_agents.atomic import write_files
from icrl_agents.config import check_known, check_value
from icrl_agents.evaluation import QUANTILES, RESAMPLES, Interval
from icrl_agents.methods import method_name
from icrl_agents.plots import COLOURS, REFERENCES, Series, draw_bars, draw_lines
from icrl_agents.report import dump_results, spread
from icrl_agents.rollout import Learner, rollout
from icrl_agents.run_folder import versions
from icrl_agents.sources import default_source, make_source

EPISODES = 200  # of a lifetime that is no bandit's, as published; a bandit's whole lifetime is one
RANDOM = "random"
RELABEL = 0x1ABE1  # sets the generator of new numbers apart from the environments'
ABLATED = ("vectors", "objective", "prompt")  # what variants of a method are named after, if they differ in it
HYPERPARAMETERS = ("method", "layers", "heads", "width", "window", "temperature", "lr", "weight_decay", "beta2",
                   "dropout", "batch_size", "updates", "episodes", "source", *ABLATED)  # fmt: skip
JSON, MARKDOWN, CSV, HYPER_CSV = "sets.json", "sets.md", "sets.csv", "hyperparameters.csv"
BARS, CURVES, TRIED = "bars.png", "curves.png", "tried.png"
FILES = (JSON, MARKDOWN, CSV, HYPER_CSV, BARS, CURVES, TRIED)
COLUMNS = ("set", "learner", "tasks", "actions", "final", "normalised", "ratio", "tried", "relabelled", "difference")

Band = tuple[list[float], list[float], list[float]]  # (T,) each: the mean, and its 95% interval at every point


class Result(NamedTuple):
    """One learner on one set."""

    set: str
    learner: str
    tasks: int
    actions: float  # legal ones, mean over tasks
    final: Interval  # regret of the whole lifetime, or success in its last episode
    normalised: Interval | None  # regret on a scale from random play, 0, to the source, 1
    ratio: Interval | None  # regret over the source's
    tried: Interval  # different actions in a lifetime
    relabelled: Interval | None  # `final` with the legal actions of each task renumbered at random; agents only
    difference: Interval | None  # by how much it is more than `final`
    curve: Band
    shares: dict[str, Band]  # of the legal actions that training had, and of those that it had not, tried so far


class Entry(NamedTuple):
    """Agents that differ in nothing but the training seed."""

    name: str
    agents: tuple[str, ...]  # folders or names
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """All that was measured; the figures need nothing else."""

    env_id: str
    measure: str  # "regret" or "success"
    settings: dict[str, Any]
    references: tuple[str, ...]  # learners that are no agents: random play, the source, then others
    entries: tuple[Entry, ...]
    results: tuple[Result, ...]

    def to_json(self) -> str:
        rows = {name: [row._asdict() for row in getattr(self, name)] for name in ("entries", "results")}
        return dump_results({**vars(self), **rows, "versions": versions()})


# ---- living -----------------------------------------------------------------------------------------------------


class Watch(VectorWrapper):
    """Notes the regret of every step, and the episode in which each action was first tried. For SAME_STEP."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.rows = np.arange(env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        space: Any = self.single_action_space
        self.regret: list[np.ndarray] = []  # (B,) of each step
        self.first = np.full((self.num_envs, space.n), np.inf)  # (B, A)
        self.episode = np.zeros(self.num_envs, np.int64)  # (B,) finished ones
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.first[self.rows, actions] = np.minimum(self.first[self.rows, actions], self.episode)
        obs, reward, terminated, truncated, info = super().step(actions)
        if "regret" in info:  # where the step ended an episode that of the next one's start, which is 0
            last = info.get("final_info", {"regret": 0.0, "_regret": False})
            self.regret.append(np.where(last["_regret"], last["regret"], info["regret"]))
        self.episode += terminated | truncated
        return obs, reward, terminated, truncated, info


class Relabel(VectorWrapper):
    """Renumbers the legal actions of each row at random; the legal ones are the first, before and after."""

    def __init__(self, env: VectorEnv, seed: int):
        super().__init__(env)
        self.rows, self.seed = np.arange(env.num_envs), seed

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        found = super().reset(seed=seed, options=options)
        space: Any = self.single_action_space
        drawn = np.random.default_rng([self.seed, RELABEL]).random((self.num_envs, space.n))
        legal = legal_actions(self.env)
        keys = drawn if legal is None else np.where(legal, drawn, np.inf)
        self.order = keys.argsort(1, kind="stable")  # (B, A) the env's action behind each number
        return found

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return super().step(self.order[self.rows, actions])


class Life(NamedTuple):
    """What one learner did, means over its lifetimes on each task."""

    curve: np.ndarray  # (N, T) regret so far, or success
    tried: np.ndarray  # (N,) different actions
    shares: dict[str, np.ndarray]  # (N, E) of groups of actions tried so far


def live(
    learner: Learner,
    env_id: str,
    tasks: Sequence[int],
    episodes: int = 1,
    seeds: Sequence[int] = (0,),
    relabel: bool = False,
    groups: Mapping[str, np.ndarray] | None = None,
) -> Life:
    """Live one lifetime on every task for each of `seeds`; the same seed has the same randomness for all learners.

    Args:
        groups: of actions (N, A) bool whose tried shares are told.
    """
    lives = []
    for seed in seeds:
        watch = Watch(gymnasium.make_vec(env_id, num_envs=len(tasks)))
        env = Relabel(watch, seed) if relabel else watch
        returns = rollout(learner, env, episodes, seed=seed, options={"task": np.array(tasks)})
        env.close()
        curve = np.cumsum(watch.regret, 0).T if watch.regret else returns
        tried = watch.first[:, None] <= np.arange(episodes)[:, None]  # (N, E, A)
        shares = [(tried & group[:, None]).sum(2) / group.sum(1)[:, None] for group in (groups or {}).values()]
        lives.append((curve, tried[:, -1].sum(1), *shares))
    curve, tried, *shares = (np.mean(values, 0) for values in zip(*lives, strict=True))
    return Life(curve, tried, dict(zip(groups or {}, shares, strict=True)))


def action_groups(env_id: str, tasks: Sequence[int]) -> dict[str, np.ndarray]:
    """Legal actions (N, A) bool that do what training actions did, and the others; {} unless all tasks have both.

    Known of environments whose tasks name what their actions do.
    """
    rules = FAMILIES[env_id].rules
    if "action_set" not in rules.task_names:
        return {}
    legal = rules.action_mask(np.array(tasks)).astype(bool)
    trained = rules.task_kwargs(rules.named["train"][0])["action_set"]
    old = np.zeros_like(legal)
    for row, task in enumerate(tasks):
        made = rules.task_kwargs(task)["action_set"]
        old[row, : len(made)] = np.isin(made, trained)
    groups = {"in training": old, "unseen": legal & ~old}
    return groups if all(group.any(1).all() for group in groups.values()) else {}


# ---- entries ----------------------------------------------------------------------------------------------------


def hyperparameters(agent: Any) -> dict[str, Any]:
    """What agents must share to be training seeds of one entry; None where an agent has no such thing."""
    known = {**_part(agent.facts, "train"), "source": agent.facts.get("source"), **asdict(agent.config)}
    known["method"] = method_name(type(agent))
    of_source = {f"source.{name}": v for name, v in _part(_part(agent.facts, "data"), "settings").items()}
    return {name: known.get(name) for name in HYPERPARAMETERS} | of_source


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of what may be somebody else's facts."""
    return part if isinstance(part := facts.get(name), dict) else {}


def find_entries(agents: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Sort agents into entries, which are named after the method and what sets them apart from its first agent.

    Raises:
        ValueError: two agents would have the same name without being the same.
    """
    firsts: dict[str, dict[str, Any]] = {}
    found: dict[str, Entry] = {}
    for path, agent in agents.items():
        mine = hyperparameters(agent)
        first = firsts.setdefault(mine["method"], mine)
        changed = [name for name in {**first, **mine} if mine.get(name) != first.get(name)]
        told = [name for name in changed if name in ABLATED] or changed
        name = mine["method"] + (f" ({', '.join(f'{name}={mine.get(name)}' for name in told)})" if told else "")
        entry = found.setdefault(name, Entry(name, (), mine))
        if other := [name for name in {**entry.hyperparameters, **mine} if mine.get(name) != entry[2].get(name)]:
            raise ValueError(
                f"{path} and {entry.agents[0]} are both {name!r}, but differ in {', '.join(other)}: measure them apart"
            )
        found[name] = entry._replace(agents=(*entry.agents, path))
    return tuple(found.values())


def default_sets(env_id: str) -> list[str]:
    """The names of all published sets, of those with the same tasks the last name only; ValueError if it has none."""
    check_known([env_id], FAMILIES, "environment with a task set")
    if not FAMILIES[env_id].rules.named:
        raise ValueError(f"{env_id} has no published sets of tasks: use icrl-agents evaluate")
    return list({ids: name for name, ids in FAMILIES[env_id].rules.named.items()}.values())


# ---- measuring --------------------------------------------------------------------------------------------------


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
    """Measure agents on sets of tasks, beside random play, the environment's source and for bandits UCB.

    Args:
        agents: by the folders or names they came from.
        sets: names of published sets; default all.
        tasks: of each set at most so many, evenly spaced; everybody lives the same ones with the same seeds.
        num_seeds: lifetimes on each task.
        episodes: of a lifetime; default 1 where there is a regret, else `EPISODES`.
        relabel: measure agents with renumbered actions as well.
        on_done: called with the number of sets that are done.

    Raises:
        ValueError: unknown id or set, a bad number, or agents that do not fit.
    """
    published = default_sets(env_id)
    for name, value, least in (("tasks", tasks, 1), ("num_seeds", num_seeds, 1), ("seed", seed, 0)):
        check_value(name, "int", value, (least, 2**31 - 1))
    check_value("episodes", "int | None", episodes, (1, 10**6))
    rules, names = FAMILIES[env_id].rules, list(dict.fromkeys(sets or published))
    check_known(names, rules.named, "set of tasks")
    for path, agent in agents.items():
        if (split := agent.facts.get("split_seed")) is not None:
            raise ValueError(f"{path} was trained with split_seed={split}, on tasks of these sets: give another agent")
    entries, bandit = find_entries(agents), hasattr(rules, "regret")
    episodes = episodes or (1 if bandit else EPISODES)
    references = reference_learners(env_id, episodes)
    learners: dict[str, list[Learner]] = {name: [learner] for name, learner in references.items()}
    learners |= {entry.name: [agents[path] for path in entry.agents] for entry in entries}
    seeds = [seed, *(np.random.SeedSequence(seed).generate_state(num_seeds - 1) >> 1).tolist()]
    results: list[Result] = []
    for done, name in enumerate(names, 1):
        ids = spread(FAMILIES[env_id].named(name).ids, tasks)
        how = env_id, ids, episodes, seeds
        groups = action_groups(env_id, ids)
        lives = {who: [live(one, *how, groups=groups) for one in group] for who, group in learners.items()}
        moved = [entry.name for entry in entries if relabel]
        again = {who: [live(one, *how, relabel=True) for one in learners[who]] for who in moved}
        results += _results(name, rules.action_mask(np.array(ids)), lives, again, bandit)
        on_done(done)
    settings = {"tasks": tasks, "num_seeds": num_seeds, "seed": seed, "episodes": episodes}
    return Report(env_id, "regret" if bandit else "success", settings, tuple(references), entries, tuple(results))


def reference_learners(env_id: str, episodes: int) -> dict[str, Learner]:
    """Random play of legal actions, the source, and UCB where there is a regret; by what figures call them."""
    source = default_source(env_id)
    names = {RANDOM: "uniform", source: source}
    if hasattr(FAMILIES[env_id].rules, "regret"):
        names["ucb"] = "ucb"
    learners: dict[str, Any] = {shown: make_source(name, env_id) for shown, name in names.items()}
    for learner in learners.values():
        learner.episodes = episodes  # for schedules
    return learners


def _results(
    name: str,
    legal: np.ndarray,
    lives: Mapping[str, Sequence[Life]],
    again: Mapping[str, Sequence[Life]],
    bandit: bool,
) -> list[Result]:
    """All learners on one set; the first is random play, the second the source."""
    means = {who: _resampled([life.curve for life in group]) for who, group in lives.items()}
    random, source = (mean[:, -1] for mean in list(means.values())[:2])
    found = []
    for who, group in lives.items():
        final = means[who][:, -1]
        moved = _resampled([life.curve[:, -1] for life in again[who]]) if who in again else None
        result = Result(
            set=name,
            learner=who,
            tasks=len(legal),
            actions=float(legal.sum(1).mean()),
            final=_interval(final),
            normalised=_interval(_divide(random - final, random - source)) if bandit else None,
            ratio=_interval(_divide(final, source)) if bandit else None,
            tried=_interval(_resampled([life.tried for life in group])),
            relabelled=None if moved is None else _interval(moved),
            difference=None if moved is None else _interval(moved - final),
            curve=_band(means[who]),
            shares={kind: _band(_resampled([life.shares[kind] for life in group])) for kind in group[0].shares},
        )
        found.append(result)
    return found


def _resampled(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Means (1 + RESAMPLES, ...) of scores (R, N, ...): first that of all, then of runs and tasks drawn anew.

    Everybody's tasks are drawn alike, so that differences and ratios are those of the same tasks.
    """
    runs, tasks = (_weights(count, seed) for seed, count in enumerate((len(scores), len(scores[0]))))
    return sum(((runs[:, [r]] * tasks) @ score for r, score in enumerate(scores)), np.zeros(()))


def _weights(count: int, seed: int) -> np.ndarray:
    """(1 + RESAMPLES, count) shares: equal ones, then how often each is drawn with replacement."""
    even = np.full(count, 1 / count)
    return np.vstack([even, np.random.default_rng(seed).multinomial(count, even, RESAMPLES) / count])


def _interval(means: np.ndarray) -> Any:
    """What `_resampled` means, (1 + RESAMPLES,); None where it cannot be told."""
    if not np.isfinite(means).all():
        return None
    return Interval(*map(float, (means[0], *np.percentile(means[1:], QUANTILES))))


def _divide(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)


def _band(means: np.ndarray) -> Band:
    """`_interval` at every point, (1 + RESAMPLES, T); rounded, for it is to be drawn."""
    points = np.round([means[0], *np.percentile(means[1:], QUANTILES, axis=0)], 4)
    mean, low, high = points.tolist()
    return mean, low, high


# ---- files ------------------------------------------------------------------------------------------------------


def write_sets(report: Report, folder: str | Path) -> None:
    """Write tables, figures and `sets.json` into a folder, all or none; those of an earlier report are replaced.

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
    for name in set(FILES) - set(contents):  # a figure that this report does not have
        (folder / name).unlink(missing_ok=True)


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; columns that no row fills are left out."""
    names = _filled(report)
    rows = [[_text(getattr(result, name)) for name in names] for result in report.results]
    return [report.measure if name == "final" else name for name in names], rows


def _filled(report: Report) -> list[str]:
    return [name for name in COLUMNS if any(getattr(result, name) is not None for result in report.results)]


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *rows))


def _flat(report: Report, result: Result) -> dict[str, Any]:
    """A result as a line of numbers: an interval fills three cells."""
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
    """The pictures that there is something to show in, by file name."""
    found = {BARS: draw_bars(bars(report), colours(report), f"final {report.measure}")}
    if growing := lines(report, _regret_of_arms):
        found[CURVES] = draw_lines(growing, "pull", "regret so far")
    if tried := lines(report, lambda result: {f"{result.set}, {kind}": band for kind, band in result.shares.items()}):
        found[TRIED] = draw_lines(tried, "in-context episode", "share of these actions tried")
    return found


def _regret_of_arms(result: Result) -> dict[str, Band]:
    """The curve of a set whose tasks all have the number of arms that its name says."""
    kind, _, count = result.set.partition("_")
    return {f"{count} arms": result.curve} if kind == "num" else {}


def colours(report: Report) -> dict[str, str]:
    """A colour for each learner: greys for those that are no agents."""
    names = [entry.name for entry in report.entries]
    greys = dict(zip(report.references, REFERENCES, strict=False))
    return greys | dict(zip(names, COLOURS * len(names), strict=False))


def bars(report: Report) -> dict[str, dict[str, dict[str, Interval]]]:
    """By panel, set and learner; sets <actions>_<goals> have a panel for each kind of goals."""
    panels: dict[str, dict[str, dict[str, Interval]]] = {}
    for result in report.results:
        head, _, tail = result.set.rpartition("_")
        title, name = (report.env_id, result.set) if report.measure == "regret" else (f"{tail} goals", head or tail)
        panels.setdefault(title, {}).setdefault(name, {})[result.learner] = result.final
    return panels


def lines(report: Report, pick: Callable[[Result], Mapping[str, Band]]) -> dict[str, dict[str, Series]]:
    """By panel and learner what `pick` takes from each result for the panels that it names."""
    colour = colours(report)
    panels: dict[str, dict[str, Series]] = {}
    for result in report.results:
        style = "--" if result.learner in report.references else "-"
        for title, band in pick(result).items():
            panels.setdefault(title, {})[result.learner] = Series(*band, colour[result.learner], style)
    return panels
