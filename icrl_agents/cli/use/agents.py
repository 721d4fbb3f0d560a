"""The commands that use agents: play, agents, envs and push. `evaluate` is in a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icrl_agents.cli.options import (
    Agent,
    AgentEnv,
    AsJson,
    Device,
    Episodes,
    Overwrite,
    Plan,
    Split,
    Tasks,
    env_of,
    numbers,
)
from icrl_agents.cli.outputs import check_file

if TYPE_CHECKING:
    from icrl_agents.evaluation.recording import Recording


MAX_SPACE = 60  # characters of a space in the list of environments


@dataclass(frozen=True)
class Play:
    """Watch an agent learn a task it has never seen."""

    agent: Agent
    env: AgentEnv = None
    task_file: Tasks = None
    episodes: Episodes = 12
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. Default: a new one each time.")] = None
    task: Annotated[int | None, typer.Option(help="Which task of the split, from 0. Default: any.")] = None
    split: Split = "test"
    fps: Annotated[float, typer.Option(help="Steps shown a second.")] = 12.0
    animation: Annotated[
        bool, typer.Option("--animation/--no-animation", help="Draw some episodes; only in a terminal.")
    ] = True
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.gif", help="Record episodes, as .gif or .mp4, instead of an animation.")
    ] = None
    record_episodes: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Which, such as 1,6,12. Default: the first, a middle, the last."),
    ] = None
    record_width: Annotated[int | None, typer.Option(help="Pixels of a frame. Default: as drawn, at least 320.")] = None
    record_every: Annotated[int, typer.Option(help="Record each n-th step, for a smaller file.")] = 1
    overwrite: Overwrite = False
    demos: Annotated[
        int | None, typer.Option(help="Episodes of the expert that prompted-dt is shown. Default: all it takes.")
    ] = None
    plan: Plan = None
    device: Device = "auto"

    def run(self) -> None:
        from icrl_agents import ICAgent
        from icrl_agents.core.process.terminal import print_text
        from icrl_agents.evaluation.play import play

        recording = self.recording()

        agent = ICAgent.from_pretrained(self.agent, plan=self.plan, device=self.device)
        print_text(f"{self.agent} ({agent.source})")
        play(
            agent,
            env_of(agent, self.env),
            episodes=self.episodes,
            seed=self.seed,
            task=self.task,
            split=self.split,
            fps=self.fps,
            animate=self.animation,
            record=recording,
            demos=self.demos,
        )

    def recording(self) -> Recording | None:
        """Recording that was asked for; refused before an agent is loaded."""
        from icrl_agents.evaluation.recording import Recording

        if self.record is None:
            given = {"episodes": self.record_episodes, "width": self.record_width, "every": self.record_every}
            for name, value in given.items():
                if value not in (None, 1):
                    raise ValueError(f"--record-{name} {value}: give --record FILE.gif, too")
            return None
        check_file(self.record, self.overwrite)
        episodes = None if self.record_episodes is None else numbers(self.record_episodes)
        return Recording(self.record, episodes, self.record_width, self.record_every)


def agents(as_json: AsJson = False) -> None:
    """List the agents that come with the package."""
    from icrl_agents.core.process.terminal import print_json, print_table
    from icrl_agents.evaluation import results as report
    from icrl_agents.hub.remote import list_pretrained

    found = {name: _look_up(name) for name in list_pretrained()}
    if as_json:
        print_json([{"id": name, **facts} for name, facts in found.items()])
        return
    rows = []
    for name, facts in found.items():
        result = report.headline(facts) if facts["table"] else "not measured"
        rows.append((name, facts["env"], facts["method"], f"{facts['parameters']:,}", result))
    print_table(("id", "env", "method", "parameters", "mean return"), rows)


def _look_up(name: str) -> dict[str, Any]:
    """What the folder of a bundled agent says; its table of results is empty if it was not measured."""
    from icrl_agents.hub.checkpoint import RESULTS, WEIGHTS, read_config, read_results
    from icrl_agents.hub.header import count_weights
    from icrl_agents.hub.remote import BUNDLED, bundled_folder

    folder = bundled_folder() / name.removeprefix(BUNDLED)
    config = read_config(folder)
    return {
        "env": config.facts.get("env_id", ""),
        "method": config.method,
        "parameters": count_weights(folder / WEIGHTS),
        "table": read_results(folder)["table"] if (folder / RESULTS).exists() else [],
    }


@dataclass(frozen=True)
class Envs:
    """List the environments; the optimum is the mean over all tasks, of training and test."""

    env: Annotated[str | None, typer.Option("--env", metavar="ID", help="Only this one, or MODULE:ID.")] = None
    task_file: Tasks = None
    as_json: AsJson = False

    def run(self) -> None:
        from icrl_agents.core.families import all_families, find_family
        from icrl_agents.core.process.terminal import print_json, print_table

        families = all_families() if self.env is None else [find_family(self.env)]
        rows = [_env_row(family) for family in families]
        header = ("id", "obs", "actions", "horizon", "train", "test", "optimum")
        if self.as_json:
            print_json([dict(zip(header, row, strict=True)) for row in rows])
        else:
            printed = [(*row, "-" if best is None else f"{best:.2f}") for *row, best in rows]
            print_table((*header[:-1], "optimum (all tasks)"), printed)


def _env_row(family: Any) -> tuple[Any, ...]:
    """What the list says of a family; the optimum is None if it is not known."""
    from icrl_agents.core.families import Capability

    train, test = family.tasks.split()
    knows = family.offers(Capability.OPTIMAL_RETURN)
    best = float(family.optimal_return(family.tasks.ids).mean()) if knows else None
    spaces = _space_text(family.observation_space), _space_text(family.action_space)
    return (family.env_id, *spaces, family.horizon, len(train), len(test), best)


def _space_text(space: Any) -> str:
    """A space as text, without its bounds if they take more than a column."""
    text = str(space)
    return text if len(text) <= MAX_SPACE else f"{type(space).__name__}({space.shape}, {space.dtype})"


def push(
    folder: Annotated[Path, typer.Argument(help="A trained agent.")],
    repo: Annotated[str, typer.Argument(help="The Hub repo, org/name; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private repo.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch. Default: main.")] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload agent",
) -> None:
    """Upload an agent to the Hub, with the token of HF_TOKEN or a login."""
    from icrl_agents.agents.pretrained import upload

    print(upload(folder, repo, private=private or None, revision=revision, commit_message=message))
