"""Compare agents with and without planning to published results: a table, and a figure for each environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.agents.planning.search import Planner, make_planner
from icrl_agents.core.files.atomic import write_files, write_text
from icrl_agents.core.splits import ALL, split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate, learner_splits
from icrl_agents.evaluation.results import source_curve, spread, stored_curves, usual_seeds
from icrl_agents.evaluation.results_table import PLANNED, last_episodes
from icrl_agents.sources import default_source


class Published(NamedTuple):
    """Published mean test return at episode 50 over five splits (arXiv 2502.19009, read from its figures, +-0.02)."""

    plain: float
    planned: float


PUBLISHED: dict[str, dict[str, Published]] = {
    "icrl/Darkroom-v0": {
        "ad": Published(13.67, 15.42),
        "dpt": Published(7.40, 9.00),
        "idt": Published(10.42, 13.20),
    },
    "icrl/DarkroomPermuted-v0": {
        "ad": Published(30.6, 31.6),
        "dpt": Published(28.9, 33.1),
        "idt": Published(27.6, 31.6),
    },
    "icrl/DarkKeyToDoor-v0": {
        "ad": Published(1.02, 1.06),
        "dpt": Published(0.81, 1.24),
        "idt": Published(1.35, 1.56),
    },
}
EPISODES = 50
SHOWN = (1, 3, 5, 8, 10, 12, 20, 30, 50)
PLAN_TASKS = {"icrl/DarkKeyToDoor-v0": 32}  # maximum number of tasks with planning, about a tenth: planning is slow


class Entry(NamedTuple):
    """One agent of the table, with all of its training seeds."""

    method: str
    env_id: str
    agents: tuple[str, ...]  # folders or names, one per training seed
    source: str = ""  # source of its histories, "" for the environment's default

    @property
    def label(self) -> str:
        return f"{self.method} ({self.source})" if self.source else self.method


class Measured(NamedTuple):
    """Curves of one agent, each over all of its training seeds."""

    entry: Entry
    plain: Curve
    planned: Curve | None
    source: Sequence[Curve] = ()  # curve of the first training's source, if it can be measured
    every: Curve | None = None  # curve on all tasks of the family, training tasks included, if its card has one


def released(also: str | Path | None = None) -> list[Entry]:
    """Entries of the bundled agents with published results, and of their further training seeds.

    Args:
        also: folder of further trainings, `<name>-seed<number>`.

    Raises:
        FileNotFoundError: `also` has none.
    """
    from icrl_agents.hub.checkpoint import CONFIG, read_config
    from icrl_agents.hub.remote import BUNDLED, bundled_folder, list_pretrained

    found = []
    for name in list_pretrained():
        short = name.removeprefix(BUNDLED)
        config = read_config(bundled_folder() / short)
        method, env_id = config.method, config.facts.get("env_id", "")
        if config.config.get("dynamics") and method in PUBLISHED.get(env_id, {}):
            places = sorted(Path(also).expanduser().glob(f"{short}-seed*")) if also else []
            others = [place for place in places if (place / CONFIG).is_file()]  # finished trainings only
            source = config.facts.get("source", "")
            usual = source == default_source(env_id)
            found.append(Entry(method, env_id, (name, *map(str, others)), "" if usual else source))
    if also and all(len(entry.agents) == 1 for entry in found):
        raise FileNotFoundError(
            f"{also} has no finished training of an agent of the table, such as ad-darkroom-seed1: name the folder "
            "that holds some"
        )
    envs = list(PUBLISHED)
    return sorted(found, key=lambda entry: (envs.index(entry.env_id), entry.method, entry.source))


def stored(entry: Entry) -> Measured:
    """Stored curves of the first agent of an entry, without a new measurement."""
    curves = stored_curves(entry.agents[0])
    planned = next((replace(curve, name=f"{entry.label}, planned") for curve in curves if curve.name == PLANNED), None)
    every = next((curve for curve in curves if curve.split == ALL), None)
    only = entry._replace(agents=entry.agents[:1])
    return Measured(only, replace(curves[0], name=entry.label), planned, every=every)


def measure(entry: Entry, planner: Planner, num_seeds: int, cache: Path, on_done: Callable[[str], None]) -> Measured:
    """Evaluate every training of an entry on the test tasks, without and with planning.

    Curves are cached in the folder `cache`, so an interrupted comparison continues.
    """
    from icrl_agents.agents.agent import ICAgent

    curves: dict[str, list[Curve]] = {"plain": [], "planned": []}
    source: list[Curve] = []
    for name in entry.agents:
        agent = ICAgent.from_pretrained(name)
        for kind, plan in (("plain", None), ("planned", planner)):
            most = PLAN_TASKS.get(entry.env_id) if plan else None
            curve = _kept(agent, entry.env_id, num_seeds, plan, most, cache)
            curves[kind].append(curve)
            on_done(f"{name}, {kind}: {curve.at(EPISODES)} at episode {EPISODES}")
        if not source and not entry.source:  # only the environment's default source is measured
            source = source_curve(agent, curves["plain"][0], 1, 0)
    plain, planned = (Curve.join(found, entry.label) for found in curves.values())
    return Measured(entry, plain, replace(planned, name=f"{entry.label}, planned"), source)


def _kept(agent: Any, env_id: str, num_seeds: int, plan: Planner | None, most: int | None, cache: Path) -> Curve:
    """The agent's curve: cached by evaluation settings, config and weights, otherwise measured now."""
    held_out = learner_splits(agent, env_id).test.ids
    tasks = spread(held_out, most or len(held_out))
    settings = json.dumps([env_id, EPISODES, num_seeds, plan and asdict(plan), tasks, asdict(agent.config)])
    weights = b"".join(value.cpu().numpy().tobytes() for value in agent.state_dict().values())
    # the hash changes with the weights, so a retrained agent is measured again
    path = cache / f"{hashlib.sha256(settings.encode() + weights).hexdigest()[:20]}.json"
    if path.is_file():
        return Curve.load(path)
    curve = evaluate(agent, env_id, "test", EPISODES, num_seeds, plan=plan, tasks=tasks)
    curve.save(path)
    return curve


