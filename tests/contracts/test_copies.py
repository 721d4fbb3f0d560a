"""What `copy.copy`, `copy.deepcopy` and `pickle` of a running agent mean: whose weights, whose context, whose env."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from icrl_agents.agents.agent import ICAgent
from icrl_agents.methods import METHODS
from tests.fakes import SMALL, Variant, lifetimes, variants

STEPS = lifetimes(count=40)
COPIES: dict[str, Callable[[ICAgent], ICAgent]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda agent: pickle.loads(pickle.dumps(agent)),
}
BANDIT = "icrl/BernoulliBandit-v0"


def run(agent: ICAgent, start: int, stop: int) -> list[np.ndarray]:
    actions = []
    for t in range(start, stop):
        actions.append(agent.act(STEPS.obs[:, t]))
        ends = STEPS.terminated[:, t], STEPS.truncated[:, t]
        agent.observe(STEPS.next_obs[:, t], STEPS.reward[:, t], *ends, {})
    return actions


@pytest.mark.slow
@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_a_copy_acts_on_from_where_it_was_made(variant: Variant, kind: str):
    """It is the same agent, of its own context: what either does later is nothing to the other."""
    agent = variant.build()
    agent.reset(num_envs=3, seed=0, autoreset_mode="Disabled")
    run(agent, 0, 7)
    twin, reference = COPIES[kind](agent), copy.deepcopy(agent)
    expected = run(reference, 7, 20)
    run(twin, 20, 24)  # something else
    np.testing.assert_array_equal(run(agent, 7, 20), expected)
    again = COPIES[kind](agent)
    agent.reset(num_envs=1)
    np.testing.assert_array_equal(run(again, 20, 26), run(reference, 20, 26))


@pytest.mark.parametrize("kind", COPIES)
def test_only_a_shallow_copy_shares_the_weights(kind: str):
    agent = Variant("ad").build()
    twin = COPIES[kind](agent)
    assert (twin.method.body.norm.weight is agent.method.body.norm.weight) == (kind == "copy")
    assert twin.facts == agent.facts
    with torch.no_grad():
        twin.method.body.norm.weight.mul_(2.0)
    obs = np.array([4, 4], np.int32)
    chances = []
    for one in (agent, twin):
        one.reset(num_envs=1, seed=0)
        chances.append(one.policy(one.context, obs[None]).logits)
    assert torch.equal(*chances) == (kind == "copy")


def chooser(env: Any) -> ICAgent:
    """An agent that chooses among the legal actions of a bandit."""
    method = METHODS["headless-ad"]
    space = getattr(env, "single_observation_space", env.observation_space)
    actions = getattr(env, "single_action_space", env.action_space)
    return ICAgent(method(space, actions, method.Config(**SMALL, vector_size=6))).eval()


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["vector_entry_point", "sync", "async"])
@pytest.mark.parametrize("kind", COPIES)
def test_the_env_is_never_copied(kind: str, vectorization: str):
    env = gymnasium.make_vec(BANDIT, 2, vectorization)
    obs, _ = env.reset(seed=0)
    agent = chooser(env)
    agent.reset(env, seed=0)
    twin = COPIES[kind](agent)
    for one in (agent, twin):
        obs, *rest = env.step(one.act(obs))  # the env lives
        one.observe(obs, *rest)
    mask = np.array([True, False])
    env.reset(seed=7)  # other arms
    agent.reset(mask=mask)
    known = agent.context.steps.static["action_mask"]
    if kind == "pickle":
        before = twin.context.length.copy()
        with pytest.raises(ValueError, match="a pickled agent does not hold: give action_set or num_actions"):
            twin.reset(mask=mask)
        np.testing.assert_array_equal(twin.context.length, before)
        twin.reset(mask=mask, num_actions=3)
        assert len(pickle.dumps(twin)) < 1_000_000
    else:
        twin.reset(mask=mask)
        np.testing.assert_array_equal(twin.context.steps.static["action_mask"][0], known[0])
        told = env.unwrapped.action_mask() if vectorization == "vector_entry_point" else env.call("action_mask")
        np.testing.assert_array_equal(known[0], np.array(told, bool)[0])
    env.close()
