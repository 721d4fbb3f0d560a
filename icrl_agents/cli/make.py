"""The commands that make things: histories, trained agents, their play and upload."""

from __future__ import annotations

import json
import os
import shlex
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from icrl_agents.cli.options import (
    Agent,
    AgentEnv,
    AsJson,
    Device,
    Episodes,
    Overwrite,
    Plan,
    Seed,
    Split,
    env_of,
    lifetime_of,
    numbers,
)

STAGES = {"pretrain": 1.0, "finetune": 0.0}  # the share of the updates without a loss on actions

Env = Annotated[str, typer.Option("--env", metavar="ID", help="An environment; see `icrl-agents envs`.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting; repeatable. `icrl-agents train --help-settings` lists all."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what was interrupted.")]
Histories = Annotated[
    Path | None, typer.Option(metavar="FILE.h5", help="What `collect` recorded. Default: fresh lifetimes.")
]
Config = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings; --set and options override them.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track", metavar="NAME", help="tensorboard, wandb (offline) or none. Default: tensorboard if found."
    ),
]
Source = Annotated[str | None, typer.Option(help="The learner of fresh lifetimes. Default: the environment's.")]

METHOD = "The method: ad, cad, dpt, headless-ad, idt or marked-ad."
LEARNERS = (
    "The learner: q-learning, posterior, thompson, gaussian-thompson, bayes-ucb, gittins, ucb, linucb, epsilon-greedy, "
    "uniform, noise, ppo."
)


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
    device: Device = "auto",
) -> None:
    """Watch an agent learn a task it has never seen."""
    from icrl_agents import ICAgent
    from icrl_agents.core.process.terminal import print_text
    from icrl_agents.evaluation import play as stage

    loaded = ICAgent.from_pretrained(agent, plan=plan, device=device)
    print_text(f"{agent} ({loaded.source})")
    env_id = env_of(loaded, env)
    stage.play(loaded, env_id, episodes=episodes, seed=seed, task=task, split=split, fps=fps, animate=animation)


