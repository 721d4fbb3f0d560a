"""Loading and publishing against a real HTTP server that speaks the Hub's protocol, on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import huggingface_hub
import numpy as np
import pytest
import torch
from gymnasium import spaces
from huggingface_hub import constants

from icrl_agents import checkpoint, hub
from icrl_agents.agent import ICAgent
from icrl_agents.methods.ad import AD
from tests.conftest import one_line, same_weights
from tests.hub_server import HubServer, Refused

REPO = "org/agent"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A running Hub that the client library takes for the real one, an empty cache, and no token anywhere."""
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.stop()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)


def files_of(agent: ICAgent, folder: Path) -> dict[str, bytes]:
    agent.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- folders ----------------------------------------------------------------------------------------------------


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
    assert type(loaded) is AD
    assert not loaded.training
    assert loaded.source == "local"
    assert (loaded.config, loaded.facts) == (agent.config, agent.facts)
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    assert same_weights(agent, loaded)
    for (name, ours), theirs in zip(agent.named_buffers(), loaded.buffers(), strict=True):
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


def test_a_class_loads_only_its_own_method(tiny_agent, tmp_path, monkeypatch):
    class Other(AD):
        pass

    monkeypatch.setitem(sys.modules["icrl_agents.methods"].METHODS, "other", Other)
    tiny_agent().save_pretrained(tmp_path)
    assert type(AD.from_pretrained(tmp_path)) is AD
    one_line(lambda: Other.from_pretrained(tmp_path), ValueError, "holds a AD, not a Other")


def test_a_failed_save_leaves_the_old_checkpoint_whole(tiny_agent, tmp_path):
    before = files_of(tiny_agent(), tmp_path)
    bad = tiny_agent(seed=1)
    bad.facts = {"loss": float("nan")}
    one_line(lambda: bad.save_pretrained(tmp_path), ValueError, "config.json", "plain, finite JSON")
    bad.facts = {}
    with torch.no_grad():
        bad.body.norm.weight[0] = torch.inf
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


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    one_line(lambda: ICAgent.from_pretrained(tmp_path / "model.safetensors"), NotADirectoryError, "folder that holds")


# ---- bundled ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tiny_agent, tmp_path, monkeypatch) -> AD:
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


def test_a_folder_comes_before_the_bundle_and_a_misspelt_id_gets_a_hint(
    bundle, server, tiny_agent, tmp_path, monkeypatch
):
    one_line(lambda: ICAgent.from_pretrained("icrl/tinny"), FileNotFoundError, "did you mean 'icrl/tiny'?")
    monkeypatch.chdir(tmp_path)
    tiny_agent().save_pretrained("icrl/tiny")
    assert ICAgent.from_pretrained("icrl/tiny").source == "local"


# ---- the Hub ----------------------------------------------------------------------------------------------------


def test_push_then_load_by_id_and_by_revision(server, tiny_agent, tmp_path):
    first, second = tiny_agent(seed=1), tiny_agent(seed=2)
    url = first.push_to_hub(REPO, token="writer", commit_message="one")
    sha = server.repos[REPO].refs["main"]
    assert url == f"{server.url}/{REPO}/commit/{sha}"
    assert sorted(server.repos[REPO].commits[sha]) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert f'from_pretrained("{REPO}")'.encode() in server.repos[REPO].commits[sha]["README.md"]
    second.push_to_hub(REPO, token="writer", revision="better")
    assert server.repos[REPO].refs["main"] == sha

    loaded = ICAgent.from_pretrained(REPO)
    assert loaded.source == f"hub@{sha}"
    assert same_weights(first, loaded)
    assert same_weights(second, AD.from_pretrained(REPO, revision="better"))
    assert same_weights(first, ICAgent.from_pretrained(REPO, revision=sha))
    assert any("icrl-agents/" in agent for agent in server.agents)


