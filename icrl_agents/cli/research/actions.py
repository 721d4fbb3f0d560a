"""The study of action sets: agents on published sets of tasks, and with renumbered actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icrl_agents.cli.options import AgentEnv, Device, Overwrite, ResultsAsJson, TaskFile, WriteCards, env_of_all
from icrl_agents.cli.outputs import check_folder, print_results

if TYPE_CHECKING:
    from icrl_agents.studies.action_sets.results import Report


@dataclass(frozen=True)
class Actions:
    """Measure agents on every published set of tasks, beside random play and the environment's source."""

    agents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT]...", help="Agents of one environment; trainings that differ in the seed are averaged."
        ),
    ] = None
    env: AgentEnv = None
    task_file: TaskFile = None
    stored: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Instead of agents: what was measured before, all in one report."),
    ] = None
    names: Annotated[
        list[str] | None,
        typer.Option("--task-set", metavar="NAME", help="A set of tasks; repeatable. Default: every set."),
    ] = None
    sets: Annotated[list[str] | None, typer.Option("--set", hidden=True, help="Formerly of --task-set.")] = None
    tasks: Annotated[int | None, typer.Option(help="Up to N tasks of each set, evenly spaced. Default: 100.")] = None
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: 1.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. Default: 0.")] = None
    episodes: Annotated[int | None, typer.Option(help="Episodes of a lifetime. Default: as published.")] = None
    relabel: Annotated[
        bool | None,
        typer.Option("--relabel/--no-relabel", help="Measure agents with renumbered (permuted) actions too."),
    ] = None
    device: Device = "auto"
    as_json: ResultsAsJson = False
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For tables and figures.")] = (
        None
    )
    overwrite: Overwrite = False
    write: WriteCards = False

    def run(self) -> None:
        from icrl_agents.studies.action_sets import report

        folder = check_folder(self.output, report.FILES, self.overwrite)
        if bool(self.agents) == bool(self.stored):
            raise ValueError("give agents to measure, or --stored with folders of results, and not both")
        found = self._load(self.stored) if self.stored else self._measure()
        print_results(found.to_json(), *report.table(found), self.as_json)
        if folder:
            report.write_sets(found, folder)
        if self.write:
            report.include_sets(found)

    @property
    def _task_sets(self) -> list[str] | None:
        return [*(self.names or ()), *(self.sets or ())] or None

    @property
    def _protocol(self) -> dict[str, Any]:
        """The keywords of `measure` that were given; those left out have defaults there."""
        options = {"num_seeds": self.seeds, "tasks": self.tasks, "seed": self.seed, "relabel": self.relabel}
        return {name: value for name, value in options.items() if value is not None}

    def _load(self, folders: list[Path]) -> Report:
        """The results that were measured before, as one report."""
        from icrl_agents.studies.action_sets.results import Report

        if self.write or self.env or self._task_sets or self.episodes or self._protocol:
            raise ValueError(
                "--stored measures nothing: leave --write, --env, --task-set and all that measures out, or --stored"
            )
        return Report.join([Report.load(folder) for folder in folders])

    def _measure(self) -> Report:
        from icrl_agents import ICAgent
        from icrl_agents.core.process.terminal import progress_bar
        from icrl_agents.evaluation.results import check_measured
        from icrl_agents.studies.action_sets import results
        from icrl_agents.studies.action_sets.groups import find_entries

        agents = {name: ICAgent.from_pretrained(name, device=self.device) for name in self.agents or ()}
        env_id = env_of_all(agents.values(), self.env)
        if self.write:
            check_measured([entry.agents[0] for entry in find_entries(agents)], env_id)  # their cards get the results
        names = self._task_sets
        with progress_bar("measuring", len(names or results.default_sets(env_id)), "sets") as step:
            return results.measure(agents, env_id, names, episodes=self.episodes, on_done=step, **self._protocol)
