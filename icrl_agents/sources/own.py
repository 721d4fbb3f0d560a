"""Own lifetimes of an agent, for labels of an expert where the agent gets to."""

from __future__ import annotations

from typing import Any

from icrl_agents.core.printable import printable
from icrl_agents.core.rollout import Learner, can_act, identity_of, rollout
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources.source import Source


class OwnLifetimes(Source):
    """An agent that acts as it does for its users. It has no name in `SOURCES`: `collect` takes the agent itself.

    An agent that learns from the lifetimes of others meets states, and contexts, that only its own actions lead to.
    Labels of an expert there (column `expert_action`) are those of DAgger (Ross et al. 2011, arXiv 1011.0686).
    """

    assumes = "what its agent was trained on."

    def __init__(self, agent: Learner):
        if isinstance(agent, Source) or not can_act(agent):
            raise ValueError(f"source={printable(agent)} is no agent: give one, or a name of SOURCES with its settings")
        super().__init__()
        self.agent = agent

    def described(self) -> dict[str, Any]:
        return super().described() | identity_of(self.agent)

    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        rollout(self.agent, env, episodes, seed=seed, options=options)
