"""A small Hugging Face Hub on loopback: real HTTP, real commits in memory, enough of the protocol to push and load.

Every file is uploaded as `"uploadMode": "regular"`, so commits carry the weights inline and neither LFS nor Xet is
needed. What tests look at: `repos`, `requests` (method, path), `agents`, `cdn_tokens`; what they set: `on_request`,
called before each answer and free to raise `Refused`; `on_answer`, which may replace a file's content and headers;
`lfs`, to send files from another host, as the Hub does with large ones; `drip`, the methods whose answers never end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
Answer = tuple[bytes, dict[str, str]]  # content, headers


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)  # 40 hex digits -> files
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        """Replace the branch's files; gives the commit's name."""
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.tokens = {"reader": "read", "writer": "write"}
        self.requests: list[tuple[str, str]] = []
        self.agents: set[str] = set()
        self.cdn_tokens: set[str] = set()
        self.lfs = False
        self.drip: set[str] = set()
        self.on_request: Callable[[str, str], None] = lambda method, path: None
        self.on_answer: Callable[[str, str, bytes, dict[str, str]], Answer] = lambda method, path, *answer: answer
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def repo(self, name: str, files: Files | None = None, **options: Any) -> Repo:
        """Add a repo, with one commit on main."""
        self.repos[name] = Repo(**options)
        self.repos[name].commit(files or {".gitattributes": b""})
        return self.repos[name]

    def handle_error(self, *args: Any) -> None:
        """Clients that leave early are what some tests are about."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None):
        self.status, self.message = status, message
        self.headers = {"X-Error-Code": code, "X-Error-Message": message.splitlines()[0] if message else ""}
        self.headers |= headers or {}


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.0"  # one request a connection, so that a stopped server is really gone

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(self._post)

    def log_message(self, *args: Any) -> None:
        """Tests read `requests` instead."""

    # ---- routes -------------------------------------------------------------------------------------------------

    def _get(self, parts: list[str]) -> Answer:
        match parts:
            case [org, name, "resolve", revision, path]:
                repo = self._readable(f"{org}/{name}")
                sha = self._resolved(repo, revision)
                if path not in repo.commits[sha]:
                    raise Refused(404, "EntryNotFound")
                content = repo.commits[sha][path]
                if self.server.lfs:
                    raise self._elsewhere(sha, content)
                headers = {"X-Repo-Commit": sha, "ETag": f'"{git_sha1(content)}"'}
                return self.server.on_answer(self.command, path, content, headers)
            case ["cdn", digest, path]:
                self.server.cdn_tokens.add(self.headers.get("Authorization", ""))
                contents = {
                    c for repo in self.server.repos.values() for files in repo.commits.values() for c in files.values()
                }
                content = next(c for c in contents if hashlib.sha256(c).hexdigest() == digest)
                return self.server.on_answer(self.command, path, content, {"ETag": '"of the CDN"'})
            case ["api", "models", org, name, *rest]:
                repo = self._readable(f"{org}/{name}")
                sha = self._resolved(repo, rest[1] if rest else "main")
                siblings = [{"rfilename": path} for path in repo.commits[sha]]
                return _json(id=f"{org}/{name}", sha=sha, private=repo.private, siblings=siblings)
        raise Refused(404)

    def _elsewhere(self, sha: str, content: bytes) -> Refused:
        digest = hashlib.sha256(content).hexdigest()
        host = self.server.url.replace("127.0.0.1", "localhost")
        headers = {"X-Repo-Commit": sha, "X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        name = self.path.rsplit("/", 1)[1]
        return Refused(302, headers=headers | {"Location": f"{host}/cdn/{digest}/{name}"})

    def _post(self, parts: list[str]) -> Answer:
        match parts:
            case ["api", "validate-yaml"]:
                return _json(errors=[], warnings=[])
            case ["api", "repos", "create"]:
                return self._create(json.loads(self.body))
        self._need("write")
        match parts:
            case ["api", "models", org, name, "branch", branch]:
                repo = self._readable(f"{org}/{name}")
                if branch in repo.refs:
                    raise Refused(409)
                repo.refs[branch] = repo.refs["main"]
                return _json()
            case ["api", "models", org, name, "preupload", revision]:
                self._resolved(self._readable(f"{org}/{name}"), revision)
                paths = [file["path"] for file in json.loads(self.body)["files"]]
                return _json(files=[{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths])
            case ["api", "models", org, name, "commit", revision]:
                return self._commit(f"{org}/{name}", revision)
        raise Refused(404)

    def _create(self, wanted: dict[str, Any]) -> Answer:
        self._need("write")
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repos:
            raise Refused(409, message=url)
        self.server.repo(name, private=wanted.get("private", wanted.get("visibility") == "private"))
        return _json(url=url)

    def _commit(self, name: str, revision: str) -> Answer:
        repo = self._readable(name)
        files = dict(repo.commits[self._resolved(repo, revision)])
        for line in self.body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del files[entry["value"]["path"]]
        sha = repo.commit(files, revision)
        return _json(success=True, commitOid=sha, commitUrl=f"{self.server.url}/{name}/commit/{sha}")

    # ---- rights and answers -------------------------------------------------------------------------------------

    def _need(self, right: str) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Refused(401, message="Invalid credentials in Authorization header")
        if self.server.tokens.get(token) not in (right, "write"):
            raise Refused(403 if token else 401, message="this token has no write permission")

    def _readable(self, name: str) -> Repo:
        repo = self.server.repos.get(name)
        try:
            if repo is None or repo.private or repo.gated:
                self._need("read")
        except Refused as refused:
            if refused.message.startswith("Invalid"):
                raise
            # The Hub does not tell strangers which repos exist.
            raise Refused(401, "GatedRepo" if repo and repo.gated else "RepoNotFound") from None
        if repo is None:
            raise Refused(404, "RepoNotFound")
        if repo.gated:
            raise Refused(403, "GatedRepo")
        return repo

    def _resolved(self, repo: Repo, revision: str) -> str:
        sha = repo.resolve(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound")
        return sha

    def _answer(self, route: Callable[[list[str]], Answer]) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append((self.command, path))
        self.server.agents.add(self.headers.get("User-Agent", ""))
        try:
            self.server.on_request(self.command, path)
            status, (content, headers) = 200, route([unquote(part) for part in path.strip("/").split("/")])
        except Refused as refused:
            status, content = refused.status, json.dumps({"error": refused.message, "url": refused.message}).encode()
            headers = refused.headers
        headers = {"Content-Length": str(len(content)), **headers}
        if self.command in self.server.drip:
            return self._drip(headers)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _drip(self, headers: dict[str, str]) -> None:
        """Headers that never end for HEAD, a body of a byte now and then for the others."""
        lines = ["HTTP/1.0 200 OK", *(f"{key}: {value}" for key, value in headers.items())]
        self.wfile.write("\r\n".join([*lines, "X-Drip: " if self.command == "HEAD" else "\r\n"]).encode())
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)


def git_sha1(content: bytes) -> str:
    """The hash by which Git names a file, which is the ETag of files that are not in LFS."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(**content: Any) -> Answer:
    return json.dumps(content).encode(), {"Content-Type": "application/json"}
