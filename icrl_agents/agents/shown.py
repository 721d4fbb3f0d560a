"""Shown: an agent that is shown demonstrations when its tasks begin. Axis letters: B rows, T steps."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.families import Capability, find_family
from icrl_agents.core.steps import Steps


class Shown:
    """An agent that is shown the same demonstrations (B, T) whenever its tasks begin."""

    def __init__(self, agent: Any, demo: Steps):
        self.agent, self.demo = agent, demo
        self.act, self.observe = agent.act, agent.observe

    def reset(self, env: VectorEnv, *, seed: int | None = None) -> None:
        self.agent.reset(env, seed=seed, demo=self.demo)


def takes_demos(agent: Any) -> bool:
    """Whether an agent is shown demonstrations when a task begins."""
    return isinstance(agent, ICAgent) and "demo" in agent.method.reset_options


def usual_demos(agent: Any, env_id: str) -> int:
    """Number of the expert's episodes that an agent is measured with: as many as fit, if it is shown actions."""
    family = find_family(env_id)
    if not takes_demos(agent) or agent.config.latent or not family.offers(Capability.EXPERT):
        return 0
    return min(agent.config.demos, agent.config.prompt // family.horizon)
