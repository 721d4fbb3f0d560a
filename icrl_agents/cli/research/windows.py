"""The study of windows: what a longer window earns, compared with latents in the place of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from icrl_agents.cli.options import (
    Address,
    AsJson,
    BackendName,
    Config,
    Env,
    Episodes,
    Folder,
    Jobs,
    Resources,
    Settings,
    TaskFile,
    TrainingSeeds,
    backend_of,
    numbers,
    read_settings,
)

if TYPE_CHECKING:
    from icrl_agents.studies.windows.designs import Plan
    from icrl_agents.studies.windows.study import Measured


@dataclass(frozen=True)
class Windows:
    """Compare ad and cad at equal parameters and equal visible tokens; called again, it continues."""

    env: Env
    output: Folder
    task_file: TaskFile = None
    windows: Annotated[str, typer.Option(help="Visible steps, of both methods.")] = "30,60,120,240"
    latents: Annotated[str, typer.Option(help="Latents of cad, each in the place of a step.")] = "8,16,32"
    kept: Annotated[int | None, typer.Option(help="Steps that stay visible after a fold of cad. Default: half.")] = None
    whole: Annotated[bool, typer.Option("--whole", help="Add ad that sees a whole training lifetime.")] = False
    seeds: TrainingSeeds = "0"
    config: Config = None
    settings: Settings = None
    episodes: Episodes = 100
    last: Annotated[int, typer.Option(help="Number of episodes at the end of a lifetime that are compared.")] = 10
    tasks: Annotated[int, typer.Option(help="Maximum number of held-out tasks to measure, evenly spaced.")] = 32
    jobs: Jobs = None
    backend: BackendName = "local"
    address: Address = None
    resources: Resources = None
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.core.process.terminal import progress_bar
        from icrl_agents.evaluation.protocol import EvalSpec
        from icrl_agents.studies.windows import study
        from icrl_agents.studies.windows.designs import make_plan

        settings = read_settings(self.config, self.settings, "cad")
        plan = make_plan(self.env, numbers(self.windows), numbers(self.latents), settings, self.kept, self.whole)
        seeds = numbers(self.seeds)
        with progress_bar("training and measuring", len(plan.designs) * len(seeds), "agents") as step:
            found = study.study_windows(
                plan,
                self.output,
                seeds=seeds,
                spec=EvalSpec(episodes=self.episodes, num_seeds=study.RUNS, tasks=self.tasks),
                last=self.last,
                jobs=self.jobs,
                backend=backend_of(self.backend, self.address, self.resources),
                on_done=step,
            )
        self._show(plan, found)

    def _show(self, plan: Plan, found: list[Measured]) -> None:
        from icrl_agents.core.process.terminal import print_json, print_table
        from icrl_agents.studies.windows import study

        if self.as_json:
            print_json([measured.to_json() for measured in found])
            return
        print_table(*study.table(found))
        for window, count in plan.left_out:
            print(f"left out: {count} latents, which take more than half of window {window}")
        print(f"see {self.output / study.JSON} and {self.output / study.PICTURE}")
