"""The commands that measure: agents on tasks they have never seen, what they remember, and recorded histories."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icrl_agents.cli.options import (
    Agent,
    AgentEnv,
    AsJson,
    Device,
    Overwrite,
    Plan,
    Seed,
    Split,
    env_of,
    lifetime_of,
    numbers,
)

if TYPE_CHECKING:
    from icrl_agents.evaluation.curves import Curve

BeamWidth = Annotated[int | None, typer.Option(help="Branches a planner keeps. Default: the planner's.")]
PlanDepth = Annotated[int | None, typer.Option(help="Steps it looks ahead. Default: the planner's.")]


def marks(
    histories: Annotated[Path, typer.Argument(metavar="FILE.h5", help="Of a source that records its probabilities.")],
    threshold: Annotated[float, typer.Option(help="Minimum probability of a confident step's action.")] = 0.7,
    min_length: Annotated[int, typer.Option(help="Minimum number of confident steps in a row for a marked run.")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For marks.json and marks.png.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show how much of recorded histories marked-ad would mark."""
    from icrl_agents.core.process.terminal import print_json, print_table
    from icrl_agents.evaluation.plots import require_matplotlib
    from icrl_agents.histories.store import HistoryStore
    from icrl_agents.studies import marks as report

    if output:
        output = output.expanduser()
        for name in (report.JSON, report.PICTURE):
            _check_output(output / name, overwrite)
        require_matplotlib()
    with HistoryStore(histories.expanduser()) as store:
        found = report.measure_marks(store, threshold, min_length)
        if output:
            report.write_marks(store, found, output)
    if as_json:
        print_json(found.to_json())
        return
    lines = [*((row.task, row) for row in found.tasks), ("all", found.total)]
    cells = [(name, f"{x.steps:,}", f"{x.runs:,}", f"{x.marked:,}", f"{x.share:.1%}") for name, x in lines]
    print_table(("task", "steps", "runs", "marked", "share"), cells)