def test_a_folder_is_uploaded_with_its_results_and_nothing_else(server, tiny_agent, tmp_path):
    tiny_agent().save_pretrained(tmp_path)
    table = [{"name": "mean return", "value": 3.25, "unit": "return"}]
    results = {"env_id": "icrl/Darkroom-v0", "table": table, "weights_sha256": checkpoint.weights_sha256(tmp_path)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "curve.png").write_bytes(b"\x89PNG")
    (tmp_path / "optimizer.pt").write_bytes(b"secret")
    checkpoint.write_card(tmp_path)
    hub.upload(tmp_path, REPO, token="writer")
    pushed = server.repos[REPO].commits[server.repos[REPO].refs["main"]]
    assert set(pushed) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "results.json",
        "curve.png",
        ".gitattributes",
    }
    assert b"3.25" in pushed["README.md"]
    assert REPO.encode() in pushed["README.md"]

    # Weights without results replace them: the repo never shows numbers of other weights.
    tiny_agent(seed=1).save_pretrained(tmp_path)
    one_line(lambda: hub.upload(tmp_path, REPO, token="writer"), ValueError, "results.json", "other weights")
    (tmp_path / "results.json").unlink()
    (tmp_path / "curve.png").unlink()
    (tmp_path / "README.md").write_text("My own card.")
    hub.upload(tmp_path, REPO, token="writer")
    pushed = server.repos[REPO].commits[server.repos[REPO].refs["main"]]
    assert set(pushed) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert pushed["README.md"] == b"My own card."


def test_a_cached_agent_loads_with_the_server_down(server, tiny_agent, tmp_path):
    sha = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent")).refs["main"]
    ICAgent.from_pretrained(REPO)
    server.requests.clear()
    assert ICAgent.from_pretrained(REPO, local_files_only=True).source == f"hub@{sha}"
    assert ICAgent.from_pretrained(REPO, revision=sha).source == f"hub@{sha}"
    assert server.requests == []
    server.stop()
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO))
    one_line(
        lambda: ICAgent.from_pretrained("org/other"), ConnectionError, "org/other", server.url, "check the network"
    )
    one_line(lambda: ICAgent.from_pretrained(REPO, force_download=True), ConnectionError, REPO, server.url)


@pytest.mark.parametrize("moment", [("HEAD", "config.json"), ("GET", "config.json"), ("HEAD", "model.safetensors")])
@pytest.mark.parametrize("options", [{"width": 16}, {"seed": 1}])  # files of other sizes; of the same sizes
def test_a_branch_that_moves_while_loading_mixes_nothing(server, tiny_agent, tmp_path, moment, options):
    repo = server.repo(REPO, files_of(tiny_agent(), tmp_path / "old"))
    old, new = repo.refs["main"], files_of(tiny_agent(**options), tmp_path / "new")

    def move(method: str, path: str) -> None:
        if repo.refs["main"] == old and method == moment[0] and path.endswith(moment[1]) and len(server.requests) > 1:
            repo.commit(new)

    server.on_request = move
    loaded = ICAgent.from_pretrained(REPO)
    assert repo.refs["main"] != old
    assert loaded.source == f"hub@{old}"
    assert loaded.facts == tiny_agent().facts
    assert same_weights(tiny_agent(), loaded)
    assert same_weights(tiny_agent(**options), ICAgent.from_pretrained(REPO))


def test_a_download_cut_short_is_one_line(server, tiny_agent, tmp_path):
    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    server.cut = True
    one_line(lambda: ICAgent.from_pretrained(REPO), ConnectionError, REPO, "cut short")
    server.cut = False
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO))


@pytest.mark.parametrize(("status", "words"), [(503, ["answered 503", "later"]), (200, ["does not answer like a Hub"])])
def test_a_failing_hub_and_a_foreign_page_are_named_and_the_cache_outlives_the_first(
    server, tiny_agent, tmp_path, status, words
):
    def fail(method: str, path: str) -> None:
        raise Refused(status, message="busy")

    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    server.on_request = fail
    one_line(lambda: ICAgent.from_pretrained(REPO), ConnectionError, *words)
    if status == 503:
        one_line(lambda: tiny_agent().push_to_hub(REPO, token="writer"), ConnectionError, server.url, "answered 503")
    server.on_request = lambda method, path: None
    ICAgent.from_pretrained(REPO)
    server.on_request = fail
    if status == 503:
        assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO))


def test_force_download_replaces_a_damaged_cache(server, tiny_agent, tmp_path):
    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    ICAgent.from_pretrained(REPO)
    for blob in (tmp_path / "cache").glob("*/blobs/*"):
        blob.write_bytes(b"{}")
    one_line(lambda: ICAgent.from_pretrained(REPO), ValueError, "format_version")
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, force_download=True))
    both = {"force_download": True, "local_files_only": True}
    one_line(lambda: ICAgent.from_pretrained(REPO, **both), ValueError, "contradict")


