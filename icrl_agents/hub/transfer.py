"""Downloads from a Hub: within a bounded time, and only of the content that its published hash promises.

`hf_hub_download` gives neither. It sleeps as long as a server asks for (`Retry-After: 3600`, five times), waits without
end for one that sends a byte a second, writes to a path that an unchecked header names, and compares no hash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from icrl_agents.core.printable import printable
from icrl_agents.hub.cache import COMMIT, DIGEST, Published, digests
from icrl_agents.hub.checkpoint import MAX_WEIGHTS_BYTES

PATIENCE = 60.0  # seconds that all answers of a server may take together
MIN_SPEED = 1 << 15  # bytes that add one second to the time a server has

MALFORMED = (ValueError, LookupError, TypeError, AttributeError)  # as the client fails on headers and JSON of others

T = TypeVar("T")


def foreign(api: Any) -> str:
    return f"{api.endpoint} does not answer like a Hub: check the proxy and HF_ENDPOINT"


class Patience:
    """The time that a server has left. Requests run in threads, as nothing else ends a name look-up or a header."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.end = time.monotonic() + PATIENCE

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    def extend(self, size: int) -> None:
        """Allow the time that `size` bytes take at the lowest speed."""
        self.end += size / MIN_SPEED

    def wait(self, call: Callable[[], T]) -> T:
        """The result of `call`.

        Raises:
            ConnectionError: the client fails to parse the answer.
            TimeoutError: it takes too long; its thread stays behind, and what it returns is dropped.
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
            if isinstance(error, OSError):  # the client's error for status 400 is both
                raise
            raise ConnectionError(foreign(self.api)) from error


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


class Remote:
    """One repo on its server."""

    def __init__(self, api: Any, repo_id: str) -> None:
        self.api = api
        self.repo_id = repo_id
        self.patience = Patience(api)

    def published(self, name: str, revision: str | None) -> Published:
        """Hash, size and commit of a file at `revision`: one request without retries.

        Raises:
            ConnectionError: the answer is not that of a Hub.
            TimeoutError: no answer in time.
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
        """The file's content, which matches its hash; one that does not is asked for a second time.

        Raises:
            ConnectionError: neither of the two matches.
            TimeoutError: no whole content in time.
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
            if response.status_code != 200:  # hf_raise_for_status would read an answer of any length
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
