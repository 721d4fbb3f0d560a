"""Demonstrations: episodes of an expert, that an agent is shown before it acts. Axis letters: B rows, T steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from icrl_agents.core.steps import Steps
from icrl_agents.sources.collection import lifetimes, seed_of
from icrl_agents.sources.noise import Noise

Demonstrate = Callable[[np.ndarray, int], Steps]  # task ids (B,) and a seed -> demonstrations (B, T)
SHOWING = 3  # separates the random stream of demonstrations from that of the lifetimes after them


@dataclass(frozen=True)
class Demonstrations:
    """Episodes of the environment's expert, from starts other than those of lifetimes with the same seed.

    Args:
        env_id: id of an environment with an expert.
        episodes: number for each task.
    """

    env_id: str
    episodes: int

    def __call__(self, tasks: np.ndarray, seed: int) -> Steps:
        """Demonstrations (B, T) of the tasks (B,)."""
        expert = Noise.constant(self.env_id, 0.0)
        return lifetimes(self.env_id, expert, np.asarray(tasks), self.episodes, seed_of(seed, SHOWING))
