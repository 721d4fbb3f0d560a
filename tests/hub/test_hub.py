"""Loading and publishing against a real HTTP server that speaks the Hub's protocol, on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
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

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.pretrained import upload
from icrl_agents.hub import checkpoint
from icrl_agents.hub import remote as hub
from icrl_agents.hub import transfer as hub_transfer
from icrl_agents.hub.cards import make_card
from icrl_agents.methods import METHODS
from icrl_agents.methods.ad import AD
from tests.conftest import one_line, same_weights
from tests.hub.hub_server import Answer, HubServer, Refused, git_sha1

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
    one_line(lambda: ICAgent.from_pretrained(REPO), FileNotFoundError, REPO, "link to nothing")
    Path(hub.list_pretrained()[0]).mkdir(parents=True)
    one_line(
        lambda: ICAgent.from_pretrained(hub.list_pretrained()[0]), FileNotFoundError, "has no config.json", "hides"
    )


# ---- bundled ----------------------------------------------------------------------------------------------------


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


def test_a_folder_comes_before_the_bundle(bundle, tiny_agent, tmp_path, monkeypatch):
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
    assert same_weights(second, ICAgent.from_pretrained(REPO, revision="better"))
    assert same_weights(first, ICAgent.from_pretrained(REPO, revision=sha))
    assert any("icrl-agents/" in agent for agent in server.agents)


def test_a_folder_is_uploaded_with_its_results_and_nothing_else(server, tiny_agent, tmp_path):
    tiny_agent().save_pretrained(tmp_path)
    table = [{"name": "mean return", "value": 3.25, "unit": "return"}]
    results = {"env_id": "icrl/Darkroom-v0", "table": table, "weights_sha256": checkpoint.weights_sha256(tmp_path)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "curve.png").write_bytes(b"\x89PNG")
    (tmp_path / "optimizer.pt").write_bytes(b"secret")
    (tmp_path / "README.md").write_text(make_card(tmp_path, METHODS))
    upload(tmp_path, REPO, token="writer")
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
    one_line(lambda: upload(tmp_path, REPO, token="writer"), ValueError, "results.json", "other weights")
    (tmp_path / "results.json").unlink()
    (tmp_path / "curve.png").unlink()
    (tmp_path / "README.md").write_text("My own card.")
    upload(tmp_path, REPO, token="writer")
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


@pytest.mark.parametrize(
    "moment", [("HEAD", "model.safetensors"), ("GET", "config.json"), ("GET", "model.safetensors")]
)
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


@pytest.mark.parametrize(("status", "words"), [(503, ["answered 503", "later"]), (200, ["does not answer like a Hub"])])
def test_a_failing_hub_and_a_foreign_page_are_named_and_the_cache_outlives_the_first(
    server, tiny_agent, tmp_path, status, words
):
    def fail(method: str, path: str) -> None:
        raise Refused(status, message="busy")

    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    server.on_request = fail
    one_line(lambda: ICAgent.from_pretrained(REPO), ConnectionError, *words)
    one_line(lambda: tiny_agent().push_to_hub(REPO, token="writer"), ConnectionError, server.url, words[0])
    server.on_request = lambda method, path: None
    ICAgent.from_pretrained(REPO)
    server.on_request = fail
    if status == 503:
        assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO))


def test_force_download_gets_both_files_again(server, tiny_agent, tmp_path):
    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    for _ in range(2):
        server.requests.clear()
        assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, force_download=True))
        assert [method for method, _ in server.requests] == ["HEAD", "HEAD", "GET", "GET"]
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
        ({}, {"token": "re\nader"}, ValueError, ["the token", "line breaks"]),
        ({}, {"token": "schlüssel"}, ValueError, ["the token", "beyond ASCII"]),
        ({}, {"token": ""}, ValueError, ["the token is empty"]),
        ({}, {"token": True}, PermissionError, ["token=True", "hf auth login"]),
        ({}, {"revision": "../../main"}, ValueError, ["revision '../../main'", "branch, tag or commit"]),
        ({}, {"revision": "/etc/main"}, ValueError, ["revision '/etc/main'"]),
        ({}, {"revision": "a\n" * 500}, ValueError, ["revision 'a"]),
    ],
)
def test_each_mistake_is_one_line_with_the_fix(server, tiny_agent, tmp_path, change, options, kind, words):
    files = files_of(tiny_agent(), tmp_path / "agent")
    files.pop(change.get("drop"), None)
    server.repo(REPO, files, private=change.get("private", False), gated=change.get("gated", False))
    name = change.get("id", REPO)
    about = [] if kind is ValueError or options.get("token") is True else [name]
    one_line(lambda: ICAgent.from_pretrained(name, **options), kind, *about, *words)


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
        (REPO, {"token": "writ er"}, ValueError, ["the token"]),
        (REPO, {"token": "writer", "commit_message": " "}, ValueError, ["commit_message=' ' is empty"]),
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
        return lambda: upload(folder, REPO, token="writer")

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
    code = f"from icrl_agents.agents.agent import ICAgent; print(ICAgent.from_pretrained({REPO!r}).source)"
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "reader"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"hub@{sha}", done.stderr
    server.stop()
    assert ICAgent.from_pretrained(REPO, cache_dir=tmp_path / "home" / "hub").source == f"hub@{sha}"


# ---- servers that are broken or hostile -------------------------------------------------------------------------

Alter = Callable[[bytes], bytes]


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def send(server: HubServer, name: str, alter: Alter, times: int = 1000, **headers: str) -> None:
    """Let the server alter the content of file `name` and set its headers, in the next `times` downloads."""
    left = [times]

    def answer(method: str, path: str, content: bytes, sent: dict[str, str]) -> Answer:
        if not path.endswith(name):
            return content, sent
        left[0] -= method == "GET"
        return alter(content) if method == "GET" and left[0] >= 0 else content, sent | headers

    server.on_answer = answer


@pytest.mark.parametrize(
    ("name", "headers", "words"),
    [
        *(("config.json", {"ETag": etag}, ["no hash of config.json", "HF_ENDPOINT"]) for etag in ("../../../evil", "")),
        ("config.json", {"ETag": '"{outside}/evil"'}, ["ETag '/", "40 or 64 hex digits"]),
        ("config.json", {"ETag": "a" * 5000}, ["ETag 'aaa", "40 or 64 hex digits"]),
        ("config.json", {"ETag": "\x1b[31m" + "0" * 40}, ["\\x1b[31m000"]),
        ("config.json", {"X-Linked-ETag": "../evil"}, ["no hash of config.json"]),
        ("model.safetensors", {"ETag": "../../../evil"}, ["no hash of model.safetensors"]),
        *(
            (name, {"X-Repo-Commit": commit}, ["does not answer like a Hub"])
            for name in ("config.json", "model.safetensors")
            for commit in ("", "main", "../../evil", "0" * 39, "0" * 5000)
        ),
        ("model.safetensors", {"X-Repo-Commit": "0" * 40}, ["does not answer like a Hub"]),
        ("model.safetensors", {"X-Linked-Size": str(1 << 40)}, ["model.safetensors", "1099511627776 bytes, at most"]),
        ("model.safetensors", {"X-Linked-Size": "9" * 4000}, ["model.safetensors", "bytes, at most"]),
    ],
)
def test_headers_that_are_not_of_a_hub_are_refused_and_nothing_is_written(
    server, tiny_agent, tmp_path, name, headers, words
):
    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    send(server, name, bytes, **{key: value.replace("{outside}", str(tmp_path)) for key, value in headers.items()})
    before = set(tmp_path.rglob("*"))
    kind = ValueError if "X-Linked-Size" in headers else ConnectionError
    refusal(lambda: ICAgent.from_pretrained(REPO), kind, *words)
    assert set(tmp_path.rglob("*")) == before


def refusal(call: Callable[[], Any], kind: type[Exception], *words: str) -> None:
    """One line of at most 400 printable characters."""
    with pytest.raises(kind) as caught:
        call()

    def again() -> None:
        raise caught.value

    one_line(again, kind, *words)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 400


def blob_of(server: HubServer, name: str) -> str:
    """The name of the file's content in the cache."""
    repo = server.repos[REPO]
    content = repo.commits[repo.refs["main"]][name]
    return hashlib.sha256(content).hexdigest() if server.lfs else git_sha1(content)


