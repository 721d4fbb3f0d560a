"""What was measured on an agent: the results table, and `results.json` with curve and card in its folder."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning.search import Planner
from icrl_agents.core.checks import check_value
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.process.packages import versions
from icrl_agents.core.process.terminal import counted, print_table
from icrl_agents.core.rollout import facts_of
from icrl_agents.core.splits import ALL
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate, learner_splits
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results_table import PLANNED, results_table, task_table
from icrl_agents.hub import checkpoint
from icrl_agents.hub.cards import Row, make_card, table_rows
from icrl_agents.hub.checkpoint import RESULTS
from icrl_agents.hub.remote import BUNDLED, bundled_folder
from icrl_agents.methods import METHODS
from icrl_agents.sources import SOURCES, make_source
from icrl_agents.sources.source import StepSource

SEEDS, LIFETIMES = 20, 320  # maximum number of lifetimes on each task, and of all (one on each task is the minimum)
FEW, FAMILY = 10, LIFETIMES  # with fewer test tasks than FEW, and at most FAMILY tasks, all tasks are measured too


def measure(
    agent: Any,
    env_id: str,
    spec: EvalSpec = EvalSpec(),
    *,
    plan: str | Planner | None = None,
    on_episode: Callable[[int], None] | None = None,
    plan_tasks: int | None = None,
) -> list[Curve]:
    """The agent's curve, that with a planner, that on all tasks, and that of its source, if that is known.

    All tasks of a family, those it was trained on too, are measured where the test tasks are too few to stand for them
    (see `all_tasks`).

    Args:
        spec: of the measurement; episodes are by default those of `evaluate`, lifetimes on each task `usual_seeds`.
        plan: measure with this planner too; the first curve is then without any.
        on_episode: called with the number of the agent's finished episodes.
        plan_tasks: with `plan`, how many of the tasks to measure with the planner, evenly spaced; default all.

    Raises:
        ValueError: as `evaluate`.
    """
    check_value("plan_tasks", "int | None", plan_tasks, (1, math.inf))
    if plan_tasks and plan is None:
        raise ValueError(f"plan_tasks={plan_tasks} without a plan: give plan, such as 'lookahead'")
    before = agent.planner if isinstance(agent, ICAgent) else None
    if plan is not None and isinstance(agent, ICAgent):
        agent.use_plan(plan)  # refuses what cannot plan before anything is measured
        agent.use_plan(None)
    split, episodes, num_seeds, seed, _ = spec
    if num_seeds is None:
        num_seeds = usual_seeds(len(learner_splits(agent, env_id).pick(split)))
    try:
        curves = [evaluate(agent, env_id, split, episodes, num_seeds, seed, on_episode=on_episode)]
        every = all_tasks(agent, env_id, episodes, seed) if split == "test" else []
        if plan is not None:
            curves.append(_planned(agent, curves[0], seed, plan, plan_tasks))
    finally:
        if before is not None:
            agent.use_plan(before)
    return [*curves, *every, *source_curve(agent, curves[0], num_seeds, seed)]


def all_tasks(agent: Any, env_id: str, episodes: int | None = None, seed: int = 0) -> list[Curve]:
    """The agent's curve on every task of the family, those for training too, if the test tasks are few; else none.

    Few are less than `FEW`, where the family has at most `FAMILY` tasks. One life on each is enough: tasks differ more
    than lives.
    """
    splits = learner_splits(agent, env_id)
    count = len(splits.pick(ALL))
    if len(splits.test) >= FEW or count > FAMILY:
        return []
    found = evaluate(agent, env_id, ALL, episodes, seed=seed)
    parts = {name: len(tasks) for name, tasks in splits._asdict().items()}
    return [replace(found, name=f"all {count} tasks", facts={**found.facts, "tasks": parts})]


def usual_seeds(tasks: int) -> int:
    """Lifetimes on each of so many tasks that tell enough, unless said otherwise."""
    return max(1, min(SEEDS, LIFETIMES // tasks))


def _planned(agent: Any, plain: Curve, seed: int, plan: str | Planner, most: int | None) -> Curve:
    """As `plain`, with a planner, on at most so many of its tasks."""
    num_seeds, count, episodes = plain.runs.shape
    tasks = spread(plain.tasks, most) if most and most < count else None
    found = evaluate(agent, plain.env_id, plain.split, episodes, num_seeds, seed, plan, tasks=tasks)
    return replace(found, name=PLANNED, split=plain.split)


def spread(tasks: Sequence[int] | np.ndarray, most: int) -> tuple[int, ...]:
    """`most` of the tasks, evenly spaced, or all if there are no more."""
    places = np.linspace(0, len(tasks) - 1, min(most, len(tasks))).round().astype(int)
    return tuple(int(task) for task in np.asarray(tasks)[places])


def source_curve(agent: Any, curve: Curve, num_seeds: int, seed: int) -> list[Curve]:
    """What the source that the agent was trained on earns on the same tasks; none where that cannot be told."""
    facts = facts_of(agent)
    name, data = facts.get("source"), facts.get("data")
    if not isinstance(name, str) or name not in SOURCES:  # facts of a foreign checkpoint
        return []
    try:
        source = make_source(name, curve.env_id, data.get("settings") if isinstance(data, dict) else None)
        if not isinstance(
            source, StepSource
        ):  # it learns over hundreds of episodes of one task, which no line here can show
            return []
        source.episodes = episodes = curve.runs.shape[2]  # of its lifetime, for schedules
        found = evaluate(source, curve.env_id, episodes=episodes, num_seeds=num_seeds, seed=seed, tasks=curve.tasks)
    except (ImportError, TypeError, ValueError):  # not installed, or of other environments; the agent was measured
        return []
    return [replace(found, name=f"source {name}", split=curve.split)]


# ---- shown --------------------------------------------------------------------------------------------------------


def show(curves: Sequence[Curve]) -> None:
    """The results table, then how each task ended."""
    curve = curves[0]
    print(f"{curve.env_id}, {counted(len(curve.tasks), f'{curve.split} task')}, {counted(len(curve.runs), 'run')} each")
    rows = results_table(curves)
    intervals = ["" if row.low is None else f"{row.low:.2f} to {row.high:.2f}" for row in rows]
    lines = [(row.name, f"{row.value:.2f}", i, row.over, row.note) for row, i in zip(rows, intervals, strict=True)]
    print_table(("what", "value", "95% interval", "over", ""), lines)
    header, tasks = task_table(curve)
    print_table(header, tasks)


def headline(results: dict[str, Any]) -> str:
    """The one line of `results.json` that says most: what the agent earns in the end, of what it could."""
    rows = {row.name: row for row in table_rows(results)}
    means = [row for row in rows.values() if row.unit == "return" and row.name.startswith("mean return, ")]
    if not means:
        return ""
    end = means[-1].name.removeprefix("mean return, ")
    possible = f" of {rows['optimal'].value:.2f}" if "optimal" in rows else ""
    return f"{means[-1].value:.2f}{possible} in {end}"


# ---- files ------------------------------------------------------------------------------------------------------


def build_results(curves: Sequence[Curve], extra: Sequence[Row] = ()) -> dict[str, Any]:
    """What `results.json` holds, besides the weights it is tied to; `extra` rows end its table."""
    curve = curves[0]
    return {
        "env_id": curve.env_id,
        "split": curve.split,
        "episodes": curve.runs.shape[2],
        "num_seeds": curve.runs.shape[0],
        "settings": curve.facts,
        "versions": versions(),
        "table": [row._asdict() for row in (*results_table(curves), *extra)],
        "curves": [curve.to_json() for curve in curves],
    }


def dump_results(results: dict[str, Any]) -> str:
    """As JSON with one line for each entry and each item of a list: rows can be read and compared."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in results.items()) + "\n}\n"


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(" " + json.dumps(item, allow_nan=False) for item in value) + "\n]"


