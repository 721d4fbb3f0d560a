"""Loading and publishing against a real HTTP server that speaks the Hub's protocol, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.pretrained import upload
from icrl_agents.hub import checkpoint
from icrl_agents.hub.cards import make_card
from icrl_agents.methods import METHODS
from tests.conftest import one_line, same_weights
from tests.hub.conftest import REPO, files_of
from tests.hub.hub_server import Refused

GIF = b"GIF89a" + bytes(7) + b";"


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


def test_the_card_of_a_save_that_was_killed_is_not_taken_for_edited(server, tiny_agent, tmp_path, monkeypatch):
    tiny_agent(seed=1).save_pretrained(tmp_path)
    replace = Path.replace

    def stop_at_the_card(path: Path, target: Path) -> Path:
        if target.name == "README.md":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop_at_the_card)
        with pytest.raises(KeyboardInterrupt):
            tiny_agent(seed=2).save_pretrained(tmp_path)
    upload(tmp_path, REPO, token="writer")
    card = server.repos[REPO].commits[server.repos[REPO].refs["main"]]["README.md"]
    assert REPO.encode() in card  # a manually edited card is sent unchanged


def test_a_folder_is_uploaded_with_its_results_and_nothing_else(server, tiny_agent, tmp_path):
    tiny_agent().save_pretrained(tmp_path)
    table = [{"name": "mean return", "value": 3.25, "unit": "return"}]
    results = {"env_id": "icrl/Darkroom-v0", "table": table, "weights_sha256": checkpoint.weights_sha256(tmp_path)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "curve.png").write_bytes(b"\x89PNG")
    (tmp_path / "episodes.gif").write_bytes(GIF)
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
        "episodes.gif",
        ".gitattributes",
    }
    assert pushed["episodes.gif"] == GIF
    assert b"(episodes.gif)" in pushed["README.md"]
    assert b"3.25" in pushed["README.md"]
    assert REPO.encode() in pushed["README.md"]

    # Weights without results replace them: the repo never shows numbers of other weights.
    tiny_agent(seed=1).save_pretrained(tmp_path)
    one_line(lambda: upload(tmp_path, REPO, token="writer"), ValueError, "results.json", "other weights")
    (tmp_path / "results.json").unlink()
    (tmp_path / "curve.png").unlink()
    (tmp_path / "episodes.gif").write_bytes(b"<svg>")
    one_line(lambda: upload(tmp_path, REPO, token="writer"), ValueError, "episodes.gif is no GIF")
    (tmp_path / "episodes.gif").unlink()
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_users_environment_variables_reach_it(server, tiny_agent, tmp_path):
    """As a user has it: nothing patched, HF_ENDPOINT, HF_HOME and HF_TOKEN set before Python starts."""
    sha = server.repo(REPO, files_of(tiny_agent(), tmp_path / "agent"), private=True).refs["main"]
    code = f"from icrl_agents.agents.agent import ICAgent; print(ICAgent.from_pretrained({REPO!r}).source)"
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env = {name: value for name, value in env.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "reader"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"hub@{sha}", done.stderr
    server.stop()
    assert ICAgent.from_pretrained(REPO, cache_dir=tmp_path / "home" / "hub").source == f"hub@{sha}"
