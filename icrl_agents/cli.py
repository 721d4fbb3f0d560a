"""The command line. What a command needs is imported when it runs, so that help is there at once."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

STAGES = {"pretrain": 1.0, "finetune": 0.0}  # the share of the updates without a loss on actions
INTERRUPTED = 130  # the shell's code for a process that Ctrl-C ended


class Commands(TyperGroup):
    """Tells a user's mistake in one line, with exit code 2; a mistake of ours keeps its traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given
        plain = [word for word in given if word != "--debug"]  # it may stand anywhere
        try:
            code = super().main(plain, *rest, **{**extra, "standalone_mode": False})
        except Exception as error:
            if debug or not is_mistake(error):
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)
            code = 2
        if code == INTERRUPTED:
            print("interrupted; --resume continues a collection or a training", file=sys.stderr)
        sys.exit(code or 0)


def is_mistake(error: Exception) -> bool:
    """Whether an error tells users what they can mend, rather than us what we did wrong."""
    if isinstance(error, ModuleNotFoundError) and error.name:  # of an import statement, not of a missing extra
        return False
    usage = hasattr(error, "format_message")  # what typer itself refuses
    return usage or isinstance(error, ValueError | OSError | ImportError)


def one_line(error: Exception) -> str:
    if hasattr(error, "format_message"):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


app = typer.Typer(
    name="icrl-agents",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,  # a token could be among them
    rich_markup_mode=None,  # importing what boxes need takes longer than the rest of --help
    add_completion=False,
    help="Reinforcement learners that learn a new task from their own experience, weights frozen.",
)