def runs(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that train wrote, or a folder that holds some.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON and nothing else.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For runs.json and a figure.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare training runs, finished or not: settings, loss and validation return."""
    from icrl_agents.core.process.terminal import print_table
    from icrl_agents.evaluation.plots import require_matplotlib
    from icrl_agents.studies import runs as report

    if output:
        output = output.expanduser()
        for name in report.FILES:
            _check_output(output / name, overwrite)
        require_matplotlib()
    found = report.read_runs(folders)
    lines = report.summarise(found)
    print(report.to_json(lines), end="") if as_json else print_table(report.HEADER, report.table(lines))
    if output:
        report.write_runs(found, lines, output)


def evaluate(
    agent: Agent,
    env: AgentEnv = None,
    split: Split = "test",
    episodes: Annotated[int | None, typer.Option(help="Length of a lifetime. Default: as published.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: 20, fewer of many tasks.")] = None,
    seed: Seed = 0,
    plan: Plan = None,
    beam_width: BeamWidth = None,
    plan_depth: PlanDepth = None,
    plan_tasks: Annotated[int | None, typer.Option(help="Tasks measured with the planner. Default: all.")] = None,
    change: Annotated[
        str | None, typer.Option(help="Change latents after every fold: zeroed, swapped, shuffled or frozen.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json")] = None,
    curve: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw return against episode.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Renew results, curve and card in its folder.")] = False,
    stored: Annotated[bool, typer.Option("--stored", help="Show what its results hold and measure nothing.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure how an agent learns tasks it has never seen; with --plan once without the planner and once with it.

    Where test tasks are few, all tasks of the environment are measured too, those it was trained on among them. With
    --stored --write the table, figure and card are computed again of the runs that the results hold.
    """
    from icrl_agents import ICAgent
    from icrl_agents.core.process.terminal import progress_bar
    from icrl_agents.evaluation import plots
    from icrl_agents.evaluation import results as report
    from icrl_agents.evaluation.evaluate import learner_splits
    from icrl_agents.studies.memory.latents import Changed, check_change

    if curve:
        plots.picture_kind(curve)
    for path in (output, curve):
        _check_output(path, overwrite)
    if write or curve:
        plots.require_matplotlib()
    if stored:
        if any((env, episodes, seeds, seed, plan, beam_width, plan_depth, plan_tasks, change, split != "test")):
            raise ValueError("--stored measures nothing: leave out --env, --split and all that measures, or --stored")
        if write and not Path(agent).expanduser().is_dir():
            raise ValueError(f"--write needs an agent in a folder of yours, {agent} is none: leave --write out")
        if write:
            report.include_rows(agent, ())
        return _tell(report.stored_curves(agent), as_json, output, curve)
    planner = _planner(plan, beam_width, plan_depth)
    loaded = ICAgent.from_pretrained(agent, device=device)
    if write and loaded.source != "local":
        raise ValueError(f"--write needs an agent in a folder of yours, {agent} is {loaded.source}: use --output")
    if change and (write or plan):
        raise ValueError(f"--change {change} shows what latents are worth, not the agent: leave --write and --plan out")
    learner: Any = loaded
    if change:
        check_change(loaded, change, len(learner_splits(loaded, env_of(loaded, env)).pick(split)))
        learner = Changed(loaded, change)
    with progress_bar("evaluating", episodes or lifetime_of(loaded, env), "episodes") as step:
        curves = report.measure(learner, env_of(loaded, env), split, episodes, seeds, seed, planner, step, plan_tasks)
    if change:
        curves[0] = replace(curves[0], facts={**curves[0].facts, "latents": change})
    _tell(curves, as_json, output, curve)
    if write:
        report.write_report(agent, curves)


def _tell(curves: Sequence[Curve], as_json: bool, output: Path | None, picture: Path | None) -> None:
    """Print what was measured, and write it into the files that were asked for."""
    from icrl_agents.core.files.atomic import write_text
    from icrl_agents.evaluation import plots
    from icrl_agents.evaluation import results as report

    results = report.dump_results(report.build_results(curves))
    print(results, end="") if as_json else report.show(curves)
    if output:
        write_text(output.expanduser(), results)
    if picture:
        plots.plot_curves(curves, picture)


def probe(
    agents: Annotated[
        list[str], typer.Argument(metavar="AGENT...", help="Of one environment; the first one decides what is asked.")
    ],
    env: AgentEnv = None,
    episodes: Annotated[
        str | None, typer.Option(help="Lengths of the histories, such as 3,10,36. Default: with 1, 5 and 20 folds.")
    ] = None,
    shown: Annotated[
        int | None,
        typer.Option(help="First episodes, whose rewards are shown. Default: those of the first fold, else 2."),
    ] = None,
    change: Annotated[
        str, typer.Option(help="Change latents: none, zeroed, swapped, shuffled, frozen or all.")
    ] = "none",
    split: Split = "test",
    seeds: Annotated[int, typer.Option(help="Histories of each task.")] = 10,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For JSON and a figure.")
    ] = None,
    overwrite: Overwrite = False,
    write: Annotated[bool, typer.Option("--write", help="Add the results to the agents' cards.")] = False,
) -> None:
    """Measure how long agents remember rewards that they do not see any more."""
    from icrl_agents import ICAgent
    from icrl_agents.core.process.terminal import print_table, progress_bar
    from icrl_agents.evaluation.evaluate import learner_splits
    from icrl_agents.evaluation.plots import require_matplotlib
    from icrl_agents.evaluation.results import check_measured, include_rows
    from icrl_agents.studies.memory import report
    from icrl_agents.studies.memory.probe import changes_of, usual_histories
    from icrl_agents.studies.memory.probe import probe as measure

    if output:
        output = output.expanduser()
        for name in report.FILES:
            _check_output(output / name, overwrite)
        require_matplotlib()
    if write:
        check_measured(agents)
        if env is not None:
            raise ValueError("--write is for results on the environment of the card: leave --env out")
    loaded = {name: ICAgent.from_pretrained(name, device=device) for name in agents}
    env_id = _one_env(loaded.values(), env)
    first, usual = usual_histories(next(iter(loaded.values())), env_id, shown)
    lengths = usual if episodes is None else numbers(episodes)
    tasks = len(learner_splits(next(iter(loaded.values())), env_id).pick(split))
    parts = [(name, each) for name, agent in loaded.items() for each in changes_of(agent, change, tasks)]
    found = {}
    with progress_bar("measuring", len(parts), "histories") as step:
        for done, (name, each) in enumerate(parts, 1):
            found[name, each] = measure(loaded[name], env_id, lengths, each, first, split, seeds, seed)
            step(done)
    results = report.to_json(found, env_id, split, seeds, seed)
    print(results, end="") if as_json else print_table(report.HEADER, report.table(found))
    if output:
        report.write_probe(found, results, output)
    for name in agents if write else ():
        include_rows(name, report.card_rows({each: found[name, each] for who, each in found if who == name}, split))


