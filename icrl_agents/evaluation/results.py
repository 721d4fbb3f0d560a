"""Measure an agent, print its results table, and write `results.json`, `curve.png` and the card to its folder."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning.search import Planner
from icrl_agents.agents.shown import usual_demos
from icrl_agents.core.checks import check_value
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.printable import printable
from icrl_agents.core.process.jobs.backends import Workers
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted, print_table
from icrl_agents.core.rollout import facts_of
from icrl_agents.core.splits import ALL
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate, learner_splits
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results_table import PLANNED, episode_table, results_table, task_table
from icrl_agents.hub import checkpoint, remote
from icrl_agents.hub.cards import Row, make_card, table_rows
from icrl_agents.hub.checkpoint import RESULTS
from icrl_agents.methods import MODELS
from icrl_agents.sources import SOURCES, make_source
from icrl_agents.sources.source import StepSource

SEEDS, LIFETIMES = 20, 320  # default maximum of lifetimes per task, and in total (at least one per task)
FEW, FAMILY = 10, LIFETIMES  # with fewer test tasks than FEW, and at most FAMILY tasks, all tasks are measured too


def measure(
    agent: Any,
    env_id: str,
    spec: EvalSpec = EvalSpec(),
    *,
    plan: str | Planner | None = None,
    on_episode: Callable[[int], None] | None = None,
    plan_tasks: int | None = None,
    workers: Workers | None = None,
) -> list[Curve]:
    """Curves of the agent, of the agent with a planner, on all tasks, and of its source, as far as they apply.

    If the test tasks are too few, all tasks of the family are measured too, training tasks included (see `all_tasks`).

    Args:
        spec: of the measurement; episodes are by default those of `evaluate`, lifetimes on each task `usual_seeds`.
        plan: measure with this planner too; the first curve is then without any.
        on_episode: called with the number of the agent's finished episodes.
        plan_tasks: with `plan`, number of evenly spaced tasks to measure with the planner; default all.
        workers: as in `evaluate`.

    Raises:
        ValueError: as `evaluate`.
    """
    check_value("plan_tasks", "int | None", plan_tasks, (1, math.inf))
    if plan_tasks and plan is None:
        raise ValueError(f"plan_tasks={plan_tasks} without a plan: give plan, such as 'lookahead'")
    before = agent.planner if isinstance(agent, ICAgent) else None
    if plan is not None and isinstance(agent, ICAgent):
        agent.use_plan(plan)  # ValueError before any measurement if the agent cannot plan
        agent.use_plan(None)
    split, episodes, num_seeds, seed, most, demos = spec
    counts, ids = _counts(agent, env_id, demos), learner_splits(agent, env_id).pick(split).ids
    check_value("tasks", "int | None", most, (1, math.inf))
    tasks = spread(ids, most) if most and most < len(ids) else None
    if num_seeds is None:
        num_seeds = usual_seeds(len(tasks or ids))
    measured = partial(evaluate, agent, env_id, split, episodes, num_seeds, seed, tasks=tasks, workers=workers)
    try:
        curves = [measured(demos=counts[0], on_episode=on_episode)]
        curves += [measured(demos=count).renamed(counted(count, "demonstration")) for count in counts[1:]]
        every = all_tasks(agent, env_id, episodes, seed, workers, counts[0]) if split == "test" else []
        if plan is not None:
            curves.append(_planned(agent, curves[0], seed, plan, plan_tasks, workers))
    finally:
        if before is not None:
            agent.use_plan(before)
    return [*curves, *every, *source_curve(agent, curves[0], num_seeds, seed, workers)]


def _counts(agent: Any, env_id: str, demos: int | None) -> list[int]:
    """Numbers of demonstrations to measure with: the one of the agent's curve, then others beside it."""
    if demos is not None:
        return [demos]
    most = usual_demos(agent, env_id)
    return [most, *(count for count in (0, 1) if count < most)]


def all_tasks(
    agent: Any,
    env_id: str,
    episodes: int | None = None,
    seed: int = 0,
    workers: Workers | None = None,
    demos: int | None = None,
) -> list[Curve]:
    """The agent's curve on all tasks of the family, training tasks included; [] if the test tasks are enough.

    They are too few with fewer than `FEW` test tasks in a family of at most `FAMILY` tasks. One lifetime on each task
    is enough: tasks vary more than lifetimes. The agent is shown `demos` demonstrations, None: all it takes.
    """
    splits = learner_splits(agent, env_id)
    count = len(splits.pick(ALL))
    if len(splits.test) >= FEW or count > FAMILY:
        return []
    found = evaluate(agent, env_id, ALL, episodes, seed=seed, workers=workers, demos=_counts(agent, env_id, demos)[0])
    parts = {name: len(tasks) for name, tasks in splits._asdict().items()}
    return [replace(found, name=f"all {count} tasks", facts={**found.facts, "tasks": parts})]


