"""Random play. Axis letters: B rows, A actions."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from icrl_agents.core.spaces import num_actions
from icrl_agents.sources.source import StepSource, choose_any


class Uniform(StepSource):
    """Uniformly random legal actions: a lower bound, and data without the bias of a learner.

    Where actions have no bounds, they are drawn as Gymnasium draws them from such a space. History column of Discrete
    actions: `log_prob`.
    """

    assumes = "nothing but the action space."

    def prepare(self, env: Any) -> None:
        self.legal = self.legal_actions() if num_actions(env.single_action_space) else None  # (B, A) bool
        if self.legal is None:
            self.space = deepcopy(env.action_space)  # of all rows, with a generator of its own
            self.space.seed(int(self.rng.integers(2**31)))

    def choose(self, obs: np.ndarray) -> np.ndarray:
        if self.legal is None:
            return self.space.sample()
        self.note(log_prob=-np.log(self.legal.sum(1)).astype(np.float32))
        return choose_any(self.legal, self.rng)