@pytest.mark.parametrize(
    ("change", "options", "kind", "words"),
    [
        ({}, {"revision": "v9"}, FileNotFoundError, ["no revision 'v9'", "branch, tag or commit"]),
        ({"drop": "config.json"}, {}, FileNotFoundError, ["lacks config.json", "not a checkpoint of icrl-agents"]),
        ({"drop": "model.safetensors"}, {}, FileNotFoundError, ["model.safetensors", "pickled"]),
        ({"id": "org/none"}, {}, FileNotFoundError, ["no folder here", "no public repo", "hf auth login"]),
        ({"id": "org/none"}, {"token": "reader"}, FileNotFoundError, ["your token sees no such repo"]),
        ({"private": True}, {}, FileNotFoundError, ["if it is private, log in", "HF_TOKEN"]),
        ({"private": True}, {"token": False}, FileNotFoundError, ["if it is private, log in"]),
        ({"private": True}, {"token": "stale"}, PermissionError, ["refuses your token (401)"]),
        ({"gated": True}, {}, PermissionError, ["accept its terms", "hf auth login"]),
        ({"gated": True}, {"token": "reader"}, PermissionError, ["accept its terms"]),
        ({}, {"local_files_only": True}, FileNotFoundError, ["not in the cache", "local_files_only"]),
    ],
)
def test_each_mistake_is_one_line_with_the_fix(server, tiny_agent, tmp_path, change, options, kind, words):
    files = files_of(tiny_agent(), tmp_path / "agent")
    files.pop(change.get("drop"), None)
    server.repo(REPO, files, private=change.get("private", False), gated=change.get("gated", False))
    name = change.get("id", REPO)
    one_line(lambda: ICAgent.from_pretrained(name, **options), kind, name, *words)


def test_a_private_repo_opens_with_a_token(server, tiny_agent, monkeypatch):
    tiny_agent().push_to_hub(REPO, private=True, token="writer")
    assert server.repos[REPO].private
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, token="reader"))
    monkeypatch.setenv("HF_TOKEN", "reader")
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, force_download=True))


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        (REPO, {}, PermissionError, ["without a token", "hf auth login"]),
        (REPO, {"token": False}, PermissionError, ["without a token"]),
        (REPO, {"token": "reader"}, PermissionError, ["refuses your token (403)"]),
        (REPO, {"token": "stale"}, PermissionError, ["refuses your token (401)"]),
        ("org/a/b", {"token": "writer"}, ValueError, ["org/a/b", "org/name"]),
        ("../agent", {"token": "writer"}, ValueError, ["org/name"]),
        ("org/public", {"token": "writer", "private": True}, PermissionError, ["org/public is public"]),
    ],
)
def test_push_mistakes_are_one_line_and_change_nothing(server, tiny_agent, name, options, kind, words):
    server.repo("org/public")
    one_line(lambda: tiny_agent().push_to_hub(name, **options), kind, *words)
    assert set(server.repos) == {"org/public"}
    assert len(server.repos["org/public"].commits) == 1


def test_push_of_what_is_no_checkpoint_sends_nothing(server, tiny_agent, tmp_path):
    def push(folder: Path) -> Callable[[], str]:
        return lambda: hub.upload(folder, REPO, token="writer")

    one_line(push(tmp_path / "none"), FileNotFoundError, "none")
    one_line(push(tmp_path), FileNotFoundError, "has no config.json")
    tiny_agent().save_pretrained(tmp_path)
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "curve.png").symlink_to(tmp_path / "secret")
    one_line(push(tmp_path), ValueError, "curve.png is a link")
    assert server.requests == []
    (tmp_path / "curve.png").unlink()
    server.stop()
    one_line(push(tmp_path), ConnectionError, "cannot upload", "check the network")


def test_offline_mode_is_honoured(server, tiny_agent, tmp_path, monkeypatch):
    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    one_line(lambda: ICAgent.from_pretrained(REPO), FileNotFoundError, "not in the cache", "HF_HUB_OFFLINE")
    one_line(lambda: tiny_agent().push_to_hub(REPO, token="writer"), ConnectionError, "HF_HUB_OFFLINE", "unset")
    assert server.requests == []


def test_the_users_environment_variables_reach_it(server, tiny_agent, tmp_path):
    """As a user has it: nothing patched, HF_ENDPOINT, HF_HOME and HF_TOKEN set before Python starts."""
    sha = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"), private=True).refs["main"]
    code = f"from icrl_agents.agent import ICAgent; print(ICAgent.from_pretrained({REPO!r}).source)"
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "reader"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"hub@{sha}", done.stderr
    server.stop()
    assert ICAgent.from_pretrained(REPO, cache_dir=tmp_path / "home" / "hub").source == f"hub@{sha}"


def test_the_client_library_is_in_the_range_we_claim():
    major, minor = (int(part) for part in huggingface_hub.__version__.split(".")[:2])
    assert (1, 31) <= (major, minor) < (3, 0)
