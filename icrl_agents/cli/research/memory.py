"""The study of memory: recall of rewards that have left the window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icrl_agents.cli.options import (
    AgentEnv,
    Device,
    Overwrite,
    ResultsAsJson,
    Seed,
    Split,
    Tasks,
    WriteCards,
    env_of_all,
    numbers,
)
from icrl_agents.cli.outputs import check_folder, print_results

if TYPE_CHECKING:
    from icrl_agents import ICAgent
    from icrl_agents.studies.memory.probe import Recall


@dataclass(frozen=True)
class Memory:
    """Measure how long agents remember rewards that they do not see any more."""

    agents: Annotated[
        list[str], typer.Argument(metavar="AGENT...", help="Agents of one environment; the first sets the defaults.")
    ]
    env: AgentEnv = None
    task_file: Tasks = None
    episodes: Annotated[
        str | None, typer.Option(help="Episodes of the histories, such as 3,10,36. Default: for 1, 5 and 20 folds.")
    ] = None
    shown: Annotated[
        int | None,
        typer.Option(help="First episodes, whose rewards are shown. Default: those of the first fold, else 2."),
    ] = None
    change: Annotated[str, typer.Option(help="Change latents: none, zeroed, swapped, shuffled, frozen or all.")] = (
        "none"
    )
    walk: Annotated[
        str, typer.Option(help="What follows the rewards: random actions, or the unrewarded ones among them.")
    ] = "random"
    split: Split = "test"
    seeds: Annotated[int, typer.Option(help="Histories of each task.")] = 10
    seed: Seed = 0
    device: Device = "auto"
    as_json: ResultsAsJson = False
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For JSON and a figure.")] = (
        None
    )
    overwrite: Overwrite = False
    write: WriteCards = False

    def run(self) -> None:
        from icrl_agents import ICAgent
        from icrl_agents.evaluation.results import check_measured
        from icrl_agents.studies.memory import report

        folder = check_folder(self.output, report.FILES, self.overwrite)
        agents = {name: ICAgent.from_pretrained(name, device=self.device) for name in self.agents}
        env_id = env_of_all(agents.values(), self.env)
        if self.write:
            check_measured(self.agents, env_id)
        found = self._measure(agents, env_id)
        results = report.to_json(found, env_id, self.split, self.seeds, self.seed, self.walk)
        print_results(results, report.HEADER, report.table(found), self.as_json)
        if folder:
            report.write_probe(found, results, folder)
        if self.write:
            self._write_cards(found)

    def _measure(self, agents: Mapping[str, ICAgent], env_id: str) -> dict[tuple[str, str], list[Recall]]:
        """Recalls by the agent's name and the change of its latents."""
        from icrl_agents.core.process.terminal import progress_bar
        from icrl_agents.evaluation.evaluate import learner_splits
        from icrl_agents.studies.memory.probe import changes_of, probe, usual_histories

        sets = {name: learner_splits(agent, env_id).pick(self.split).ids.tolist() for name, agent in agents.items()}
        (one, first), tasks = next(iter(agents.items())), len(next(iter(sets.values())))
        if other := next((name for name, ids in sets.items() if ids != sets[one]), None):
            raise ValueError(f"{other} has other {self.split} tasks than {one}, of its own split: measure them apart")
        shown, usual = usual_histories(first, env_id, self.shown)
        lengths = usual if self.episodes is None else numbers(self.episodes)
        parts = [(name, change) for name, agent in agents.items() for change in changes_of(agent, self.change, tasks)]
        found = {}
        with progress_bar("measuring", len(parts), "histories") as step:
            for done, (name, change) in enumerate(parts, 1):
                found[name, change] = probe(
                    agents[name], env_id, lengths, change, shown, self.split, self.seeds, self.seed, self.walk
                )
                step(done)
        return found

    def _write_cards(self, found: Mapping[tuple[str, str], list[Recall]]) -> None:
        from icrl_agents.evaluation.results import include_rows
        from icrl_agents.studies.memory import report

        for name in self.agents:
            recalls = {change: of_change for (agent, change), of_change in found.items() if agent == name}
            include_rows(name, report.card_rows(recalls, self.split, self.walk))
