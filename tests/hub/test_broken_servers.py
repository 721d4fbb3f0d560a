"""Servers that are broken, slow or hostile: nothing wrong is kept, and waiting is bounded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from icrl_agents.agents.agent import ICAgent
from icrl_agents.hub import transfer as hub_transfer
from tests.conftest import one_line, same_weights
from tests.hub.conftest import REPO, files_of
from tests.hub.hub_server import Answer, HubServer, Refused, git_sha1

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [stall, lambda server: server.drip.add("POST")])
def test_waiting_to_publish_is_bounded(server, tiny_agent, monkeypatch, trouble):
    monkeypatch.setattr(hub_transfer, "PATIENCE", 0.4)
    trouble(server)
    refusal(lambda: tiny_agent().push_to_hub(REPO, token="writer"), ConnectionError, REPO, "push again later")


def test_the_client_library_is_in_the_range_we_claim():
    major, minor = (int(part) for part in huggingface_hub.__version__.split(".")[:2])
    assert (1, 31) <= (major, minor) < (3, 0)
