"""The study of robustness: an agent in worlds that differ a little from the one it was trained in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import Agent, AgentEnv, Device, Overwrite, ResultsAsJson, Seed, TaskFile, env_of
from icrl_agents.cli.outputs import check_file, print_results


@dataclass(frozen=True)
class Robustness:
    """Measure an agent with other units of rewards, without chance in its actions, and with tasks that change."""

    agent: Agent
    env: AgentEnv = None
    task_file: TaskFile = None
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="all, test, validation, train or a published set. Default: all of at most 200, else test.",
        ),
    ] = None
    episodes: Annotated[int | None, typer.Option(help="Episodes of a lifetime. Default: as published.")] = None
    seeds: Annotated[int, typer.Option(help="Lifetimes on each task.")] = 1
    seed: Seed = 0
    change_after: Annotated[int, typer.Option(help="Episodes before the task changes.")] = 20
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A row; repeatable. Default: as trained, rewards x10, rewards x0.1, rewards - 0.5, rewards affine, "
            "deterministic and task changes.",
        ),
    ] = None
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A further row: the same tasks in this environment, or MODULE:ID; repeatable."),
    ] = None
    device: Device = "auto"
    as_json: ResultsAsJson = False
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="For the report.")] = None
    overwrite: Overwrite = False

    def run(self) -> None:
        from icrl_agents import ICAgent
        from icrl_agents.cli.own_env import import_env
        from icrl_agents.core.files.atomic import write_text
        from icrl_agents.core.process.terminal import print_text, progress_bar
        from icrl_agents.studies import robustness as study

        check_file(self.output, self.overwrite)
        agent = ICAgent.from_pretrained(self.agent, device=self.device)
        variants = [import_env(given) for given in self.variant or ()]
        count = len(self.only or study.CONDITIONS) + len(variants)
        with progress_bar("measuring", count, "rows") as step:
            found = study.robustness(
                agent,
                env_of(agent, self.env),
                self.tasks,
                episodes=self.episodes,
                num_seeds=self.seeds,
                seed=self.seed,
                change_after=self.change_after,
                only=self.only or (),
                variants=variants,
                on_done=step,
            )
        if not self.as_json:
            print_text(found.title)
        print_results(found.to_json(), *study.table(found), self.as_json)
        if not self.as_json:
            for name, why in found.left_out.items():
                print_text(f"left out: {name} ({why})")
        if self.output:
            write_text(self.output.expanduser(), found.to_json())
