"""The study of seeds: how results differ between splits of the tasks and between trainings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import (
    Address,
    AsJson,
    BackendName,
    Config,
    Env,
    Folder,
    Jobs,
    Method,
    Resources,
    Settings,
    Tasks,
    TrainingSeeds,
    backend_of,
    numbers,
    read_settings,
)


@dataclass(frozen=True)
class Seeds:
    """Train and measure on several splits with several seeds; called again, it continues."""

    method: Method
    env: Env
    output: Folder
    task_file: Tasks = None
    splits: Annotated[str, typer.Option(help="Seeds of the task split.")] = "0,1,2,3,4"
    seeds: TrainingSeeds = "0,1,2"
    config: Config = None
    settings: Settings = None
    jobs: Jobs = None
    backend: BackendName = "local"
    address: Address = None
    resources: Resources = None
    into: Annotated[Path | None, typer.Option(help="A measured agent, whose results and card get the table.")] = None
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.core.process.terminal import print_json, print_table
        from icrl_agents.studies import seeds

        if self.into:
            seeds.check_card(self.into, self.method, self.env)
        curves = seeds.study(
            self.method,
            self.env,
            self.output,
            splits=numbers(self.splits),
            seeds=numbers(self.seeds),
            settings=read_settings(self.config, self.settings, self.method),
            jobs=self.jobs,
            backend=backend_of(self.backend, self.address, self.resources),
        )
        rows = seeds.study_table(curves)
        if self.as_json:
            print_json([row._asdict() for row in rows])
        else:
            intervals = ["" if row.low is None else f"{row.low} to {row.high}" for row in rows]
            cells = [(row.name, row.value, text, row.note) for row, text in zip(rows, intervals, strict=True)]
            print_table(("what", "value", "95% interval", ""), cells)
        if self.into:
            seeds.include(self.into, curves)
