"""What commands have in common: options that mean the same in all of them, and how words become values."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Agent = Annotated[str, typer.Argument(help="A folder, a bundled name such as icrl/ad-darkroom, or a Hub repo id.")]
AgentEnv = Annotated[str | None, typer.Option("--env", metavar="ID", help="Default: the one it was trained on.")]
Split = Annotated[str, typer.Option(help="test (held out), validation, train, all, or a published set such as num_50.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:1, as far as this machine has it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Plan = Annotated[str | None, typer.Option(help="A planner: lookahead, beam (as published) or best-of-n.")]
Episodes = Annotated[int, typer.Option(help="Length of a lifetime: episodes on one task, remembered as a whole.")]


def env_of(agent: Any, given: str | None) -> str:
    """The given environment, else the one that the agent was trained on."""
    env_id = agent.facts.get("env_id") if given is None else given
    if not isinstance(env_id, str):
        raise ValueError("the agent does not say which environment it is for: give --env")
    return env_id


def lifetime_of(agent: Any, given: str | None) -> int:
    """Episodes of a published lifetime in that environment, for a progress bar; unknown ids are refused elsewhere."""
    from icrl_agents.core.families import find_family, is_family

    env_id = env_of(agent, given)
    return find_family(env_id).lifetime if is_family(env_id) else 1


def numbers(text: str) -> list[int]:
    """Comma-separated integers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers such as 0,1,2") from None
