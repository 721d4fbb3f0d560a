"""`acting_temperature` sharpens what acts, and leaves what is trained as it is, in every method of Discrete actions."""

import numpy as np
import pytest
import torch

from icrl_agents.methods import METHODS
from tests.conftest import one_line
from tests.fakes import SMALL, SPACES, Variant, close, fitting, given, has, lifetimes

SAMPLES = {"choice": "sample"}  # of the methods that take the most probable action otherwise


def agents(name: str, kind: str = "grid"):
    """An agent at temperature 1, and one with the same weights at a half."""
    chosen = tuple(SAMPLES.items()) if has(name, "choice") else ()
    return [Variant(name, (*chosen, ("acting_temperature", value)), kind).build() for value in (1.0, 0.5)]


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_half_the_temperature_squares_probabilities(name: str):
    steps = lifetimes(count=6)
    policies = []
    for agent in agents(name):
        agent.reset(num_envs=3, seed=0)
        for t in range(5):
            policies.append(agent.policy(agent.context, steps.obs[:, t]).logits.exp())
            close(agent, steps, t)
    for plain, sharp in zip(policies[:5], policies[5:], strict=True):
        square = plain**2
        torch.testing.assert_close(sharp, square / square.sum(-1, keepdim=True), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_training_does_not_know_the_temperature(name: str):
    losses = []
    for agent in agents(name):
        method = agent.method.train()
        steps = method.prepare_batch(given(agent, lifetimes(count=agent.config.span)), np.random.default_rng(0))
        losses.append(torch.stack(list(method.loss(method.tensors(steps)).values())))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", ["vector", "multi", "matrix"])
@pytest.mark.parametrize("name", ["ad", "bc"])
def test_other_actions_have_no_temperature(name: str, kind: str):
    given = fitting(name, {**SMALL, "acting_temperature": 0.5}) | (SAMPLES if has(name, "choice") else {})
    config = METHODS[name].Config(**given)
    one_line(lambda: METHODS[name](*SPACES[kind], config), ValueError, "acting_temperature=0.5", "leave it out")
