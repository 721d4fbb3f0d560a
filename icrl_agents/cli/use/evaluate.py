"""The command that measures how an agent learns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icrl_agents.cli.options import (
    Address,
    Agent,
    AgentEnv,
    BackendName,
    BeamWidth,
    Device,
    Overwrite,
    Plan,
    PlanAfter,
    PlanDepth,
    Resources,
    ResultsAsJson,
    Seed,
    Split,
    Tasks,
    backend_of,
    env_of,
    lifetime_of,
    planner_of,
    refuse_beside_stored,
)
from icrl_agents.cli.outputs import check_file

if TYPE_CHECKING:
    from icrl_agents import ICAgent
    from icrl_agents.core.families import Registration
    from icrl_agents.core.process.jobs.backends import Backend
    from icrl_agents.evaluation.curves import Curve


@dataclass(frozen=True)
class Evaluate:
    """Measure how an agent learns tasks it has never seen; with --plan once without the planner and once with it.

    Where test tasks are few, all tasks of the environment are measured too, those it was trained on among them. With
    --stored --write the table, figure and card are computed again of the runs that the results hold.
    """

    agent: Agent
    env: AgentEnv = None
    task_file: Tasks = None
    split: Split = "test"
    episodes: Annotated[int | None, typer.Option(help="Episodes of a lifetime. Default: as published.")] = None
    seeds: Annotated[int | None, typer.Option(help="Lifetimes on each task. Default: 20, fewer of many tasks.")] = None
    seed: Seed = 0
    demos: Annotated[
        int | None,
        typer.Option(help="Episodes of the expert that prompted-dt is shown. Default: all it takes, 0 and 1."),
    ] = None
    plan: Plan = None
    beam_width: BeamWidth = None
    plan_depth: PlanDepth = None
    plan_after: PlanAfter = None
    plan_tasks: Annotated[int | None, typer.Option(help="Tasks measured with the planner. Default: all.")] = None
    change: Annotated[
        str | None,
        typer.Option(help="Change latents after every fold: zeroed, swapped, shuffled or frozen."),
    ] = None
    device: Device = "auto"
    processes: Annotated[
        int | None, typer.Option(help="Worker processes, for many lifetimes. Default: 1, on ray two for each CPU.")
    ] = None
    backend: BackendName = "local"
    address: Address = None
    resources: Resources = None
    as_json: ResultsAsJson = False
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="For the results.")] = None
    curve: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw return against episode.")] = None
    measure: Annotated[str, typer.Option(help="What --curve draws: return, success or best_so_far.")] = "return"
    write: Annotated[bool, typer.Option("--write", help="Write results, curve and card into its folder.")] = False
    stored: Annotated[bool, typer.Option("--stored", help="Show its stored results and measure nothing.")] = False
    overwrite: Overwrite = False

    def run(self) -> None:
        from icrl_agents.evaluation import results

        self._check_files()
        if self.stored:
            found = self._stored()
            curves = results.stored_curves(self.agent)
        else:
            curves = self._measured()
            found = results.build_results(curves)
            if self.write:  # first: what was measured is not lost
                results.write_report(self.agent, curves)
        self._show(curves, found)

    def _check_files(self) -> None:
        from icrl_agents.core.checks import check_choice
        from icrl_agents.evaluation.figure import picture_kind, require_matplotlib
        from icrl_agents.evaluation.protocol import MEASURES

        check_choice("measure", self.measure, MEASURES)
        if self.measure != "return" and not self.curve:
            raise ValueError(f"--measure {self.measure} is what --curve draws: give --curve FILE.png, or leave it out")
        if self.curve:
            picture_kind(self.curve)
        for path in (self.output, self.curve):
            check_file(path, self.overwrite)
        if self.write or self.curve:
            require_matplotlib()

    def _stored(self) -> dict[str, Any]:
        """The agent's results.json; with --write its table, card and figure are made of its curves again."""
        from icrl_agents.evaluation import results

        refuse_beside_stored(self, "agent", "task_file", "output", "curve", "measure", "write", "overwrite")
        if self.write:
            if not Path(self.agent).expanduser().is_dir():
                raise ValueError(
                    f"--write needs an agent in a folder of yours, {self.agent} is none: leave --write out"
                )
            results.include_rows(self.agent, ())
        return results.stored_results(self.agent)

    def _measured(self) -> list[Curve]:
        """The curves of lifetimes that are rolled out now."""
        from icrl_agents import ICAgent
        from icrl_agents.core.process.jobs.backends import open_workers
        from icrl_agents.core.process.terminal import progress_bar
        from icrl_agents.evaluation import results
        from icrl_agents.evaluation.protocol import EvalSpec

        planner = planner_of(self.plan, self.beam_width, self.plan_depth, self.plan_after)
        agent = ICAgent.from_pretrained(self.agent, device=self.device)
        if self.write and agent.source != "local":
            raise ValueError(
                f"--write needs an agent in a folder of yours, {self.agent} is {agent.source}: use --output"
            )
        learner, env_id = self._learner(agent), env_of(agent, self.env)
        backend, families = self._workers(env_id)
        with (
            open_workers(backend, self.processes, families) as workers,
            progress_bar("evaluating", self.episodes or lifetime_of(agent, self.env), "episodes") as step,
        ):
            curves = results.measure(
                learner,
                env_id,
                EvalSpec(self.split, self.episodes, self.seeds, self.seed, demos=self.demos),
                plan=planner,
                on_episode=step,
                plan_tasks=self.plan_tasks,
                workers=workers if backend.elsewhere(self.processes) else None,
            )
        if self.change:
            curves[0] = replace(curves[0], facts={**curves[0].facts, "latents": self.change})
        return curves

    def _workers(self, env_id: str) -> tuple[Backend, list[Registration]]:
        """The backend, and the families that its workers must get."""
        from icrl_agents.core.checks import check_value
        from icrl_agents.core.families import sendable

        check_value("processes", "int | None", self.processes, (1, 4096))
        backend = backend_of(self.backend, self.address, self.resources)
        return backend, sendable([env_id]) if backend.elsewhere(self.processes) else []

    def _learner(self, agent: ICAgent) -> Any:
        """The agent, or with --change the agent whose latents are changed after every fold."""
        from icrl_agents.evaluation.evaluate import learner_splits
        from icrl_agents.studies.memory.latents import LatentIntervention, check_change

        if not self.change:
            return agent
        if self.write or self.plan:
            raise ValueError(
                f"--change {self.change} shows what latents are worth, not the agent: leave --write and --plan out"
            )
        tasks = learner_splits(agent, env_of(agent, self.env)).pick(self.split)
        check_change(agent, self.change, len(tasks))
        return LatentIntervention(agent, self.change)

    def _show(self, curves: list[Curve], found: dict[str, Any]) -> None:
        """Print the table or the JSON of results, and write the files that --output and --curve name."""
        from icrl_agents.core.files.atomic import write_text
        from icrl_agents.evaluation import plots, results
        from icrl_agents.hub.cards import table_rows

        text = results.dump_results(found)
        print(text, end="") if self.as_json else results.show(curves, table_rows(found))
        if self.output:
            write_text(self.output.expanduser(), text)
        if self.curve:
            plots.plot_curves(curves, self.curve, self.measure)
