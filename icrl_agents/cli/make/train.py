"""The command that trains an agent, and what it prints afterwards."""

from __future__ import annotations

import json
import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from icrl_agents.cli.options import (
    Config,
    Device,
    Env,
    FilesCommand,
    Folder,
    Histories,
    Method,
    Overwrite,
    Resume,
    Settings,
    Tasks,
    known_settings,
    lifetime_of,
    read_settings,
)

STAGES = {"pretrain": 1.0, "finetune": 0.0}  # the share of the updates without a loss on actions


class TrainCommand(FilesCommand):
    """`train`, which requires neither METHOD nor --env and --output if --help-settings is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--help-settings" in args:
            from icrl_agents.cli.help_settings import show

            rest = [word for word in args if word != "--help-settings"]
            show(rest[0] if rest and not rest[0].startswith("-") else None)
            raise typer.Exit
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Train:
    """Train an agent; without --histories on lifetimes that its source lives while it trains.

    Settings are those of training and of the method, and as source.NAME those of the source: --help-settings lists
    them, with types, defaults and meanings.
    """

    method: Method
    env: Env
    output: Folder
    task_file: Tasks = None
    histories: Histories = None
    config: Config = None
    settings: Settings = None
    source: Annotated[str | None, typer.Option(help="The learner of fresh lifetimes. Default: the environment's.")] = (
        None
    )
    updates: Annotated[int | None, typer.Option(help="Gradient updates. Default: those of the settings.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. Default: 0.")] = None
    stage: Annotated[str | None, typer.Option(help="pretrain or finetune, of methods that have both.")] = None
    init: Annotated[str | None, typer.Option(help="An agent to start from.")] = None
    threads: Annotated[int | None, typer.Option(help="CPU threads of PyTorch; 1 is fastest for small models.")] = None
    device: Device = "auto"
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track", metavar="NAME", help="tensorboard, wandb (offline) or none. Default: tensorboard if found."
        ),
    ] = None
    resume: Resume = False
    overwrite: Overwrite = False
    with_report: Annotated[bool, typer.Option("--report", help="Evaluate on the test tasks when trained.")] = False
    help_settings: Annotated[
        bool, typer.Option("--help-settings", help="List all settings, of METHOD or of all methods, and leave.")
    ] = False

    def run(self) -> None:
        from icrl_agents import train
        from icrl_agents.core.process.launched import is_first
        from icrl_agents.evaluation.figure import require_matplotlib
        from icrl_agents.training.run_folder import is_finished

        if self.with_report:
            self._check_report()
            require_matplotlib()
        settings = self._all_settings()
        first = is_first()  # of the processes that `accelerate launch` starts one reports
        if first and not self.histories and not self.resume:
            print_source(self.env, settings)
        began, finished = time.perf_counter(), self.resume and is_finished(self.output.expanduser())
        agent = train(
            self.method,
            self.env,
            self.output,
            histories=self.histories or None,
            settings=settings,
            device=self.device,
            resume=self.resume,
            overwrite=self.overwrite,
            track=self.track,
        )
        if not first:
            return
        done = "was finished already" if finished else f"trained in {time.perf_counter() - began:.1f} s"
        print(f"{self.output}: {done}{_validation(self.output)}")
        if self.with_report:
            _measure_and_write(agent, self.env, self.output)
        print(_next_step(agent, self.output))

    def _all_settings(self) -> dict[str, Any]:
        """The settings of --config, replaced by those of --set, replaced by those with an option of their own."""
        if self.stage is not None:
            self._check_stage(self.stage)
        settings = read_settings(self.config, self.settings, self.method)
        if self.stage is not None and "pretrain" in settings:
            value = settings["pretrain"]
            raise ValueError(f"--stage {self.stage} sets pretrain, and pretrain={value} was given: leave one out")
        options = {
            "source": self.source,
            "updates": self.updates,
            "seed": self.seed,
            "threads": self.threads,
            "init": self.init,
            "pretrain": None if self.stage is None else STAGES[self.stage],
        }
        settings |= {name: value for name, value in options.items() if value is not None}
        if self.stage == "finetune" and not settings.get("init") and not self.resume:
            raise ValueError("--stage finetune goes on with a pretrained agent: give its folder as --init")
        return settings

    def _check_report(self) -> None:
        from icrl_agents.methods import PREDICTORS

        if self.method in PREDICTORS:
            raise ValueError(f"--report is for agents, and {self.method} does not act: leave it out")

    def _check_stage(self, stage: str) -> None:
        from icrl_agents.core.checks import check_choice

        check_choice("--stage", stage, STAGES)
        if "pretrain" not in {field.name for field in known_settings(self.method)}:
            raise ValueError(
                f"--stage is for methods that pretrain, such as cad, not for {self.method!r}: leave it out"
            )


def print_source(env_id: str, settings: dict[str, Any]) -> None:
    """Print which source generates the lifetimes, and why, unless the caller names one."""
    from icrl_agents.sources import choose_source, find_source

    if settings.get("source"):
        return
    name, reason = choose_source(env_id, "source.expert" in settings)
    first = "; it learns one task at a time, so its histories are collected first" if find_source(name).one_task else ""
    print(f"source {name}: {reason}{first}")


def _next_step(agent: Any, output: Path) -> str:
    """The command to go on with: to watch the agent, or to finetune one that was only pretrained."""
    from icrl_agents.cli.own_env import given_env

    if not agent.method.acts:
        return f"label histories with it: icrl-agents annotate FILE.h5 --model {shlex.quote(str(output))}"
    if agent.method.trains_policy(1.0):
        words = ["icrl-agents", "play", str(output), *given_env(agent.facts["env_id"])]
        return f"watch it: {shlex.join(words)}"
    return f"it has not learned to act yet: {finetuning_command(agent.facts['command'], output)}"


def finetuning_command(command: str, output: Path) -> str:
    """The command that finetunes the agent in `output`, given the command that pretrained it."""
    words = shlex.split(command)
    if words[:1] != ["icrl-agents"]:  # trained from Python
        return f"go on with init={str(output)!r} and pretrain=0"
    kept, rest = list[str](), iter(words)
    for word in rest:
        option, joined, value = word.partition("=")
        if option in ("--stage", "--init", "-o", "--output", "--set"):
            value = value if joined else next(rest, "")
            if option == "--set" and value.partition("=")[0] not in ("pretrain", "init"):
                kept += ["--set", value]
        elif word not in ("--resume", "--overwrite"):
            kept.append(word)
    return shlex.join([*kept, "--set", "pretrain=0", "--init", str(output), "-o", f"{output}-finetuned"])


def _measure_and_write(agent: Any, env_id: str, folder: Path) -> None:
    """Measure the agent on the test tasks, write results, curve and card into its folder, and print the table."""
    from icrl_agents.core.process.terminal import progress_bar
    from icrl_agents.evaluation import results

    began = time.perf_counter()
    with progress_bar("evaluating", lifetime_of(agent, env_id), "episodes") as step:
        curves = results.measure(agent, env_id, on_episode=step)
    results.write_report(folder, curves)
    results.show(curves)
    print(f"{folder}: evaluated in {time.perf_counter() - began:.1f} s, see results.json, README.md and curve.png")


def _validation(folder: Path) -> str:
    """The validation return in the last line of the metrics, as the end of a sentence; empty without one."""
    metrics = folder.expanduser() / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []  # a finished run may have been moved without
    row = json.loads(lines[-1]) if lines else {}
    if "validation_return" not in row:
        return ""
    random = f", random {row['validation_random']:.2f}" if "validation_random" in row else ""  # not of older runs
    possible = row.get("validation_optimal", math.nan)  # NaN in older runs without a known optimum
    best = "" if math.isnan(possible) else f" of {possible:.2f}"
    return f", validation return {row['validation_return']:.2f}{best}{random}"
