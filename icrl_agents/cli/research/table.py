"""The table of results: released agents, measured by the protocol of the published numbers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icrl_agents.cli.options import AsJson, BeamWidth, PlanAfter, PlanDepth, planner_of, refuse_beside_stored

if TYPE_CHECKING:
    from icrl_agents.studies.compare import Entry


@dataclass(frozen=True)
class Table:
    """Measure all released agents, without and with planning, beside the published numbers; again, it continues."""

    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write into.")] = Path(
        "runs/comparison"
    )
    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Only agents of this environment.")] = None
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one, such as icrl/ad-darkroom.")] = None
    also: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Holds further trainings, <name>-seed1, ...")] = (
        None
    )
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: the environment's.")] = None
    plan: Annotated[str, typer.Option(help="The planner to measure with as well.")] = "lookahead"
    beam_width: BeamWidth = None
    plan_depth: PlanDepth = None
    plan_after: PlanAfter = None
    stored: Annotated[bool, typer.Option("--stored", help="Show what their cards hold and measure nothing.")] = False
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.core.process.terminal import print_json, print_table
        from icrl_agents.studies import compare

        if self.stored:
            refuse_beside_stored(self, "env", "agent")
        entries = self._entries()
        if self.stored:
            found = [compare.stored(entry) for entry in entries]
        else:
            planner = planner_of(self.plan, self.beam_width, self.plan_depth, self.plan_after)
            found = compare.compare(entries, self.output, plan=planner, num_seeds=self.seeds, on_done=_report)
        if self.as_json:
            print_json([compare.to_json(measured) for measured in found])
        else:
            print_table(compare.HEADER, compare.rows(found))

    def _entries(self) -> list[Entry]:
        """The rows of the table that --env and --agent select."""
        from icrl_agents.core.checks import check_known
        from icrl_agents.studies import compare

        released = compare.released(self.also)
        if self.agent is not None:
            check_known([self.agent], (entry.agents[0] for entry in released), "agent of the table")
        entries = [
            entry for entry in released if self.env in (None, entry.env_id) and self.agent in (None, entry.agents[0])
        ]
        if not entries:
            of_env = f" of {self.env}" if self.env else ""
            raise ValueError(f"no released agent{of_env} is in the table: see icrl-agents agents")
        return entries


def _report(line: str) -> None:
    """Print progress to standard error: standard output is for the table."""
    print(line, file=sys.stderr)