def collect(
    env: Env,
    source: Annotated[str, typer.Option(help=LEARNERS)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.h5")],
    streams: Annotated[int, typer.Option(help="Streams: histories of each task.")] = 100,
    episodes: Annotated[int, typer.Option(help="Episodes of each history.")] = 50,
    split: Annotated[
        str, typer.Option("--split", "--tasks-split", help="Tasks: train, validation, test, all or a named set.")
    ] = "train",
    processes: Annotated[int, typer.Option(help="Worker processes; more than one pay for ppo.")] = 1,
    seed: Seed = 0,
    settings: Settings = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Record the learning histories of a source learner."""
    from icrl_agents import collect as record
    from icrl_agents.core.process.terminal import counted
    from icrl_agents.core.splits import split_tasks
    from icrl_agents.sources import find_source
    from icrl_agents.training.settings import parse_pairs

    if resume and overwrite:
        raise ValueError("--resume and --overwrite contradict each other: give one of them")
    tasks = split_tasks(env).pick(split)
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
    made = f"{counted(streams * len(tasks), 'history', 'histories')} of {counted(episodes, 'episode')}"
    print(f"{path}: {made} in {time.perf_counter() - began:.1f} s")


def train(
    method: Annotated[str, typer.Argument(help=METHOD)],
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")],
    histories: Histories = None,
    config: Config = None,
    settings: Settings = None,
    source: Source = None,
    updates: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    stage: Annotated[str | None, typer.Option(help="pretrain or finetune, of methods that have both.")] = None,
    init: Annotated[str | None, typer.Option(help="An agent to start from.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of PyTorch; 1 is fastest for small models.")] = None,
    device: Device = "auto",
    track: Track = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    with_report: Annotated[bool, typer.Option("--report", help="Evaluate on the test tasks when trained.")] = False,
    help_settings: Annotated[
        bool, typer.Option("--help-settings", help="List all settings, of METHOD or of all methods, and leave.")
    ] = False,
) -> None:
    """Train an agent; without --histories on lifetimes that its source lives while it trains.

    Settings are those of training and of the method, and as source.NAME those of the source: --help-settings lists
    them, with types, defaults and meanings.
    """
    from icrl_agents import train as fit
    from icrl_agents.evaluation.plots import require_matplotlib
    from icrl_agents.training.run_folder import is_finished
    from icrl_agents.training.settings import parse_pairs, read_toml

    if with_report:
        require_matplotlib()
    if stage is not None:
        from icrl_agents.core.checks import check_choice

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
    if stage is not None and "pretrain" in values:
        raise ValueError(f"--stage {stage} sets pretrain, and pretrain={values['pretrain']} was given: leave one out")
    values |= {name: value for name, value in options.items() if value is not None}
    if stage == "finetune" and not values.get("init") and not resume:
        raise ValueError("--stage finetune goes on with a pretrained agent: give its folder as --init")
    began, finished = time.perf_counter(), resume and is_finished(output.expanduser())
    agent = fit(
        method,
        env,
        output,
        histories=histories,
        settings=values,
        device=device,
        resume=resume,
        overwrite=overwrite,
        track=track,
    )
    if os.environ.get("RANK", "0") != "0":  # of the processes that `accelerate launch` starts one reports
        return
    done = "was finished already" if finished else f"trained in {time.perf_counter() - began:.1f} s"
    print(f"{output}: {done}{_validation(output)}")
    if with_report:
        _measure_and_write(agent, env, output)
    if agent.method.trains_policy(1.0):
        print(f"watch it: {shlex.join(['icrl-agents', 'play', str(output)])}")
    else:
        print(f"it has not learned to act yet: {finetuning_command(agent.facts['command'], output)}")


def finetuning_command(command: str, output: Path) -> str:
    """What goes on with the pretrained agent in `output`, which `command` has trained."""
    words = shlex.split(command)
    if words[:1] != ["icrl-agents"]:  # trained from Python
        return f"go on with init={str(output)!r} and pretrain=0"
    kept, rest = list[str](), iter(words)
    for word in rest:
        option, told, value = word.partition("=")
        if option in ("--stage", "--init", "-o", "--output", "--set"):
            value = value if told else next(rest, "")
            if option == "--set" and value.partition("=")[0] not in ("pretrain", "init"):
                kept += ["--set", value]
        elif word not in ("--resume", "--overwrite"):
            kept.append(word)
    return shlex.join([*kept, "--set", "pretrain=0", "--init", str(output), "-o", f"{output}-finetuned"])


def study(
    method: Annotated[str, typer.Argument(help=METHOD)],
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")],
    splits: Annotated[str, typer.Option(help="Seeds of the task split.")] = "0,1,2,3,4",
    seeds: Annotated[str, typer.Option(help="Seeds of the training.")] = "0,1,2",
    config: Config = None,
    settings: Settings = None,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.")] = 1,
    into: Annotated[Path | None, typer.Option(help="A measured agent, whose results and card get the table.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train and measure on several splits with several seeds; called again, it continues."""
    from icrl_agents.core.process.terminal import print_json, print_table
    from icrl_agents.studies import seeds as studies
    from icrl_agents.training.settings import parse_pairs, read_toml

    values = read_toml(config) | parse_pairs(settings, _known_settings(method))
    curves = studies.study(
        method, env, output, splits=numbers(splits), seeds=numbers(seeds), settings=values, jobs=jobs
    )
    rows = studies.study_table(curves)
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        cells = [(row.name, row.value, "" if row.low is None else f"{row.low} to {row.high}", row.note) for row in rows]
        print_table(("what", "value", "95% interval", ""), cells)
    if into:
        studies.include(into, curves)


def windows(
    env: Env,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")],
    windows: Annotated[str, typer.Option(help="Visible steps, of both methods.")] = "30,60,120,240",
    latents: Annotated[str, typer.Option(help="Latents of cad, each in the place of a step.")] = "8,16,32",
    seeds: Annotated[str, typer.Option(help="Seeds of the training.")] = "0",
    config: Config = None,
    settings: Settings = None,
    episodes: Episodes = 100,
    tasks: Annotated[int, typer.Option(help="Maximum number of held-out tasks to measure, evenly spaced.")] = 32,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Compare ad and cad at equal parameters and equal visible tokens; called again, it continues."""
    from icrl_agents.core.process.terminal import print_json, print_table, progress_bar
    from icrl_agents.studies.windows import study as studies
    from icrl_agents.studies.windows.designs import make_plan
    from icrl_agents.training.settings import parse_pairs, read_toml

    values = read_toml(config) | parse_pairs(settings, _known_settings("cad"))
    plan, trainings = make_plan(env, numbers(windows), numbers(latents), values), numbers(seeds)
    with progress_bar("training and measuring", len(plan.designs) * len(trainings), "agents") as step:
        found = studies.study_windows(
            plan, output, seeds=trainings, episodes=episodes, most_tasks=tasks, jobs=jobs, on_done=step
        )
    if as_json:
        print_json([measured.to_json() for measured in found])
        return
    print_table(*studies.table(found))
    for window, count in plan.left_out:
        print(f"left out: {count} latents, which take more than half of window {window}")
    print(f"see {output / studies.JSON} and {output / studies.PICTURE}")


def push(
    folder: Annotated[Path, typer.Argument(help="A trained agent.")],
    repo: Annotated[str, typer.Argument(help="The Hub repo, org/name; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private repo.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch. Default: main.")] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload agent",
) -> None:
    """Upload an agent to the Hub, with the token of HF_TOKEN or a login."""
    from icrl_agents.agents.pretrained import upload

    print(upload(folder, repo, private=private or None, revision=revision, commit_message=message))


def _known_settings(method: str) -> list[Any]:
    """The fields that --set may name; an unknown method is refused later."""
    from icrl_agents import METHODS
    from icrl_agents.training.config import TrainConfig

    return [*fields(TrainConfig), *(fields(METHODS[method].Config) if method in METHODS else ())]


def _measure_and_write(agent: Any, env_id: str, folder: Path) -> None:
    from icrl_agents.core.process.terminal import progress_bar
    from icrl_agents.evaluation import results as report

    began = time.perf_counter()
    with progress_bar("evaluating", lifetime_of(agent, env_id), "episodes") as step:
        curves = report.measure(agent, env_id, on_episode=step)
    report.write_report(folder, curves)
    report.show(curves)
    print(f"{folder}: evaluated in {time.perf_counter() - began:.1f} s, see results.json, README.md and curve.png")


def _validation(folder: Path) -> str:
    """What the last line of the metrics says of the validation tasks."""
    metrics = folder.expanduser() / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []  # a finished run may have been moved without
    row = json.loads(lines[-1]) if lines else {}
    if "validation_return" not in row:
        return ""
    random = f", random {row['validation_random']:.2f}" if "validation_random" in row else ""  # not of older runs
    return f", validation return {row['validation_return']:.2f} of {row['validation_optimal']:.2f}{random}"
