"""A call that fails, wherever it is interrupted, changes nothing: the agent acts on like one that never made it."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import icrl_agents
from icrl_agents.agents.agent import ICAgent
from tests.fakes import Variant, lifetimes, statistics, variants

PACKAGE = str(Path(icrl_agents.__file__).parent)
ROWS = 3
STEPS = lifetimes(rows=ROWS, count=40, ends=0.2)


class Interrupt(KeyboardInterrupt):
    """Ctrl-C at a chosen place."""


def interrupted(call: Callable[[], Any], place: int) -> int:
    """Make a call, and raise at the `place`-th call or return of a function of the package; how many there were."""
    count = 0

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        if event in ("call", "return") and frame.f_code.co_filename.startswith(PACKAGE):
            count += 1
            if count == place:
                raise Interrupt

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def act(agent: ICAgent, t: int) -> np.ndarray:
    return agent.act(STEPS.obs[:, t])


def observe(agent: ICAgent, t: int) -> None:
    agent.observe(STEPS.next_obs[:, t], STEPS.reward[:, t], STEPS.terminated[:, t], STEPS.truncated[:, t], {})


def forget(agent: ICAgent, t: int) -> None:
    agent.reset(mask=np.array([True, False, True]), seed=t)


def step(agent: ICAgent, t: int) -> np.ndarray:
    action = act(agent, t)
    observe(agent, t)
    return action


def grown(variant: Variant, steps: int) -> ICAgent:
    """An agent in mid-task, with its rows at different lengths."""
    agent = variant.build()
    agent.reset(num_envs=ROWS, seed=0, autoreset_mode="Disabled")
    for t in range(steps):
        if t == 3:
            agent.reset(mask=np.array([False, True, False]))
        step(agent, t)
    return agent


def knows(agent: ICAgent) -> list[np.ndarray]:
    """All that an agent's context tells: what is visible, and the policy that comes of it."""
    context = agent.context
    seen = context.visible()
    known = [value[seen.mask] for value in (*seen.columns.values(), *seen.extras.values())]
    fork = context.select(np.arange(ROWS))
    return [*known, context.length, context.full, statistics(agent.policy(fork, STEPS.obs[:, 39])).numpy()]


def future(agent: ICAgent, t: int, acted: bool) -> list[np.ndarray]:
    """What an agent knows, and its actions from step `t` on, over the next time that the window is full."""
    found = [] if acted else knows(agent)
    for later in range(t, t + 3):
        if acted and later == t:
            observe(agent, later)
        else:
            found.append(step(agent, later))
    return [*found, *knows(agent)]


pytestmark = pytest.mark.slow  # thousands of interrupted calls
CALLS: dict[str, Callable[[ICAgent, int], Any]] = {
    "act": act,
    "observe": observe,
    "reset": forget,
    "policy": lambda agent, t: agent.policy(agent.context, STEPS.obs[:, t]),
}
STRIDE = int(os.environ.get("STRIDE", 127))  # of the places at which calls are interrupted; 1 is all 20,000 of them


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("variant", variants(), ids=str)
@torch.no_grad()
def test_nothing_changes(variant: Variant, name: str):
    """Wherever a call is interrupted that makes room in some rows, lets others catch up, or begins new tasks."""
    base = grown(variant, steps := 9)
    if name == "observe":
        act(base, steps)
    assert_interruptions(base, CALLS[name], steps, acted=name == "observe")


@pytest.mark.parametrize("plan", ["lookahead", "beam"])
@pytest.mark.parametrize("method", ["ad", "idt"])
@torch.no_grad()
def test_nothing_changes_with_a_planner(method: str, plan: str):
    base = grown(Variant(method, (("dynamics", True),)), steps := 9)
    base.use_plan(plan, {"depth": 2, "width": 2} | ({"trust": 0.0} if plan == "lookahead" else {}))
    for t in (steps, steps + 1):
        step(base, t)
    assert_interruptions(base, act, steps + 2, acted=False)


def assert_interruptions(base: ICAgent, call: Callable[[ICAgent, int], Any], t: int, acted: bool) -> None:
    whole = copy.copy(base)
    places = interrupted(lambda: call(whole, t), 0)
    assert places > 50
    expected = future(copy.copy(base), t, acted)
    for place in range(1 + places % STRIDE, places, STRIDE):  # the last one is the end of a call that was made
        agent = copy.copy(base)
        with pytest.raises(Interrupt):
            interrupted(lambda: call(agent, t), place)  # noqa: B023
        for found, wanted in zip(future(agent, t, acted), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("variant", variants(), ids=str)
@torch.no_grad()
def test_an_observation_may_be_read_more_than_once(variant: Variant):
    """A look at the policy, at this observation or another one, leaves the next action as it would have been."""
    agent = grown(variant, 4)
    for t in range(4, 16):
        twin = copy.copy(agent)
        agent.policy(agent.context, STEPS.obs[:, t + 9])
        agent.policy(agent.context, STEPS.obs[:, t])
        expected, found = (statistics(one.policy(one.context, STEPS.obs[:, t])) for one in (twin, agent))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        step(agent, t)