def cut(content: bytes) -> bytes:
    return content[:-1]


@pytest.mark.parametrize(
    ("name", "lfs", "alter", "words"),
    [
        ("config.json", False, flip, ["not the file that its hash promises"]),
        ("model.safetensors", False, flip, ["not the file that its hash promises"]),
        ("model.safetensors", True, flip, ["not the file that its hash promises"]),
        ("model.safetensors", True, lambda content: content + b"\0", ["not the file that its hash promises"]),
        ("model.safetensors", False, cut, ["cut short twice", "bytes)"]),
        ("config.json", True, lambda content: b"", ["cut short twice (0 of"]),
    ],
)
def test_only_the_content_that_was_published_is_kept(server, tiny_agent, tmp_path, name, lfs, alter, words):
    server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    server.lfs = lfs
    send(server, name, alter)
    refusal(lambda: ICAgent.from_pretrained(REPO), ConnectionError, name, REPO, *words)
    one_line(lambda: ICAgent.from_pretrained(REPO, local_files_only=True), FileNotFoundError, "not in the cache")
    assert list((tmp_path / "cache").glob(f"*/blobs/{blob_of(server, name)}")) == []
    send(server, name, alter, times=1)
    server.requests.clear()
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, token="reader"))
    assert len([path for method, path in server.requests if method == "GET" and path.endswith(name)]) == 2 + 2 * lfs
    assert server.cdn_tokens == ({""} if lfs else set())