def write_report(
    folder: str | Path, curves: Sequence[Curve], study: Sequence[Row] = (), measured_with: dict[str, str] | None = None
) -> None:
    """Write `results.json`, `curve.png` and the renewed card into a checkpoint's folder.

    Args:
        folder: the checkpoint that was measured.
        curves: the agent's own; then, told apart by their names, its source's and others to compare with.
        study: further rows of the table; without them those of an earlier study of the same weights stay.
        measured_with: the versions that made the curves, if that was not now.

    Raises:
        FileNotFoundError: no checkpoint is there.
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
    card = make_card(folder, METHODS, _released_as(folder), tied)
    text = dump_results(tied)
    write_files(folder, {RESULTS: text.encode(), checkpoint.CURVE: figure, checkpoint.CARD: card.encode()})


def _released_as(folder: Path) -> str | None:
    """The name that a card tells people to load: its own if it comes with the package."""
    return BUNDLED + folder.name if folder.resolve().parent == bundled_folder().resolve() else None


def stored_results(agent: str | Path) -> dict[str, Any]:
    """The results in the folder of an agent, a released one by its name.

    Raises:
        FileNotFoundError: it has none.
        ValueError: they are damaged.
    """
    from icrl_agents.hub.remote import BUNDLED, bundled_folder

    name = str(agent)
    folder = bundled_folder() / name.removeprefix(BUNDLED) if name.startswith(BUNDLED) else Path(name).expanduser()
    found = checkpoint.read_results(folder)
    if not isinstance(found.get("curves"), list) or not found["curves"]:
        raise ValueError(f"{folder / RESULTS} has no curves: {checkpoint.EVALUATE} again")
    return found


def stored_curves(agent: str | Path) -> list[Curve]:
    """What was measured on an agent before, see `stored_results`."""
    return [Curve.from_json(data) for data in stored_results(agent)["curves"]]


def check_measured(agents: Sequence[str]) -> None:
    """Refuse (ValueError) folders without results, to which none can be added."""

    for name in agents:
        if not (Path(name).expanduser() / RESULTS).is_file():
            first = shlex.join(["icrl-agents", "evaluate", name, "--write"])
            raise ValueError(f"--write adds to results, {name} has none: {first} first")


def include_rows(folder: str | Path, rows: Sequence[Row]) -> None:
    """Put further rows into the results, figure and card of a checkpoint that was measured before.

    All that follows from the stored runs is computed again. Earlier rows stay, but for those of the same names, or of
    the same kind: what stands before a colon, such as a set.

    Raises:
        FileNotFoundError: the folder has no results yet.
        ValueError: its results were measured on other weights.
    """
    folder = Path(folder).expanduser()
    found = stored_results(folder)
    make_card(folder, METHODS)  # refuses results of other weights, which write_report would tie to these
    measured = [Curve.from_json(data) for data in found["curves"]]
    new = {_kind(row) for row in rows}
    before = [row for row in table_rows({"table": found.get("study", [])}) if _kind(row) not in new]
    write_report(folder, measured, [*before, *rows], found.get("versions", {}))


def _kind(row: Row) -> str:
    """Rows of one kind belong together: they are replaced together."""
    return row.name.partition(":")[0]


def _study_before(folder: Path, weights: str) -> list[Row]:
    """The rows of a study in the results that are about to be replaced, if they are about these weights."""
    if not (folder / RESULTS).is_file():
        return []
    try:
        before = checkpoint.read_results(folder)
        return table_rows({"table": before.get("study", [])}) if before.get("weights_sha256") == weights else []
    except ValueError:  # damaged results are to be replaced too
        return []
