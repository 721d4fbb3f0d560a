"""Own lifetimes of an agent, for labels of an expert where the agent gets to."""

from __future__ import annotations

from typing import Any

from torch import nn

from icrl_agents.core.printable import printable
from icrl_agents.core.rollout import Learner, Named, rollout
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.nn.stamp import weights_digest
from icrl_agents.sources.source import Source

AGENT, WEIGHTS = "agent", "weights"  # among the settings: name of the agent, SHA-256 of its weights


class OwnLifetimes(Source):
    """An agent that acts as it does for its users. It has no name in `SOURCES`: `collect` takes the agent itself.

    An agent that learns from the lifetimes of others meets states, and contexts, that only its own actions lead to.
    Labels of an expert there (column `expert_action`) are those of DAgger (Ross et al. 2011, arXiv 1011.0686).
    """

    assumes = "what its agent was trained on."

    def __init__(self, agent: Learner):
        if not isinstance(agent, Learner):
            raise ValueError(f"source={printable(agent)} cannot act: give a name of SOURCES, or an agent")
        super().__init__()
        self.agent = agent

    def described(self) -> dict[str, Any]:
        method = getattr(self.agent, "method", None)  # of an ICAgent
        weights = {WEIGHTS: weights_digest(method)} if isinstance(method, nn.Module) else {}
        return super().described() | {AGENT: _name(self.agent)} | weights

    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        rollout(self.agent, env, episodes, seed=seed, options=options)


def _name(agent: Learner) -> str:
    """The name that an agent was loaded by, or its class in angle brackets."""
    given = agent.name if isinstance(agent, Named) else getattr(agent, "origin", "")
    return given or f"<{type(agent).__name__}>"
