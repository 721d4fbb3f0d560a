"""Walks: what happens in a history between the last visible reward and the agent's turn. Axis letter: B rows."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from icrl_agents.core.checks import check_choice
from icrl_agents.core.families import find_family
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import num_actions
from icrl_agents.sources.noise import Noise
from icrl_agents.sources.source import Source, StepSource

UNREWARDED = "unrewarded"
WALKS = "random", UNREWARDED


def make_walk(name: str, env_id: str) -> Source:
    """The source of a walk: random actions, whose rewards are hidden, or those of them that are not rewarded.

    Raises:
        ValueError: an unknown name; "unrewarded" where actions cannot be counted.
    """
    check_choice("walk", name, WALKS)
    if name == UNREWARDED:
        if not num_actions(space := find_family(env_id).action_space):
            raise ValueError(f"walk='unrewarded' tries all actions, {env_id} has {printable(space)}: use walk='random'")
        return Unrewarded()
    return Noise.constant(env_id, 1.0)


class Unrewarded(StepSource):
    """Random actions without a reward, as far as there are any: the walk passes no goal.

    A random walk passes places that would have paid, and shows that they do not: an agent that trusts its eyes drops
    what it remembers. Here nothing contradicts it.
    """

    assumes = "the environment itself: each action is tried on a copy first."

    def prepare(self, env: Any) -> None:
        self.actions = num_actions(env.single_action_space)

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
