"""Probe of latent actions: what few labels tell on other tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents import HistoryStore, collect
from icrl_agents.core.steps import Steps
from icrl_agents.histories.shards import HistoryShards
from icrl_agents.methods.base.predictor import LATENT, SKILL
from icrl_agents.studies import probe_latents as probe_latents_module
from icrl_agents.studies.probe_latents import Pairs, constant, decoded, probe_latents
from tests.conftest import one_line

ROOM = "icrl/Darkroom-v0"


def telling(steps: Steps) -> np.ndarray:
    """A direction for each action, a little blurred, at any scale."""
    rng = np.random.default_rng(0)
    return (50 * rng.normal(size=(5, 4))[steps.action] + rng.normal(size=(*steps.action.shape, 4))).astype(np.float32)


def silent(steps: Steps) -> np.ndarray:
    return np.random.default_rng(int(steps.obs.sum())).normal(size=(*steps.mask.shape, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Uniform actions in 16 rooms, in two files; `latent_action` tells them and `latent_skill` does not."""
    path = tmp_path_factory.mktemp("probe") / "v.h5"
    collection = {"streams": 2, "episodes": 2, "settings": {"start": 1.0, "end": 1.0}, "shard_size": 8}
    collect(ROOM, "noise", path, tasks=range(16), **collection)
    for file in path.parent.glob("v-*.h5"):
        with HistoryStore(file) as store:
            store.annotate(LATENT, telling)
            store.annotate(SKILL, silent)
    with HistoryShards(path) as found:
        yield found


def test_latent_actions_that_tell_actions_are_decoded_and_others_are_not(shards):
    found = probe_latents(shards, (128, 32, 10_000))
    assert [one.labels for one in found] == [32, 128]  # there are fewer than 10 000
    steps = sum(int(shards.read(part).mask.sum()) for part in shards.index(shards.tasks))
    for one in found:
        assert one.measure == "accuracy"
        assert one.held_out == steps // 2  # of half of the tasks, whose episodes are equally long
        assert one.score > 0.9
        assert 0.1 < one.constant < 0.3
    (chance,) = probe_latents(shards, (128,), columns=(SKILL,))
    assert abs(chance.score - 0.2) < 0.06
    (both,) = probe_latents(shards, (128,), columns=(LATENT, SKILL))
    assert both.score > 0.9


def test_a_seed_tells_everything(shards, monkeypatch):
    monkeypatch.setattr(probe_latents_module, "UPDATES", 20)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = probe_latents(shards, (32,), columns=(SKILL,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert probe_latents(shards, (32,), columns=(SKILL,)) == one
    assert probe_latents(shards, (32,), seed=1, columns=(SKILL,)) != one


def test_real_actions_and_vectors_of_integers():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(600, 3)).astype(np.float32)
    real = np.tanh(latent[:, :2]).astype(np.float32)
    found = decoded(Pairs(latent[:300], real[:300]), latent[300:], spaces.Box(-1, 1, (2,), np.float32), seed=0)
    assert found.dtype == np.float32
    assert 1 - ((found - real[300:]) ** 2).mean() / real[300:].var() > 0.9
    whole = (latent[:, :2] > 0).astype(np.int64)
    found = decoded(Pairs(latent[:300], whole[:300]), latent[300:], spaces.MultiDiscrete([2, 2]), seed=0)
    assert (found == whole[300:]).mean() > 0.9


def test_the_best_single_action():
    assert constant(np.array([2, 1, 1, 3])) == 1
    assert constant(np.array([[2, 5], [2, 4], [1, 4]])).tolist() == [2, 4]
    assert constant(np.array([[0.0], [1.0]])) == 0.5


def test_mistakes_are_one_line(shards, tmp_path):
    one_line(
        lambda: probe_latents(shards, columns=("latent_acton",)), ValueError, "latent_acton", "annotate it with a lam"
    )
    one_line(lambda: probe_latents(shards, (9999,)), ValueError, "labels=9999", "fewer labels")
    one_line(lambda: probe_latents(shards, (0, 32)), ValueError, "labels=0", "1 or more")
    path = collect(ROOM, "noise", tmp_path / "one.h5", tasks=[0], streams=1, episodes=1)
    with HistoryShards(path) as single:
        one_line(lambda: probe_latents(single), ValueError, "one.h5 has 1 task", "needs two")


def test_latent_actions_of_two_models_are_not_probed_together(tmp_path):
    path = tmp_path / "v.h5"
    collect(ROOM, "noise", path, tasks=range(4), streams=1, episodes=1, shard_size=2)
    for number, file in enumerate(sorted(tmp_path.glob("v-*.h5"))):
        with HistoryStore(file) as store:
            store.annotate(LATENT, telling, identity=f"model {number}")
    with HistoryShards(path) as mixed:
        one_line(lambda: probe_latents(mixed, (8,)), ValueError, "latent_action of different models")
