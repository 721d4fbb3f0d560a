"""Agents with random weights and scripted learners for the studies on action sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from icrl_envs import FAMILIES

from icrl_agents import METHODS, ICAgent
from icrl_agents.evaluation.results import spread

BERNOULLI, CONTEXTUAL, MACRO = "icrl/BernoulliBandit-v0", "icrl/ContextualBandit-v0", "icrl/DarkroomMacro-v0"
SIZES = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 20, "slide": 10}


def fresh(method: str, env_id: str = BERNOULLI, seed: int = 0, **settings: Any) -> Any:
    """An agent with random weights."""
    rules, cls = FAMILIES[env_id].rules, METHODS[method]
    own = {"vector_size": 8} if method == "headless-ad" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = cls.Config(**{**SIZES, **own, **settings})
        agent = ICAgent(cls(rules.observation_space, rules.action_space, config))
    agent.facts = {"env_id": env_id, "source": "thompson", "train": {"lr": 1e-3, "updates": 5, "seed": seed}}
    return agent.eval()


class Cycle:
    """Tries `actions` in turn, over and over."""

    def __init__(self, *actions: int):
        self.actions = actions

    def reset(self, env, *, seed=None):
        self.env, self.step = env, 0

    def act(self, obs):
        self.step += 1
        return np.full(self.env.num_envs, self.actions[(self.step - 1) % len(self.actions)])

    def observe(self, obs, reward, terminated, truncated, info):
        """It learns nothing."""


def some_of(env_id: str, name: str, count: int) -> tuple[int, ...]:
    return spread(FAMILIES[env_id].named(name).ids, count)
