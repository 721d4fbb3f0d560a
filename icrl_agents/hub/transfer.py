"""Downloads from a Hub with bounded time and verified hashes.

`hf_hub_download` has neither: it sleeps as long as the server requests (`Retry-After: 3600`, five times), waits without
limit for a server that sends one byte per second, writes to a path from an unchecked header, and compares no hash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from icrl_agents.core.printable import printable
from icrl_agents.hub.cache import COMMIT, DIGEST, Published, digests
from icrl_agents.hub.header import MAX_WEIGHTS_BYTES

PATIENCE = 60.0  # time limit in seconds for all answers of a server together
MIN_SPEED = 1 << 15  # bytes that extend the time limit by one second

MALFORMED = (ValueError, LookupError, TypeError, AttributeError)  # client errors on malformed headers and JSON

T = TypeVar("T")


def foreign(api: Any) -> str:
    return f"{api.endpoint} does not answer like a Hub: check the proxy and HF_ENDPOINT"


class Patience:
    """Time limit of a server. Requests run in threads: DNS look-ups and header reads have no other time limit."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.end = time.monotonic() + PATIENCE

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    def extend(self, size: int) -> None:
        """Extend the time limit by the time for `size` bytes at the minimum speed."""
        self.end += size / MIN_SPEED

    def wait(self, call: Callable[[], T]) -> T:
        """Result of `call`, within the time limit.

        Raises:
            ConnectionError: the client fails to parse the answer.
            TimeoutError: the time is over; the thread continues, and its result is discarded.
        """
        future: Future[T] = Future()
        threading.Thread(target=_settle, args=(future, call), daemon=True).start()
        while not future.done() and not self.over:
            wait([future], self.end - time.monotonic())
        if not future.done():
            raise TimeoutError(f"no whole answer in {PATIENCE:.0f} s")
        try:
            return future.result()
        except MALFORMED as error:
            if isinstance(error, OSError):  # the client's error for status 400 is a ValueError too
                raise
            raise ConnectionError(foreign(self.api)) from error


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


class Remote:
    """Files of one repo on its server."""

    def __init__(self, api: Any, repo_id: str) -> None:
        self.api = api
        self.repo_id = repo_id
        self.patience = Patience(api)

    def published(self, name: str, revision: str | None) -> Published:
        """Hash, size and commit of a file at `revision`: one request without retries.

        Raises:
            ConnectionError: the answer is not from a Hub, or has no hash.
            TimeoutError: no answer in time.
            ValueError: the file exceeds `MAX_WEIGHTS_BYTES`.
        """
        found = self.patience.wait(lambda: self.api.get_hf_file_metadata(url=self._url(name, revision)))
        commit, digest = found.commit_hash or "", found.etag or ""
        pinned = COMMIT.fullmatch(revision or "")
        if not COMMIT.fullmatch(commit) or (pinned and revision != commit):
            raise ConnectionError(foreign(self.api))
        if not DIGEST.fullmatch(digest):
            raise ConnectionError(
                f"{self.api.endpoint} publishes no hash of {name} (ETag '{printable(digest, 60)}', expected 40 or 64 "
                "hex digits), so nothing is downloaded: check the proxy and HF_ENDPOINT"
            )
        if (found.size or 0) > MAX_WEIGHTS_BYTES:
            size = printable(found.size, 20)
            raise ValueError(
                f"{name} of {self.repo_id} has {size} bytes, at most {MAX_WEIGHTS_BYTES}: load a smaller agent"
            )
        return Published(name, commit, digest, found.size)

    def content(self, file: Published) -> bytes:
        """Download a file and verify its hash, with one retry.

        Raises:
            ConnectionError: neither download matches the hash.
            TimeoutError: no complete download in time.
        """
        from huggingface_hub.utils import httpx

        for last in (False, True):
            try:
                content = self.patience.wait(lambda: self._get(file))
            except httpx.TransportError:
                if last:
                    raise
                continue
            if file.digest in digests(content):
                return content
        raise ConnectionError(self._mismatch(file, len(content)))

    def _get(self, file: Published) -> bytes:
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import build_hf_headers, get_session

        api, content = self.api, bytearray()
        headers = build_hf_headers(
            token=api.token, library_name=api.library_name, library_version=api.library_version
        ) | {"Accept-Encoding": "identity"}
        url, timeout = self._url(file.name, file.commit), constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            if response.status_code != 200:  # hf_raise_for_status reads an answer of any length
                said = response.headers.get("X-Error-Message")
                raise errors.HfHubHTTPError(str(response.status_code), response=response, server_message=said)
            for chunk in response.iter_bytes():
                content += chunk
                self.patience.extend(len(chunk))
                if self.patience.over or len(content) > (file.size or MAX_WEIGHTS_BYTES):
                    break
        return bytes(content)

    def _url(self, name: str, revision: str | None) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo_id, name, revision=revision, endpoint=self.api.endpoint)

    def _mismatch(self, file: Published, size: int) -> str:
        what = f"{file.name} of {self.repo_id} from {self.api.endpoint}"
        if size < (file.size or 0):
            return f"the download of {what} was cut short twice ({size} of {file.size} bytes): try again later"
        return (
            f"{what} is not the file that its hash promises ({file.digest[:12]}...; downloaded twice, not used): "
            "try again later, or check the proxy and HF_ENDPOINT"
        )
