"""The command that examines an environment before anything long starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from icrl_agents.cli.options import AsJson, Env, Settings, Tasks


@dataclass(frozen=True)
class Doctor:
    """Examine an environment and its tasks before anything long starts; exit code 1 if something fails.

    Checks the contract, seeds, rewards, the split, random and source returns, and whether tasks differ; estimates the
    time and memory of `collect` and `train` on this machine.
    """

    env: Env
    task_file: Tasks = None
    method: Annotated[str, typer.Option(help="The method whose training time is estimated.")] = "ad"
    source: Annotated[str | None, typer.Option(help="The learner to measure. Default: the environment's.")] = None
    settings: Settings = None
    sample: Annotated[int, typer.Option(help="Number of training tasks that are measured.")] = 12
    episodes: Annotated[int, typer.Option(help="Episodes of the source on each of them.")] = 20
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.cli.settings import read_source
        from icrl_agents.core.process.terminal import print_json, print_table
        from icrl_agents.sources import make_source
        from icrl_agents.studies.doctor.examine import examine
        from icrl_agents.studies.doctor.findings import Grade

        given = read_source(self.env, self.source, self.settings)
        source = make_source(given.source, self.env, given.settings)
        source.expert = given.expert
        found = list(examine(self.env, method=self.method, source=source, tasks=self.sample, episodes=self.episodes))
        if self.as_json:
            print_json([finding._asdict() for finding in found])
        else:
            print_table(("check", "result", "finding"), found)
        if any(finding.grade == Grade.FAIL for finding in found):
            raise typer.Exit(1)
