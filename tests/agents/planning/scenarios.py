"""Agents in the middle of a task, and planners that follow a script."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning.search import Path, Planner, SearchResult
from icrl_agents.core.reward_range import UNSEEN
from icrl_agents.core.steps import Steps
from icrl_agents.methods import METHODS
from tests.fakes import Variant, close, lifetimes, variants

DREAMERS = [
    variant
    for variant in variants()
    if dict(variant.settings).get("dynamics")
    and not METHODS[variant.method].has_memory  # see tests/methods/test_cad.py
]
AD = Variant("ad", (("dynamics", True),))
SEE_ALL = {"depth": 3, "width": 6, "when": "always"}


def live(agent: ICAgent, steps: Steps, count: int, forget: int | None = None) -> Tensor:
    """Roll out `count` steps; row 1 begins a new task at step `forget`. Gives the hidden vectors at the next step."""
    agent.reset(num_envs=len(steps.mask), seed=0)
    context = agent.context
    for t in range(count):
        if t == forget:
            agent.reset(mask=np.arange(len(steps.mask)) == 1)
        agent.method.encode(context, steps.obs[:, t])
        close(agent, steps, t)
    return agent.method.encode(context, steps.obs[:, count])


def open_window(agent: ICAgent, row: int) -> Steps:
    """The visible steps (1, T) of a row as tensors, the open one last."""
    context = agent.context
    steps = context.steps.rows(slice(row, row + 1)).window(0, int(context.length[row]) + 1)
    extras = {name: steps.extras[name] for name in UNSEEN.keys() & steps.extras.keys()}
    return agent.method.tensors(steps._replace(mask=np.ones_like(steps.mask), extras=extras))


def extend(steps: Steps, action: Tensor, reward: Tensor, next_obs: Tensor) -> Steps:
    """Close the last of the steps (W, T) and open the next one in the same episode."""
    for mine, given in ((steps.action, action), (steps.reward, reward), (steps.next_obs, next_obs)):
        mine[:, -1] = given
    no = torch.zeros_like(reward, dtype=torch.bool)
    new = Steps(next_obs, steps.obs[:, -1], action, reward, no, no, action, reward, next_obs, no, no, ~no).columns
    extras = {name: torch.cat([x, x[:, -1:]], 1) for name, x in steps.extras.items()}  # imagined rewards keep the range
    return Steps(**{name: torch.cat([x, new[name][:, None]], 1) for name, x in steps.columns.items()}, extras=extras)


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def scripted(action: int = 0, known: bool = True, **settings: Any) -> tuple[Planner, list[tuple[Tensor, Tensor]]]:
    """A planner that always finds `action`, and the list of what `left` and `ends` it is asked with."""
    asked = []

    class Scripted(Planner):
        def search(self, imagination: Any, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None) -> SearchResult:
            asked.append((left, ends))
            path = Path(
                torch.full((len(left), 1), action), torch.zeros(len(left), 1), torch.zeros(len(left), 1, 2).long()
            )
            return SearchResult(path, torch.ones_like(left), torch.full_like(ends, known))

    return Scripted(**settings), asked


def alike(kind: str = "grid", count: int = 4, rewards: Any = (0, 1, 2), **changes: Any) -> tuple[ICAgent, Steps]:
    """An agent in three rows of `count` steps, in which only step 1 is rewarded; and all the steps."""
    agent, steps = AD.build(kind, **changes), lifetimes(kind, count=count + 1)
    reward = np.zeros_like(steps.reward)
    reward[:, 1] = rewards
    steps = steps._replace(reward=reward)
    agent.reset(num_envs=3, seed=5, history=steps.window(0, count))
    return agent, steps
