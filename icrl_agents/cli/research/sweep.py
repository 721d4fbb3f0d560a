"""The sweep: trainings with several seeds and settings, on this machine, on Ray or on SLURM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from icrl_agents.cli.options import (
    Address,
    AsJson,
    BackendName,
    Config,
    Env,
    Folder,
    Histories,
    Jobs,
    Method,
    Resources,
    Settings,
    Split,
    Tasks,
    TrainingSeeds,
    backend_of,
    known_settings,
    numbers,
    read_settings,
)


@dataclass(frozen=True)
class Sweep:
    """Train every combination of settings and seeds, each as a job, and compare them; called again, it continues."""

    method: Method
    env: Env
    output: Folder
    task_file: Tasks = None
    histories: Histories = None
    seeds: TrainingSeeds = "0"
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="NAME=A,B,...", help="A setting and its values; repeatable, all combinations."),
    ] = None
    config: Config = None
    settings: Settings = None
    split: Split = "validation"
    episodes: Annotated[int | None, typer.Option(help="Episodes of a lifetime. Default: as published.")] = None
    jobs: Jobs = None
    backend: BackendName = "local"
    address: Address = None
    resources: Resources = None
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.core.process.terminal import print_json, print_table, progress_bar
        from icrl_agents.evaluation.protocol import EvalSpec
        from icrl_agents.studies import sweep

        grid = sweep.Grid(
            self.method,
            self.env,
            read_settings(self.config, self.settings, self.method),
            self._values(),
            numbers(self.seeds),
            self.histories or None,
        )
        with progress_bar("training and measuring", len(grid.points()) * len(grid.seeds), "agents") as step:
            found = sweep.sweep(
                grid,
                self.output,
                spec=EvalSpec(self.split, self.episodes),
                jobs=self.jobs,
                backend=backend_of(self.backend, self.address, self.resources),
                on_done=step,
            )
        if self.as_json:
            print_json([measured.to_json() for measured in found])
            return
        print_table(*sweep.table(found))
        print(f"see {self.output / sweep.JSON}")

    def _values(self) -> dict[str, list[Any]]:
        """The values of --grid by setting."""
        from icrl_agents.cli.settings import parse_pairs

        values: dict[str, list[Any]] = {}
        for text in self.grid or ():
            name, equals, rest = text.partition("=")
            if not equals or name in values:
                raise ValueError(f"--grid {text!r} is not NAME=A,B,... or names {name} again, such as lr=1e-3,3e-4")
            known = known_settings(self.method)
            values[name] = [parse_pairs([f"{name}={value}"], known, "--grid")[name] for value in rest.split(",")]
        return values
