"""Trainings, checkpoints and agents with each head of Box actions."""

import json

import numpy as np
import pytest
import torch

from icrl_agents import METHODS, ICAgent, collect, train
from icrl_agents.core.families import find_family
from icrl_agents.core.process.caution import Caution
from icrl_agents.core.splits import split_tasks
from icrl_agents.nn.codecs import BOX_HEADS
from icrl_agents.training import loop
from tests.conftest import same_weights
from tests.envs.families import SPRING, registered
from tests.fakes import Variant, heads, lifetimes

SMALL = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "window": 8, "slide": 4}
FAST = {**SMALL, "updates": 5, "batch_size": 6, "micro_batch": 6, "eval_every": 0, "checkpoint_every": 1}
every_head = pytest.mark.parametrize("head", BOX_HEADS)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with registered():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path, tasks = tmp_path_factory.mktemp("store") / "ppo.h5", split_tasks(SPRING).train.ids[:2].tolist()
    return collect(SPRING, "ppo", path, streams=2, episodes=2, tasks=tasks, settings={"n_epochs": 1})


def run(out, store, head, resume=False, **settings):
    settings = {**FAST, "head": head, "bins": 3, **settings}
    return train("ad", SPRING, out, histories=store, settings=settings, resume=resume, quiet=True, track=[])


@pytest.mark.slow
@every_head
def test_trainings_resume_to_the_same_bits_in_any_micro_batch(head, store, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", store, head)
    parts = run(tmp_path / "parts", store, head, micro_batch=2)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)

    def crash(*_):
        raise RuntimeError

    monkeypatch.setattr(loop, "validate", crash)
    with pytest.raises(RuntimeError):
        run(tmp_path / "crashed", store, head, eval_every=4)
    monkeypatch.setattr(loop, "validate", lambda *_: {})
    assert same_weights(run(tmp_path / "crashed", store, head, resume=True, eval_every=4), whole)
    again = ICAgent.from_pretrained(tmp_path / "whole", device="cpu")
    assert again.config.head == head
    assert same_weights(again, whole)


def test_a_checkpoint_without_a_head_is_gaussian(tmp_path):
    family = find_family(SPRING)
    config = METHODS["ad"].Config(**SMALL, head="gaussian")
    agent = ICAgent(METHODS["ad"](family.observation_space, family.action_space, config))
    agent.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["config"].pop("head") == "gaussian"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    again = ICAgent.from_pretrained(tmp_path, device="cpu")
    assert again.config == config
    assert same_weights(again, agent)
    assert {"action.outputs.weight", "action.outputs.bias"} <= set(agent.state_dict())


@pytest.mark.parametrize("variant", heads(), ids=str)
@torch.inference_mode()
def test_agents_know_the_probability_of_their_actions(variant):
    """Acting and training agree on the log-probability of any action, samples lie in the space, seeds repeat them."""
    agent, steps = variant.build(), lifetimes("vector", count=6)
    actions = []
    for _ in range(2):
        agent.reset(num_envs=3, seed=5)
        actions.append([])
        for t in range(6):
            action = agent.act(steps.obs[:, t])
            assert all(agent.action_space.contains(one) for one in action)
            ends = steps.terminated[:, t], steps.truncated[:, t]
            actions[-1].append(action)
            agent.observe(steps.next_obs[:, t], steps.reward[:, t], *ends, {})
    assert np.array_equal(*actions)
    fresh = variant.build()
    fresh.reset(num_envs=3)
    acting = fresh.policy(fresh.context, steps.obs[:, 0])
    window = steps.window(0, 1)._replace(static=fresh.context.steps.static)
    seen = fresh.method.tensors(window)
    training = fresh.method.action_distribution(fresh.method.read(seen, torch.zeros(3, dtype=torch.long)), seen.static)
    value = torch.as_tensor(steps.action[:, 0])
    torch.testing.assert_close(acting.log_prob(value), training.log_prob(value), atol=1e-4, rtol=1e-4)


@every_head
def test_deterministic_actions_warn_that_nothing_is_explored(head, recwarn):
    family = find_family(SPRING)
    config = METHODS["ad"].Config(**SMALL, head=head)
    agent = ICAgent(METHODS["ad"](family.observation_space, family.action_space, config)).eval()
    agent.reset(seed=0)
    agent.act(np.zeros(2, np.float32))
    assert not recwarn.list
    agent.reset()
    with pytest.warns(Caution, match="nothing is explored"):
        first = agent.act(np.zeros(2, np.float32), deterministic=True)
    agent.reset()
    with pytest.warns(Caution):
        np.testing.assert_array_equal(agent.act(np.zeros(2, np.float32), deterministic=True), first)


@every_head
def test_planners_search_among_real_valued_actions(head):
    agent, steps = Variant("ad", (("head", head), ("dynamics", True)), "vector").build(), lifetimes("vector", count=3)
    agent.use_plan("best-of-n")
    agent.reset(num_envs=3, seed=0)
    for t in range(3):
        action = agent.act(steps.obs[:, t])
        assert all(agent.action_space.contains(one) for one in action)
        ends = steps.terminated[:, t], steps.truncated[:, t]
        agent.observe(steps.next_obs[:, t], steps.reward[:, t], *ends, {})
