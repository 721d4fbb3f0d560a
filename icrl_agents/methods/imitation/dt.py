"""Decision Transformer (DT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from icrl_agents.core.steps import Steps
from icrl_agents.methods.imitation.episodes.method import EpisodeConfig, EpisodeMethod


@dataclass(frozen=True)
class DTConfig(EpisodeConfig):
    pass


class DT(EpisodeMethod):
    """Decision Transformer (Chen et al. 2021, arXiv 2106.01345): imitation of recorded actions by a causal transformer.

    The policy is conditioned on the steps of the current episode and, with `return_to_go`, on the return that remains
    to be earned, so that a high target asks for the best behaviour in the data. It sees no other episode, so it learns
    nothing in context: a reference for methods that do.

    Tokens of a step: one percept, obs + prev_action + timestep, and + return to go with `return_to_go`; the first step
    of an episode has no prev_action. Loss: mean over all steps t of -log p(action_t | percepts of the episode up to
    t); with `return_to_go` over those whose episode ends in the training window, so that the return is known.

    When acting, each episode begins with an empty context, and the last `window` steps of a longer one are visible.
    The return to go is that of `reset(target_return=...)`, by default the best one in the first training batch, minus
    the rewards of the episode so far.

    Deviations: one token per step predicts the action, where the paper has two, obs and action, or three with returns:
    it holds the same information (the previous action and the current obs) at half the cost or less. Return to go is
    optional and off, as in the imitation of experts. Rotary positions besides the embedding of the timestep.
    """

    Config = DTConfig
    in_context = False
    config: DTConfig

    def __init__(self, observation_space: Any, action_space: Any, config: DTConfig | None = None):
        super().__init__(observation_space, action_space, config or DTConfig())

    def hidden(self, steps: Steps) -> Tensor:
        """Hidden vectors (B, T, 1, D), each episode read by itself."""
        return self.read_parts(steps, steps.first)
