"""Saving and loading of folders and bundled agents, without a network."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents.agents.agent import ICAgent
from icrl_agents.hub import remote as hub
from icrl_agents.methods import METHODS
from icrl_agents.methods.ad import AD
from tests.conftest import one_line, same_weights
from tests.hub.conftest import REPO, files_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Discrete(7, start=-2), spaces.Discrete(3)),
        (spaces.Box(0, 8, (2,), np.int64), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 2, (2,), np.float32)),
        (spaces.MultiBinary([2, 2]), spaces.MultiBinary(3)),
        (spaces.MultiBinary(4), spaces.Box(np.array([-1, 0]), np.array([1, 5]), dtype=np.float64)),
    ],
)
@pytest.mark.parametrize("dynamics", [False, True])
def test_a_saved_agent_comes_back_bit_for_bit(tiny_agent, tmp_path, observation_space, action_space, dynamics):
    agent = tiny_agent(observation_space, action_space, dynamics=dynamics)
    agent.save_pretrained(tmp_path)
    drawn = torch.random.get_rng_state()
    loaded = ICAgent.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert type(loaded.method) is AD
    assert not loaded.training
    assert loaded.source == "local"
    assert (loaded.config, loaded.facts) == (agent.config, agent.facts)
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    assert same_weights(agent, loaded)
    for (name, ours), theirs in zip(agent.method.named_buffers(), loaded.method.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    played = [play(one, observation_space) for one in (agent, loaded)]
    np.testing.assert_array_equal(*played)


def play(agent: ICAgent, space: gymnasium.Space) -> np.ndarray:
    """What the agent does in a world of random observations."""
    space.seed(0)
    agent.reset(seed=1)
    obs, actions = space.sample(), []
    for step in range(12):
        actions.append(agent.act(obs))
        obs = space.sample()
        agent.observe(obs, 0.5 * step, False, step % 5 == 4)
    return np.array(actions)


def test_equal_agents_make_equal_bytes(tiny_agent, tmp_path):
    first, second = (files_of(tiny_agent(), tmp_path / name) for name in "ab")
    assert first == second
    assert set(first) == {"config.json", "model.safetensors", "README.md"}
    assert files_of(tiny_agent(seed=1), tmp_path / "c")["model.safetensors"] != first["model.safetensors"]


def test_the_config_names_the_class_of_the_method(tiny_agent, tmp_path, monkeypatch):
    class Other(AD):
        """Another method."""

    class Mine(ICAgent):
        """An agent of the user's own."""

    monkeypatch.setitem(METHODS, "other", Other)
    agent = tiny_agent()
    other = Other(agent.observation_space, agent.action_space, agent.config)
    for name, method in (("ad", agent.method), ("other", other)):
        Mine(method).save_pretrained(tmp_path / name)
        loaded = Mine.from_pretrained(tmp_path / name)
        assert (type(loaded), type(loaded.method)) == (Mine, type(method))
    monkeypatch.delitem(METHODS, "other")
    one_line(lambda: ICAgent.from_pretrained(tmp_path / "other"), ValueError, "other")


def test_a_failed_save_leaves_the_old_checkpoint_whole(tiny_agent, tmp_path):
    before = files_of(tiny_agent(), tmp_path)
    bad = tiny_agent(seed=1)
    bad.facts = {"loss": float("nan")}
    one_line(lambda: bad.save_pretrained(tmp_path), ValueError, "config.json", "plain, finite JSON")
    bad.facts = {}
    with torch.no_grad():
        bad.method.body.norm.weight[0] = torch.inf
    one_line(lambda: bad.save_pretrained(tmp_path), ValueError, "NaN or infinity in body.norm.weight")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    one_line(lambda: tiny_agent().save_pretrained(tmp_path / "file"), NotADirectoryError, "name a folder")


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/nowhere/agent", FileNotFoundError, "/nowhere/agent"),
        ("./agent", FileNotFoundError, "./agent"),
        ("../agent", FileNotFoundError, "../agent"),
        ("~/no agent", FileNotFoundError, "~/no agent"),
        ("~nobody-here/agent", FileNotFoundError, "~nobody-here/agent"),
        ("runs/ad/last", FileNotFoundError, "runs/ad/last"),
        ("runs\\ad", FileNotFoundError, "runs"),
        ("runs/", FileNotFoundError, "runs/"),
        ("icrl/../../etc", FileNotFoundError, "icrl/../../etc"),
        (Path("agent"), FileNotFoundError, "agent"),
        ("icrl/..", ValueError, "org/name"),
        ("icrl/a b", ValueError, "org/name"),
        ("icrl/agent\n", ValueError, "org/name"),
        ("icrl/agent\0", ValueError, "org/name"),
        ("icrl/" + "a" * 5000, ValueError, "org/name"),
        ("", ValueError, "give a folder"),
        (None, ValueError, "give a folder"),
        (3, ValueError, "give a folder"),
    ],
)
def test_what_names_no_checkpoint_is_refused_without_a_network(no_network, path, kind, words):
    one_line(lambda: ICAgent.from_pretrained(path), kind, words)


