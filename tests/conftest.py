"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents.agents.agent import ICAgent
from icrl_agents.methods.ad import AD, ADConfig

CELLS = spaces.Box(0, 8, (2,), np.int32)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """Ctrl-C reaches the tests and what they start, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def tiny_agent() -> Callable[..., ICAgent]:
    """Make an agent with random weights: a kilobyte, and everything a trained one has."""

    def make(
        observation_space: gymnasium.Space = CELLS,
        action_space: gymnasium.Space | None = None,
        seed: int = 0,
        **settings: int,
    ) -> ICAgent:
        sizes = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "window": 8, "slide": 4, **settings}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            agent = ICAgent(AD(observation_space, action_space or spaces.Discrete(5), ADConfig(**sizes)))
        agent.facts = {"env_id": "icrl/Darkroom-v0", "source": "posterior", "seed": seed}
        return agent.eval()

    return make


class Masked(gymnasium.Env):
    """Two of three actions are legal, which ones depends on the task."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(3)

    def __init__(self, good=0):
        self.good = good

    def action_mask(self):
        return (np.arange(3) != (self.good + 1) % 3).astype(np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        assert self.action_mask()[action]
        return int(action), float(action == self.good), False, False, {}


@pytest.fixture
def masked_env() -> Iterator[str]:
    """The id of `Masked` while a test runs."""
    gymnasium.register("test/Masked-v0", Masked, max_episode_steps=5)
    yield "test/Masked-v0"
    gymnasium.registry.pop("test/Masked-v0")


def same_weights(one: ICAgent, other: ICAgent) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def one_line(call: Callable[[], Any], kind: type[Exception], *words: str) -> None:
    """The call fails with this very kind of error, on one line that holds all of the words, with no older error."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert 20 < len(message) < 600
    assert [word for word in words if word not in message] == [], message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