Agent = Annotated[str, typer.Argument(help="A folder, a bundled name such as icrl/ad-darkroom, or a Hub repo id.")]
Env = Annotated[str, typer.Option("--env", metavar="ID", help="An environment; see `icrl-agents envs`.")]
AgentEnv = Annotated[str | None, typer.Option("--env", metavar="ID", help="Default: the one it was trained on.")]
Split = Annotated[str, typer.Option(help="test (held out), validation, train, or a published set such as num_50.")]
Seed = Annotated[int, typer.Option(help="Of everything drawn at random.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="May be given repeatedly.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what was interrupted.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Plan = Annotated[str | None, typer.Option(help="A planner: lookahead, beam (as published) or best-of-n.")]
Histories = Annotated[Path | None, typer.Option(metavar="FILE.h5", help="Default: fresh ones, made on the way.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings; --set and options beat it.")]
Source = Annotated[str | None, typer.Option(help="The learner of fresh histories. Default: the environment's.")]
Episodes = Annotated[int, typer.Option(help="Length of a lifetime.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    if version:
        from icrl_agents import __version__

        print(f"icrl-agents {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def play(
    agent: Agent,
    env: AgentEnv = None,
    episodes: Episodes = 12,
    seed: Annotated[int | None, typer.Option(help="Default: a new one each time.")] = None,
    task: Annotated[int | None, typer.Option(help="Which task of the split, from 0. Default: any.")] = None,
    split: Split = "test",
    fps: Annotated[float, typer.Option(help="Steps shown a second.")] = 12.0,
    animation: Annotated[bool, typer.Option("--animation/--no-animation", help="Only in a terminal.")] = True,
    plan: Plan = None,
) -> None:
    """Watch an agent learn a task it has never seen."""
    from icrl_agents import ICAgent
    from icrl_agents import play as stage

    loaded = ICAgent.from_pretrained(agent, plan=plan)
    print(f"{agent} ({loaded.source})")
    env_id = _env_of(loaded, env)
    stage.play(loaded, env_id, episodes=episodes, seed=seed, task=task, split=split, fps=fps, animate=animation)


@app.command()
def envs() -> None:
    """List the environments."""
    from icrl_envs import FAMILIES

    from icrl_agents.terminal import print_table

    rows = []
    for name, tasks in FAMILIES.items():
        rules, (train, test) = tasks.rules, tasks.split()
        best = rules.optimal_return(tasks.ids).mean()
        spaces = str(rules.observation_space), str(rules.action_space)
        rows.append((name, *spaces, rules.horizon, len(train), len(test), f"{best:.2f}"))
    print_table(("id", "obs", "actions", "horizon", "train", "test", "optimum"), rows)


@app.command()
def agents() -> None:
    """List the agents that come with the package."""
    from icrl_agents import report
    from icrl_agents.checkpoint import MAX_RESULTS_BYTES, RESULTS, WEIGHTS, read_config, read_header
    from icrl_agents.hub import BUNDLED, bundled_folder, list_pretrained
    from icrl_agents.strict_json import read_json
    from icrl_agents.terminal import print_table

    rows = []
    for name in list_pretrained():
        folder = bundled_folder() / name.removeprefix(BUNDLED)
        config, found = read_config(folder), folder / RESULTS
        parameters = sum(math.prod(kind.shape) for kind in read_header(folder / WEIGHTS).values())
        result = report.headline(read_json(found, MAX_RESULTS_BYTES)) if found.exists() else "not measured"
        rows.append((name, config["facts"].get("env_id", ""), config["method"], f"{parameters:,}", result))
    print_table(("id", "env", "method", "parameters", "mean return"), rows)


@app.command()
def collect(
    env: Env,
    source: Annotated[str, typer.Option(help="The learner: q-learning, posterior, noise or ppo.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.h5")],
    streams: Annotated[int, typer.Option(help="Histories of each task.")] = 100,
    episodes: Annotated[int, typer.Option(help="Episodes of each history.")] = 50,
    split: Annotated[str, typer.Option("--split", "--tasks-split", help="train, validation, test or all.")] = "train",
    processes: Annotated[int, typer.Option(help="More pay for ppo.")] = 1,
    seed: Seed = 0,
    settings: Settings = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Record the learning histories of a source learner."""
    from icrl_envs import FAMILIES

    from icrl_agents import collect as record
    from icrl_agents.settings import parse_pairs
    from icrl_agents.sources import find_source
    from icrl_agents.splits import split_tasks

    if resume and overwrite:
        raise ValueError("--resume and --overwrite contradict each other: give one of them")
    splits = split_tasks(env)
    tasks = FAMILIES[env] if split == "all" else splits.pick(split)
    values = parse_pairs(settings, fields(find_source(source).Settings))
    began = time.perf_counter()
    path = record(
        env,
        source,
        output.expanduser(),
        tasks=tasks.ids.tolist(),
        streams=streams,
        episodes=episodes,
        seed=seed,
        processes=processes,
        settings=values,
        resume=resume,
        overwrite=overwrite,
    )
    count = streams * len(tasks)
    print(f"{path}: {count:,} histories of {episodes} episodes in {time.perf_counter() - began:.1f} s")


@app.command()
def marks(
    histories: Annotated[Path, typer.Argument(metavar="FILE.h5", help="Of a source that tells its probabilities.")],
    threshold: Annotated[float, typer.Option(help="Least probability of a confident step's action.")] = 0.7,
    min_length: Annotated[int, typer.Option(help="Confident steps in a row that make a run.")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For marks.json and marks.png.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show how much of recorded histories marked-ad would mark."""
    from icrl_agents import marks as report
    from icrl_agents.history import HistoryStore
    from icrl_agents.plots import require_matplotlib
    from icrl_agents.terminal import print_table

    if output:
        output = output.expanduser()
        for name in (report.JSON, report.PICTURE):
            _check_output(output / name, overwrite)
        require_matplotlib()
    with HistoryStore(histories.expanduser()) as store:
        found = report.measure_marks(store, threshold, min_length)
        if output:
            report.write_marks(store, found, output)
    lines = [*((row.task, row) for row in found.tasks), ("all", found.total)]
    cells = [(name, f"{x.steps:,}", f"{x.runs:,}", f"{x.marked:,}", f"{x.share:.1%}") for name, x in lines]
    print_table(("task", "steps", "runs", "marked", "share"), cells)


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="The method, such as ad.")],
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")],
    histories: Histories = None,
    config: Config = None,
    settings: Settings = None,
    source: Source = None,
    updates: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    stage: Annotated[str | None, typer.Option(help="pretrain or finetune, of methods that have both.")] = None,
    init: Annotated[str | None, typer.Option(help="An agent to begin with.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch; one is fastest for small models.")] = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    with_report: Annotated[bool, typer.Option("--report", help="Evaluate on the test tasks when trained.")] = False,
) -> None:
    """Train an agent; without --histories they are made on the way.

    Settings are those of training and of the method, and as source.NAME those of the source.
    """
    from icrl_agents import train as fit
    from icrl_agents.plots import require_matplotlib
    from icrl_agents.settings import parse_pairs, read_toml

    if with_report:
        require_matplotlib()
    if stage is not None:
        from icrl_agents.config import check_choice

        check_choice("--stage", stage, STAGES)
        if "pretrain" not in {field.name for field in _known_settings(method)}:
            raise ValueError(f"--stage is for methods that pretrain, such as cad, not for {method!r}: leave it out")
    options: dict[str, Any] = {
        "source": source,
        "updates": updates,
        "seed": seed,
        "threads": threads,
        "init": init,
        "pretrain": None if stage is None else STAGES[stage],
    }
    values = read_toml(config) | parse_pairs(settings, _known_settings(method))
    values |= {name: value for name, value in options.items() if value is not None}
    began = time.perf_counter()
    agent = fit(
        method, env, output, histories=histories, settings=values, device=device, resume=resume, overwrite=overwrite
    )
    if os.environ.get("RANK", "0") != "0":  # of the processes that `accelerate launch` starts one reports
        return
    print(f"{output}: trained in {time.perf_counter() - began:.1f} s{_validation(output)}")
    if with_report:
        _measure_and_write(agent, env, output)
    print(f"watch it: icrl-agents play {output}")


@app.command()
def evaluate(
    agent: Agent,
    env: AgentEnv = None,
    split: Split = "test",
    episodes: Episodes = 50,
    seeds: Annotated[int, typer.Option(help="Lifetimes on each task.")] = 20,
    seed: Seed = 0,
    plan: Plan = None,
    beam_width: Annotated[int | None, typer.Option(help="Branches a planner keeps. Default: the planner's.")] = None,
    plan_depth: Annotated[int | None, typer.Option(help="Steps it looks ahead. Default: the planner's.")] = None,
    plan_tasks: Annotated[int | None, typer.Option(help="Tasks measured with the planner. Default: all.")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json")] = None,
    curve: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw return against episode.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Renew results, curve and card in its folder.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure how an agent learns tasks it has never seen; with --plan once without the planner and once with it."""
    from icrl_agents import ICAgent, plots, report
    from icrl_agents.atomic import write_text
    from icrl_agents.terminal import progress_bar

    if curve:
        plots.picture_kind(curve)
    for path in (output, curve):
        _check_output(path, overwrite)
    if write or curve:
        plots.require_matplotlib()
    settings = {"width": beam_width, "depth": plan_depth}
    planner = _planner(plan, {name: value for name, value in settings.items() if value is not None})
    loaded = ICAgent.from_pretrained(agent, device=device)
    if write and loaded.source != "local":
        raise ValueError(f"--write needs an agent in a folder of yours, {agent} is {loaded.source}: use --output")
    with progress_bar("evaluating", episodes, "episodes") as step:
        curves = report.measure(loaded, _env_of(loaded, env), split, episodes, seeds, seed, planner, step, plan_tasks)
    results = report.dump_results(report.build_results(curves))
    print(results, end="") if as_json else report.show(curves)
    if output:
        write_text(output.expanduser(), results)
    if curve:
        plots.plot_curves(curves, curve)
    if write:
        report.write_report(agent, curves)


@app.command()
def probe(
    agent: Agent,
    env: AgentEnv = None,
    episodes: Annotated[str, typer.Option(help="Lengths of the histories to remember from.")] = "3,10,36",
    shown: Annotated[int, typer.Option(help="Their first episodes, in which rewards are seen.")] = 2,
    change: Annotated[str, typer.Option(help="Of latents: none, zeroed, swapped, shuffled, frozen or all.")] = "none",
    split: Split = "test",
    seeds: Annotated[int, typer.Option(help="Histories of each task.")] = 10,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")] = False,
) -> None:
    """Measure how long an agent remembers rewards that it does not see any more."""
    from icrl_agents import ICAgent
    from icrl_agents.config import check_choice
    from icrl_agents.probe import CHANGES
    from icrl_agents.probe import probe as measure
    from icrl_agents.terminal import print_table

    lengths = _numbers(episodes)
    loaded = ICAgent.from_pretrained(agent, device=device)
    check_choice("change", change, ("all", *CHANGES))
    changes = list(CHANGES) if change == "all" and hasattr(loaded, "replace_latents") else [change]
    found = {name: measure(loaded, _env_of(loaded, env), lengths, name, shown, split, seeds, seed) for name in changes}
    if as_json:
        print(json.dumps({name: [recall._asdict() for recall in recalls] for name, recalls in found.items()}))
        return
    lines = [
        (name, str(r.episodes), str(r.steps), str(r.folds), str(r.share), f"{r.random:.2f}")
        for name, recalls in found.items()
        for r in recalls
    ]
    print_table(("latents", "episodes", "steps", "folds", "share of the optimum", "random"), lines)


@app.command()
def sets(
    agents: Annotated[list[str], typer.Argument(metavar="AGENT...", help="Of one environment; seeds are averaged.")],
    env: AgentEnv = None,
    names: Annotated[list[str] | None, typer.Option("--set", metavar="NAME", help="Default: every set.")] = None,
    tasks: Annotated[int, typer.Option(help="At most so many of each set, evenly spaced.")] = 100,
    seeds: Annotated[int, typer.Option(help="Lifetimes on each task.")] = 1,
    seed: Seed = 0,
    episodes: Annotated[int | None, typer.Option(help="Of a lifetime. Default: 1 of bandits, else 200.")] = None,
    relabel: Annotated[bool, typer.Option(help="Measure agents with renumbered actions as well.")] = True,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON and nothing else.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For tables and figures.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure agents on every published set of tasks, beside random play and the environment's source."""
    from icrl_agents import ICAgent
    from icrl_agents import action_report as report
    from icrl_agents.plots import require_matplotlib
    from icrl_agents.terminal import print_table, progress_bar

    if output:
        output = output.expanduser()
        for name in report.FILES:
            _check_output(output / name, overwrite)
        require_matplotlib()
    loaded = {name: ICAgent.from_pretrained(name, device=device) for name in agents}
    env_ids = sorted({_env_of(agent, env) for agent in loaded.values()})
    if len(env_ids) > 1:
        raise ValueError(f"the agents are of {' and '.join(env_ids)}: give those of one environment")
    total = len(names or report.default_sets(env_ids[0]))
    with progress_bar("measuring", total, "sets") as step:
        found = report.measure(
            loaded,
            env_ids[0],
            names,
            tasks=tasks,
            num_seeds=seeds,
            seed=seed,
            episodes=episodes,
            relabel=relabel,
            on_done=step,
        )
    print(found.to_json(), end="") if as_json else print_table(*report.table(found))
    if output:
        report.write_sets(found, output)


@app.command()
def study(
    method: Annotated[str, typer.Argument(help="The method, such as ad.")],
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")],
    splits: Annotated[str, typer.Option(help="Seeds of the task split.")] = "0,1,2,3,4",
    seeds: Annotated[str, typer.Option(help="Seeds of the training.")] = "0,1,2",
    config: Config = None,
    settings: Settings = None,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.")] = 1,
    into: Annotated[Path | None, typer.Option(help="A measured agent, whose results and card get the table.")] = None,
) -> None:
    """Train and measure on several splits with several seeds; called again, it continues."""
    from icrl_agents import study as studies
    from icrl_agents.settings import parse_pairs, read_toml
    from icrl_agents.terminal import print_table

    values = read_toml(config) | parse_pairs(settings, _known_settings(method))
    curves = studies.study(
        method, env, output, splits=_numbers(splits), seeds=_numbers(seeds), settings=values, jobs=jobs
    )
    rows = [
        (row.name, row.value, f"{row.low} to {row.high}" if row.low else "", row.note)
        for row in studies.study_table(curves)
    ]
    print_table(("what", "value", "95% interval", ""), rows)
    if into:
        studies.include(into, curves)


@app.command()
def compare(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")] = Path("runs/comparison"),
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Only this one.")] = None,
    also: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With further trainings, <name>-seed1, ...")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: the environment's.")] = None,
    plan: Annotated[str, typer.Option(help="The planner to measure with as well.")] = "lookahead",
    stored: Annotated[bool, typer.Option("--stored", help="Show what their cards hold and measure nothing.")] = False,
) -> None:
    """Measure all released agents, without and with planning, beside the published numbers; again, it continues."""
    from icrl_agents import comparison
    from icrl_agents.terminal import print_table

    entries = [entry for entry in comparison.released(also) if env in (None, entry.env_id)]
    if not entries:
        raise ValueError(f"no released agent{' of ' + env if env else ''} is in the table: see icrl-agents agents")
    if stored:
        found = [comparison.stored(entry) for entry in entries]
    else:
        found = comparison.compare(entries, output, plan=plan, num_seeds=seeds, on_done=print)
    print_table(comparison.HEADER, comparison.rows(found))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A trained agent.")],
    repo: Annotated[str, typer.Argument(help="The Hub repo, org/name; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private repo.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch. Default: main.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload agent",
) -> None:
    """Upload an agent to the Hub, with the token of HF_TOKEN or a login."""
    from icrl_agents import hub

    print(hub.upload(folder, repo, private=private or None, revision=revision, commit_message=message))


def _planner(plan: str | None, settings: dict[str, Any]) -> Any:
    from icrl_agents.planning import make_planner

    if plan is None and settings:
        raise ValueError(f"{settings} are a planner's settings: give --plan, such as --plan lookahead")
    return plan and make_planner(plan, settings)


def _known_settings(method: str) -> list[Any]:
    """The fields that --set may name; an unknown method is refused later, by those who know the methods."""
    from icrl_agents import METHODS
    from icrl_agents.train_config import TrainConfig

    return [*fields(TrainConfig), *(fields(METHODS[method].Config) if method in METHODS else ())]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers such as 0,1,2") from None


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


def _env_of(agent: Any, given: str | None) -> str:
    env_id = agent.facts.get("env_id") if given is None else given
    if not isinstance(env_id, str):
        raise ValueError("the agent does not say which environment it is for: give --env")
    return env_id


def _measure_and_write(agent: Any, env_id: str, folder: Path) -> None:
    from icrl_agents import report
    from icrl_agents.terminal import progress_bar

    began = time.perf_counter()
    with progress_bar("evaluating", report.EPISODES, "episodes") as step:
        curves = report.measure(agent, env_id, on_episode=step)
    report.write_report(folder, curves)
    report.show(curves)
    print(f"{folder}: evaluated in {time.perf_counter() - began:.1f} s, see results.json, README.md and curve.png")


def _validation(folder: Path) -> str:
    """What the last line of the metrics says of the validation tasks."""
    lines = (folder.expanduser() / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[-1]) if lines else {}
    if "validation_return" not in row:
        return ""
    return f", validation return {row['validation_return']:.2f} of {row['validation_optimal']:.2f}"


def main() -> None:
    """The program `icrl-agents`."""
    app()


if __name__ == "__main__":
    main()
