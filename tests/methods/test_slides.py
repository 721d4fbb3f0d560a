"""A slide is no stall: now and then an action encodes a part of the next window, and none has to encode all of it."""

from __future__ import annotations

import numpy as np
import pytest

from icrl_agents.methods.base.method import AHEAD, AHEAD_ROWS
from tests.fakes import Variant, lifetimes

STEPS = lifetimes(rows=2, count=240, ends=0.1)


@pytest.mark.parametrize(
    "variant", [Variant("ad"), Variant("ad", (("dynamics", True),)), Variant("headless-ad")], ids=str
)
def test_no_action_encodes_more_than_a_share_of_the_window(variant: Variant, monkeypatch):
    agent, fed = variant.build(window=120, slide=40), []
    forward, slots = agent.method.body.forward, agent.method.tokens_per_step
    monkeypatch.setattr(agent.method.body, "forward", lambda x, cache: (fed.append(x.shape[1]), forward(x, cache))[1])
    agent.reset(num_envs=2, seed=0, autoreset_mode="Disabled")
    counts = []
    for t in range(240):
        fed.clear()
        agent.act(STEPS.obs[:, t])
        counts.append(sum(fed))
        ends = STEPS.terminated[:, t], STEPS.truncated[:, t]
        agent.observe(STEPS.next_obs[:, t], STEPS.reward[:, t], *ends, {})
    assert agent.context.length.tolist() == [120, 120]  # after slides at 120, 160 and 200
    prompt = 5 if variant.method == "headless-ad" else 0
    assert max(counts) <= (AHEAD + 6) * slots + prompt  # of the 80 steps that remain
    assert np.mean(counts[120:]) > 2 * slots  # each is encoded twice, as often as it slides


def test_many_rows_encode_fewer_steps_at_a_time(monkeypatch):
    """So that the tokens of an action do not grow with the rows."""
    agent, most = Variant("ad").build(window=60, slide=20), 0
    steps = lifetimes(rows=128, count=120, ends=0.1)
    forward, fed = agent.method.body.forward, []
    monkeypatch.setattr(agent.method.body, "forward", lambda x, cache: (fed.append(x.shape[1]), forward(x, cache))[1])
    agent.reset(num_envs=128, seed=0, autoreset_mode="Disabled")
    for t in range(120):
        fed.clear()
        agent.act(steps.obs[:, t])
        most = max(most, sum(fed))
        ends = steps.terminated[:, t], steps.truncated[:, t]
        agent.observe(steps.next_obs[:, t], steps.reward[:, t], *ends, {})
    assert most <= AHEAD_ROWS // 128 + 6