def usual_seeds(tasks: int) -> int:
    """Default number of lifetimes on each of `tasks` tasks."""
    return max(1, min(SEEDS, LIFETIMES // tasks))


def _planned(
    agent: Any, plain: Curve, seed: int, plan: str | Planner, most: int | None, workers: Workers | None
) -> Curve:
    """The evaluation of `plain` repeated with a planner, on up to `most` of its tasks."""
    num_seeds, count, episodes = plain.runs.shape
    tasks = spread(plain.tasks, most or count)
    found = evaluate(agent, plain.env_id, plain.split, episodes, num_seeds, seed, plan, tasks=tasks, workers=workers)
    return found.renamed(PLANNED)


def spread(tasks: Sequence[int] | np.ndarray, most: int) -> tuple[int, ...]:
    """Up to `most` task ids, evenly spaced."""
    places = np.linspace(0, len(tasks) - 1, min(most, len(tasks))).round().astype(int)
    return tuple(int(task) for task in np.asarray(tasks)[places])


def source_curve(agent: Any, curve: Curve, num_seeds: int, seed: int, workers: Workers | None = None) -> list[Curve]:
    """Curve of the agent's source on the same tasks, without slips and changes of tasks.

    [] for unknown sources and those that cannot be measured here.
    """
    facts = facts_of(agent)
    name, data = facts.get("source"), facts.get("data")
    if not isinstance(name, str) or name not in SOURCES:  # facts of a foreign checkpoint
        return []
    try:
        settings = data.get("settings") if isinstance(data, dict) else None
        source = make_source(name, curve.env_id, settings).undisturbed()
        if not isinstance(source, StepSource):  # one learner for hundreds of episodes: not comparable by episode
            return []
        source.episodes = episodes = curve.runs.shape[2]  # for schedules
        words = {"episodes": episodes, "num_seeds": num_seeds, "seed": seed, "tasks": curve.tasks}
        found = evaluate(source, curve.env_id, **words, workers=workers)
    except (ImportError, TypeError, ValueError):  # not installed, or of another environment: keep the agent's curve
        return []
    return [replace(found, name=f"source {name}", split=curve.split)]


# ---- shown --------------------------------------------------------------------------------------------------------


def show(curves: Sequence[Curve], table: Sequence[Row] = ()) -> None:
    """Print a results table, where there are successes one of all episodes, then the final returns by task.

    The table is that of the curves unless one is given.
    """
    curve = curves[0]
    print(f"{curve.env_id}, {counted(len(curve.tasks), f'{curve.split} task')}, {counted(len(curve.runs), 'run')} each")
    rows = table or results_table(curves)
    intervals = ["" if row.low is None else f"{row.low:.2f} to {row.high:.2f}" for row in rows]
    lines = [(row.name, f"{row.value:.2f}", i, row.over, row.note) for row, i in zip(rows, intervals, strict=True)]
    print_table(("what", "value", "95% interval", "over", ""), lines)
    if curve.success is not None:
        print_table(*episode_table(curve))
    print_table(*task_table(curve))


def headline(results: dict[str, Any]) -> str:
    """Summary of `results.json` in one line: return at the end of a lifetime, its optimum, success; "" without one."""
    rows = {row.name: row for row in table_rows(results)}
    means = [row for row in rows.values() if row.unit == "return" and row.name.startswith("mean return, ")]
    if not means:
        return ""
    end = means[-1].name.removeprefix("mean return, ")
    possible = f" of {rows['optimal'].value:.2f}" if "optimal" in rows else ""
    successes = [f", success {row.value:.2f}" for row in rows.values() if row.name.startswith("success, ")]
    return f"{means[-1].value:.2f}{possible} in {end}{''.join(successes)}"


# ---- files ------------------------------------------------------------------------------------------------------


def build_results(curves: Sequence[Curve], extra: Sequence[Row] = ()) -> dict[str, Any]:
    """Content of `results.json` without the hash of the weights; `extra` rows are appended to its table."""
    curve = curves[0]
    return {
        "env_id": curve.env_id,
        "split": curve.split,
        "episodes": curve.runs.shape[2],
        "num_seeds": curve.runs.shape[0],
        **({"demos": curve.facts["demos"]} if "demos" in curve.facts else {}),
        "settings": curve.facts,
        "versions": versions(),
        "table": [row._asdict() for row in (*results_table(curves), *extra)],
        "curves": [curve.to_json() for curve in curves],
    }


def dump_results(results: dict[str, Any]) -> str:
    """JSON text with one line per entry and per list item, for readable diffs."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in results.items()) + "\n}\n"


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(" " + json.dumps(item, allow_nan=False) for item in value) + "\n]"


def write_report(
    folder: str | Path, curves: Sequence[Curve], study: Sequence[Row] = (), measured_with: dict[str, str] | None = None
) -> None:
    """Write `results.json`, `curve.png` and the updated card to a checkpoint folder, all or none.

    Args:
        folder: the measured checkpoint.
        curves: the agent's curve first, then those of its source and others, with different names.
        study: further rows of the table; by default those of an earlier study of the same weights are kept.
        measured_with: package versions at the time of the measurement; default the installed ones.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        ImportError: matplotlib is not installed.
    """
    from icrl_agents.evaluation.plots import draw_curves

    folder = Path(folder).expanduser()
    weights = checkpoint.weights_sha256(folder)
    rows = study or _study_before(folder, weights)
    tied = {**build_results(curves, rows), "study": [row._asdict() for row in rows], "weights_sha256": weights}
    if measured_with is not None:
        tied["versions"] = measured_with
    figure = draw_curves(curves)
    card = make_card(folder, MODELS, _released_as(folder), tied)
    text = dump_results(tied)
    write_files(folder, {RESULTS: text.encode(), checkpoint.CURVE: figure, checkpoint.CARD: card.encode()})


def _released_as(folder: Path) -> str | None:
    """Id of a bundled agent, for the loading example on its card; None for other folders."""
    return remote.BUNDLED + folder.name if folder.resolve().parent == remote.bundled_folder().resolve() else None


def stored_results(agent: str | Path) -> dict[str, Any]:
    """Content of `results.json` of an agent, given by its folder or bundled id.

    Raises:
        FileNotFoundError: the agent has no results.
        ValueError: the results are damaged.
    """
    name, folder = str(agent), Path(agent).expanduser()
    if not folder.is_dir() and name in remote.list_pretrained():  # as `hub.remote.fetch`: a folder comes first
        folder = remote.bundled_folder() / name.removeprefix(remote.BUNDLED)
    found = checkpoint.read_results(folder)
    if not isinstance(found.get("curves"), list) or not found["curves"]:
        raise ValueError(f"{folder / RESULTS} has no curves: {checkpoint.EVALUATE} again")
    return found


def stored_curves(agent: str | Path) -> list[Curve]:
    """Curves in the stored results of an agent; errors as `stored_results`."""
    return [Curve.from_json(data) for data in stored_results(agent)["curves"]]


def check_measured(agents: Sequence[str], env_id: str, option: str = "--write") -> None:
    """ValueError for a folder to whose results rows of `env_id` cannot be added: it has none, or of another one."""
    for name in agents:
        if not (Path(name).expanduser() / RESULTS).is_file():
            first = shlex.join(["icrl-agents", "evaluate", name, "--write"])
            raise ValueError(f"{option} adds to results, {name} has none: {first} first")
        if (theirs := stored_results(name).get("env_id")) != env_id:
            raise ValueError(
                f"{option} adds to results of {printable(theirs)} in {name}, these would be of {env_id}: "
                f"leave {option} out"
            )


def include_rows(folder: str | Path, rows: Sequence[Row]) -> None:
    """Add rows to the results and the card of a measured checkpoint.

    Table and figure are recomputed from the stored runs. Earlier rows are kept, except those of the same kind: the
    same name up to a colon, such as a set.

    Raises:
        FileNotFoundError: the folder has no results yet.
        ValueError: its results were measured on other weights.
    """
    folder = Path(folder).expanduser()
    found = stored_results(folder)
    make_card(folder, MODELS)  # ValueError for results of other weights, before write_report hashes these
    measured = [Curve.from_json(data) for data in found["curves"]]
    new = {_kind(row) for row in rows}
    before = [row for row in table_rows({"table": found.get("study", [])}) if _kind(row) not in new]
    write_report(folder, measured, [*before, *rows], found.get("versions", {}))


def _kind(row: Row) -> str:
    """Prefix of a row's name up to a colon; rows of one kind are replaced together."""
    return row.name.partition(":")[0]


def _study_before(folder: Path, weights: str) -> list[Row]:
    """Study rows of the existing results, if these belong to the same weights; else []."""
    if not (folder / RESULTS).is_file():
        return []
    try:
        before = checkpoint.read_results(folder)
        return table_rows({"table": before.get("study", [])}) if before.get("weights_sha256") == weights else []
    except ValueError:  # damaged results are replaced
        return []