@pytest.mark.parametrize(
    ("name", "lfs", "alter", "pinned"),
    [
        ("config.json", False, flip, False),
        ("config.json", True, lambda content: b"{}", True),
        ("model.safetensors", False, flip, True),
        ("model.safetensors", True, flip, False),
        ("model.safetensors", False, cut, False),
        ("model.safetensors", True, lambda content: b"", True),
    ],
)
def test_a_damaged_cached_file_heals_once_by_itself(
    server, tiny_agent, tmp_path, monkeypatch, lfs, name, alter, pinned
):
    sha = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent")).refs["main"]
    server.lfs, options = lfs, {"revision": sha if pinned else None}
    ICAgent.from_pretrained(REPO)
    (blob,) = (tmp_path / "cache").glob(f"*/blobs/{blob_of(server, name)}")
    whole = blob.read_bytes()
    blob.write_bytes(alter(whole))
    words = [name, REPO, "damaged", "force_download=True"]
    refusal(lambda: ICAgent.from_pretrained(REPO, local_files_only=True, **options), ValueError, *words)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        refusal(lambda: ICAgent.from_pretrained(REPO, **options), ValueError, *words)
    send(server, name, alter)
    refusal(lambda: ICAgent.from_pretrained(REPO, **options), ConnectionError, name, REPO)
    send(server, name, bytes)
    server.requests.clear()
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, **options))
    assert blob.read_bytes() == whole
    assert {path for method, path in server.requests if method == "GET" and "resolve" in path} == {
        f"/{REPO}/resolve/{sha}/{name}"
    }
    assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO, local_files_only=True))


def test_a_damaged_ref_is_asked_again(server, tiny_agent, tmp_path):
    sha = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent")).refs["main"]
    ICAgent.from_pretrained(REPO)
    (ref,) = (tmp_path / "cache").glob("*/refs/main")
    for content in (b"\xff\xfe", b"", b"../..", b"0" * 40):
        ref.write_bytes(content)
        one_line(lambda: ICAgent.from_pretrained(REPO, local_files_only=True), FileNotFoundError, "not in the cache")
        assert ICAgent.from_pretrained(REPO).source == f"hub@{sha}"
        assert ref.read_text() == sha


def test_a_content_that_two_commits_share_is_downloaded_once(server, tiny_agent, tmp_path):
    repo = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    ICAgent.from_pretrained(REPO)
    sha = repo.commit({**repo.commits[repo.refs["main"]], "notes.md": b""})
    server.requests.clear()
    assert ICAgent.from_pretrained(REPO).source == f"hub@{sha}"
    assert {method for method, _ in server.requests} == {"HEAD"}


def busy(status: int, **headers: str) -> Callable[[HubServer], None]:
    def refuse(method: str, path: str) -> None:
        raise Refused(
            status, message="busy\x1b[31m", headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    return lambda server: setattr(server, "on_request", refuse)


def stall(server: HubServer) -> None:
    server.on_request = lambda method, path: time.sleep(3)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (stall, ["too slow (no whole answer in", "try again later"]),
        (lambda server: server.drip.add("HEAD"), ["too slow"]),
        (lambda server: server.drip.add("GET"), ["too slow"]),
        (busy(429, Retry_After="3600"), ["answered 429 (busy", "try again in 3600 s"]),
        (busy(429, RateLimit='"api";r=0;t=600'), ["answered 429", "try again in 600 s"]),
        (busy(503, Retry_After="3600"), ["answered 503", "try again in 3600 s"]),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_waiting_for_a_server_is_bounded_and_the_cache_outlives_it(
    server, tiny_agent, tmp_path, monkeypatch, trouble, words, method
):
    monkeypatch.setattr(hub_transfer, "PATIENCE", 0.4)
    repo = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"))
    ICAgent.from_pretrained(REPO)
    trouble(server)
    if method == "GET":  # the trouble begins after the first answer
        behave = server.on_request
        server.on_request = lambda how, path: behave(how, path) if how == "GET" else None
    refusal(lambda: ICAgent.from_pretrained(REPO, force_download=True), ConnectionError, *words)
    if method == "HEAD":
        repo.commit(files_of(tiny_agent(seed=1), tmp_path / "new"))
        if "GET" not in server.drip:
            assert same_weights(tiny_agent(), ICAgent.from_pretrained(REPO))


def test_a_wait_of_more_digits_than_python_reads_is_no_other_error(server):
    busy(429, Retry_After="9" * 5000, RateLimit='"api";r=0;t=' + "9" * 5000)(server)
    refusal(lambda: ICAgent.from_pretrained(REPO), ConnectionError, server.url)


@pytest.mark.parametrize("trouble", [stall, lambda server: server.drip.add("POST")])
def test_waiting_to_publish_is_bounded(server, tiny_agent, monkeypatch, trouble):
    monkeypatch.setattr(hub_transfer, "PATIENCE", 0.4)
    trouble(server)
    refusal(lambda: tiny_agent().push_to_hub(REPO, token="writer"), ConnectionError, REPO, "push again later")


def test_the_client_library_is_in_the_range_we_claim():
    major, minor = (int(part) for part in huggingface_hub.__version__.split(".")[:2])
    assert (1, 31) <= (major, minor) < (3, 0)
