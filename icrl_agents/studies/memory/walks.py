"""Walks: what happens in a history between the last visible reward and the agent's turn. Axis letter: B rows."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from icrl_agents.core.checks import check_choice
from icrl_agents.sources import make_source
from icrl_agents.sources.source import Source, StepSource, count_actions

WALKS = "random", "unrewarded"


def make_walk(name: str, env_id: str) -> Source:
    """The source of a walk: random actions, or those of them that are not rewarded.

    Raises:
        ValueError: an unknown name.
    """
    check_choice("walk", name, WALKS)
    if name == "unrewarded":
        return Unrewarded()
    return make_source("noise", env_id, {"start": 1.0, "end": 1.0})


class Unrewarded(StepSource):
    """Random actions without a reward, as far as there are any: the walk passes no goal.

    A random walk passes places that would have paid, and shows that they do not: an agent that trusts its eyes drops
    what it remembers. Here nothing contradicts it.
    """

    assumes = "the environment itself: each action is tried on a copy first."

    def prepare(self, env: Any) -> None:
        self.actions = count_actions(env, "unrewarded")

    def choose(self, obs: np.ndarray) -> np.ndarray:
        rows = len(obs)
        orders = self.rng.permuted(np.tile(np.arange(self.actions), (rows, 1)), axis=1)
        if self.allowed is not None:  # legal ones first
            orders = np.take_along_axis(orders, np.argsort(~np.take_along_axis(self.allowed, orders, 1), 1), 1)
        action, found = orders[:, 0].copy(), np.zeros(rows, bool)
        for candidate in orders.T:
            twin = deepcopy(self.env.unwrapped)
            free = ~found & (np.asarray(twin.step(np.where(found, action, candidate))[1]) == 0)
            action[free] = candidate[free]
            found |= free
            if found.all():
                break
        return action
