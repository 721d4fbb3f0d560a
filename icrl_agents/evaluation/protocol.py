"""How an agent is measured: by what, on which tasks, for how long and how often."""

from __future__ import annotations

from typing import Any, NamedTuple

from icrl_agents.agents.shown import takes_demos
from icrl_agents.core.checks import whole
from icrl_agents.sources.demonstrations import Demonstrate, Demonstrations

RETURN, SUCCESS, BEST = "return", "success", "best_so_far"
MEASURES = {  # what an episode is measured by, and its label in a figure
    RETURN: "return (sum of an episode's rewards)",
    SUCCESS: "success (share of lifetimes)",
    BEST: "success so far (share of lifetimes)",
}


class EvalSpec(NamedTuple):
    """Settings of a measurement; None leaves a number to the function that measures."""

    split: str = "test"
    episodes: int | None = None  # episodes of a lifetime
    num_seeds: int | None = None  # lifetimes on each task
    seed: int = 0
    tasks: int | None = None  # maximum number of tasks, evenly spaced over the split
    demos: int | None = None  # demonstrations before each lifetime, of agents that take them; None: all they take


def demonstrate(agent: Any, env_id: str, demos: Any) -> Demonstrate | None:
    """Function that makes the demonstrations that `demos` asks for, None for none.

    Raises:
        ValueError: the agent takes no demonstrations, or not as many.
    """
    if not callable(demos):
        demos = whole("demos", demos, 0)
    if demos == 0:
        return None
    if not takes_demos(agent):
        raise ValueError(f"demos={str(demos)[:80]}, but this agent takes no demonstrations: leave demos out")
    if callable(demos):
        return demos
    if agent.config.latent:
        raise ValueError(f"demos={demos}, but the agent is shown latent actions: give a function that labels episodes")
    if demos > agent.config.demos:
        raise ValueError(f"demos={demos}, the agent takes at most {agent.config.demos}: give fewer")
    return Demonstrations(env_id, demos)