def test_a_file_a_dead_link_and_an_empty_folder_are_no_checkpoint(no_network, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"")
    one_line(lambda: ICAgent.from_pretrained(tmp_path / "model.safetensors"), NotADirectoryError, "folder that holds")
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    Path(REPO).symlink_to("moved away")
    one_line(lambda: ICAgent.from_pretrained(REPO), FileNotFoundError, REPO, "broken link")
    Path(hub.list_pretrained()[0]).mkdir(parents=True)
    one_line(
        lambda: ICAgent.from_pretrained(hub.list_pretrained()[0]), FileNotFoundError, "has no config.json", "hides"
    )


@pytest.fixture
def bundle(tiny_agent, tmp_path, monkeypatch) -> ICAgent:
    """A package that carries one agent, icrl/tiny."""
    agent = tiny_agent(seed=5)
    agent.save_pretrained(tmp_path / "bundled" / "tiny")
    (tmp_path / "bundled" / "draft").mkdir()
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path / "bundled")
    return agent


def test_a_bundled_id_needs_no_network(bundle, no_network):
    assert hub.list_pretrained() == ["icrl/tiny"]
    loaded = ICAgent.from_pretrained("icrl/tiny")
    assert loaded.source == "bundled"
    assert same_weights(bundle, loaded)
    assert ICAgent.from_pretrained("icrl/tiny", local_files_only=True).source == "bundled"


@pytest.mark.parametrize("options", [{"revision": "main"}, {"force_download": True}])
def test_a_bundled_id_asked_of_the_hub_is_not_substituted(bundle, server, tiny_agent, tmp_path, options):
    one_line(lambda: ICAgent.from_pretrained("icrl/tiny", **options), FileNotFoundError, "no public repo")
    server.repo("icrl/tiny", files_of(tiny_agent(seed=6), tmp_path / "newer"))
    loaded = ICAgent.from_pretrained("icrl/tiny", **options)
    assert loaded.source.startswith("hub@")
    assert same_weights(tiny_agent(seed=6), loaded)


@pytest.mark.parametrize(
    ("name", "hint"), [("icrl/tinny", "did you mean 'icrl/tiny'?"), ("icrl/no-such-thing", "lists all")]
)
def test_a_name_like_a_bundled_one_is_answered_without_a_network(bundle, no_network, name, hint):
    one_line(lambda: ICAgent.from_pretrained(name), FileNotFoundError, name, hint, "revision='main'")


def test_an_agent_has_the_name_of_its_folder_however_that_is_given(tiny_agent, tmp_path, monkeypatch):
    tiny_agent().save_pretrained(tmp_path / "mine.v1")
    (tmp_path / "mine.v1" / "checkpoints").mkdir()
    (tmp_path / "link").symlink_to("mine.v1")
    monkeypatch.chdir(tmp_path / "mine.v1" / "checkpoints")
    for given, name in (("..", "mine.v1"), ("../", "mine.v1"), ("../../link", "link"), ("../../link/.", "link")):
        assert ICAgent.from_pretrained(given, device="cpu").origin == name
    monkeypatch.chdir("..")
    assert ICAgent.from_pretrained(".", device="cpu").origin == "mine.v1"


def test_a_folder_comes_before_the_bundle(bundle, tiny_agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_agent().save_pretrained("icrl/tiny")
    assert ICAgent.from_pretrained("icrl/tiny").source == "local"


@pytest.mark.parametrize("options", [{"revision": "main"}, {"force_download": True}])
def test_a_folder_is_not_what_was_asked_of_the_hub(no_network, tiny_agent, tmp_path, monkeypatch, options):
    """Such as a clone that lies where the program runs: its weights are of any revision."""
    monkeypatch.chdir(tmp_path)
    tiny_agent().save_pretrained("org/agent")
    name, value = next(iter(options.items()))
    one_line(lambda: ICAgent.from_pretrained("org/agent", **options), ValueError, "org/agent", f"{name}={value!r}")