def compare(
    entries: Sequence[Entry],
    out: str | Path,
    *,
    plan: str | Planner = "lookahead",
    plan_kwargs: Mapping[str, Any] | None = None,
    num_seeds: int | None = None,
    on_done: Callable[[str], None] = lambda line: None,
) -> list[Measured]:
    """Measure all entries and write `table.md`, `table.json` and one figure per environment to `out`.

    Args:
        entries: agents to measure.
        out: output folder; `out/curves` caches the curves.
        plan: planner or its name.
        plan_kwargs: settings of the planner that override its defaults.
        num_seeds: lifetimes on each task; default `usual_seeds`.
        on_done: called with a line of text after each curve.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from icrl_agents.evaluation.figure import require_matplotlib

    require_matplotlib()
    out, planner = Path(out).expanduser(), make_planner(plan, plan_kwargs)
    found = []
    for entry in entries:
        seeds = usual_seeds(len(split_tasks(entry.env_id).test)) if num_seeds is None else num_seeds
        found.append(measure(entry, planner, seeds, out / "curves", on_done))
    write(found, out)
    return found


HEADER = ("env (optimum)", "agent", "published", "ours", "published, planned", "ours, planned", "intervals over")


def markdown(found: Sequence[Measured]) -> str:
    """Comparison table as Markdown."""
    lines: list[tuple[str, ...]] = [HEADER, tuple("---" for _ in HEADER), *rows(found)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rows(found: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Table rows: return at episode 50, ours with a 95% interval; then the known results on all tasks."""
    every = [_line(measured.entry, measured.every, "not measured") for measured in found if measured.every]
    return [*(_line(measured.entry, measured.plain, _planned(measured)) for measured in found), *every]


def _line(entry: Entry, plain: Curve, planned: str) -> tuple[str, ...]:
    theirs = PUBLISHED[entry.env_id][entry.method]
    env = f"{entry.env_id}{', all tasks' if plain.split == ALL else ''} ({plain.optimal.mean():.2f})"
    published = f"{theirs.plain:.2f}", f"{theirs.planned:.2f}"
    return env, entry.label, published[0], str(plain.at(EPISODES)), published[1], planned, str(plain.sample)


def _planned(measured: Measured) -> str:
    if not measured.planned:
        return "not measured"
    text = str(measured.planned.at(EPISODES))
    if (tasks := measured.planned.tasks) != measured.plain.tasks:
        without = measured.plain.on(tasks).at(EPISODES)  # planning may cover a part of the tasks
        text += f" ({len(tasks)} tasks; {without.value:.2f} without)"
    return text


def write(found: Sequence[Measured], out: Path) -> None:
    """Write the table as Markdown and JSON, and one figure per environment, to the folder `out`."""
    from icrl_agents.evaluation.plots import draw_curves

    write_text(out / "table.md", markdown(found))
    write_text(out / "table.json", json.dumps([to_json(measured) for measured in found], indent=1) + "\n")
    for env_id in dict.fromkeys(measured.entry.env_id for measured in found):
        here = [measured for measured in found if measured.entry.env_id == env_id]
        curves = [curve for m in here for curve in (m.plain, m.planned) if curve]
        curves += next((m.source for m in here if m.source), ())
        write_files(out, {f"{env_id.removeprefix('icrl/').lower()}.png": draw_curves(curves)})


def to_json(measured: Measured) -> dict[str, Any]:
    """Means and 95% intervals of an agent at the episodes `SHOWN` and over the last ten, with the published values."""
    entry = measured.entry
    curves = {"plain": measured.plain, "planned": measured.planned, "all tasks": measured.every}
    ours = {
        kind: {
            **{str(episode): curve.at(episode) for episode in SHOWN},
            "last ten": curve.at(*last_episodes(EPISODES)),
        }
        for kind, curve in curves.items()
        if curve
    }
    theirs = PUBLISHED[entry.env_id][entry.method]._asdict()
    facts = (measured.planned or measured.plain).facts
    return {**entry._asdict(), "published": theirs, "ours": ours, "facts": facts}