def sets(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Of one environment; seeds are averaged.")
    ] = None,
    env: AgentEnv = None,
    stored: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Instead of agents: what was measured before, all in one report."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--task-set", metavar="NAME", help="A set of tasks; repeatable. Default: every set."),
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", hidden=True, help="Formerly of --task-set.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Up to N tasks of each set, evenly spaced. Default: 100.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Length of a lifetime. Default: as published.")] = None,
    relabel: Annotated[
        bool | None,
        typer.Option("--relabel/--no-relabel", help="Measure agents with renumbered (permuted) actions too."),
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For tables and figures.")
    ] = None,
    overwrite: Overwrite = False,
    write: Annotated[bool, typer.Option("--write", help="Add the results to the agents' cards.")] = False,
) -> None:
    """Measure agents on every published set of tasks, beside random play and the environment's source."""
    from icrl_agents import ICAgent
    from icrl_agents.core.process.terminal import print_table, progress_bar
    from icrl_agents.evaluation.plots import require_matplotlib
    from icrl_agents.evaluation.results import check_measured
    from icrl_agents.studies.action_sets import report, results
    from icrl_agents.studies.action_sets.groups import find_entries

    if output:
        output = output.expanduser()
        for name in report.FILES:
            _check_output(output / name, overwrite)
        require_matplotlib()
    if bool(agents) == bool(stored):
        raise ValueError("give agents to measure, or --stored with folders of results, and not both")
    names = [*(names or ()), *(sets or ())] or None
    told = {"num_seeds": seeds, "tasks": tasks, "seed": seed, "relabel": relabel}
    how: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    if stored and (write or env or names or episodes or how):
        raise ValueError(
            "--stored measures nothing: leave --write, --env, --task-set and all that measures out, or --stored"
        )
    if stored:
        found = results.Report.join([results.Report.load(folder) for folder in stored])
    else:
        loaded = {name: ICAgent.from_pretrained(name, device=device) for name in agents or ()}
        env_id = _one_env(loaded.values(), env)
        if write:
            check_measured([entry.agents[0] for entry in find_entries(loaded)])  # whose cards get the results
        with progress_bar("measuring", len(names or results.default_sets(env_id)), "sets") as step:
            found = results.measure(loaded, env_id, names, episodes=episodes, on_done=step, **how)
    print(found.to_json(), end="") if as_json else print_table(*report.table(found))
    if output:
        report.write_sets(found, output)
    if write:
        report.include_sets(found)


def compare(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")] = Path("runs/comparison"),
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Only agents of this environment.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one, such as icrl/ad-darkroom.")] = None,
    also: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With further trainings, <name>-seed1, ...")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: the environment's.")] = None,
    plan: Annotated[str, typer.Option(help="The planner to measure with as well.")] = "lookahead",
    beam_width: BeamWidth = None,
    plan_depth: PlanDepth = None,
    stored: Annotated[bool, typer.Option("--stored", help="Show what their cards hold and measure nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure all released agents, without and with planning, beside the published numbers; again, it continues."""
    from icrl_agents.core.checks import check_known
    from icrl_agents.core.process.terminal import print_json, print_table
    from icrl_agents.studies import compare as comparison

    known = comparison.released(also)
    if agent is not None:
        check_known([agent], (entry.agents[0] for entry in known), "agent of the table")
    entries = [entry for entry in known if env in (None, entry.env_id) and agent in (None, entry.agents[0])]
    if not entries:
        raise ValueError(f"no released agent{' of ' + env if env else ''} is in the table: see icrl-agents agents")
    if stored:
        found = [comparison.stored(entry) for entry in entries]
    else:
        planner = _planner(plan, beam_width, plan_depth)
        found = comparison.compare(entries, output, plan=planner, num_seeds=seeds, on_done=_say)
    if as_json:
        print_json([comparison.to_json(measured) for measured in found])
    else:
        print_table(comparison.HEADER, comparison.rows(found))


def _say(line: str) -> None:
    """Print what is no result: standard output is for the table."""
    print(line, file=sys.stderr)


def _one_env(agents: Iterable[Any], env: str | None) -> str:
    """The environment that all agents are measured on."""
    env_ids = sorted({env_of(agent, env) for agent in agents})
    if len(env_ids) > 1:
        raise ValueError(f"the agents are of {' and '.join(env_ids)}: give those of one environment")
    return env_ids[0]


def _planner(plan: str | None, width: int | None, depth: int | None) -> Any:
    from icrl_agents.agents.planning.search import make_planner

    settings = {name: value for name, value in (("width", width), ("depth", depth)) if value is not None}
    if plan is None and settings:
        raise ValueError(f"{settings} are a planner's settings: give --plan, such as --plan lookahead")
    return plan and make_planner(plan, settings)


def _check_output(path: Path | None, overwrite: bool) -> None:
    """Refuse, before anything is measured, a file that could not be written or that would be lost."""
    if path is None:
        return
    path = path.expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: give --overwrite to replace it, or another name")
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise NotADirectoryError(f"{path} cannot be made, {above} is a file: name another")
