"""Map the Hub client's errors to built-in exceptions of one line with the likely fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from icrl_agents.core.printable import printable
from icrl_agents.hub.checkpoint import CONFIG, WEIGHTS

LOGIN = "log in with `hf auth login`, set HF_TOKEN or pass token="


@contextmanager
def explained(explain: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise `explain(error)` in place of any error of the Hub client."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    client_errors = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        httpx.HTTPError,
        httpx.InvalidURL,
        TimeoutError,
    )
    try:
        yield
    except client_errors as error:
        raise explain(error) from None


def explain_download(
    error: Exception, api: Any, repo_id: str, revision: str | None, pretrained: list[str]
) -> Exception:
    """Map a Hub client error of a download to a built-in exception with a one-line fix."""
    from huggingface_hub import errors

    page, name, at = f"{api.endpoint}/{repo_id}", printable(repr(repo_id), 100), printable(repr(revision or "main"), 80)
    near = difflib.get_close_matches(repo_id, pretrained, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    match error:
        case errors.HFValidationError():
            return ValueError(f"{name} is no folder here and no Hub repo id either: ids are org/name{hint}")
        case errors.GatedRepoError():
            return PermissionError(f"{name} asks for access: accept its terms at {page}, then {LOGIN}")
        case errors.RepositoryNotFoundError() if token_of(api):
            return FileNotFoundError(
                f"{name} is no folder here, and your token sees no such repo at {api.endpoint}: "
                f"check the spelling, or use a token that may read it{hint}"
            )
        case errors.RepositoryNotFoundError():
            return FileNotFoundError(
                f"{name} is no folder here, and no public repo at {api.endpoint}: "
                f"check the spelling; if it is private, {LOGIN}{hint}"
            )
        case errors.RevisionNotFoundError():
            return FileNotFoundError(f"{name} has no revision {at}: give a branch, tag or commit of {page}")
        case errors.RemoteEntryNotFoundError():
            return FileNotFoundError(
                f"{name} lacks {CONFIG} or {WEIGHTS} at revision {at}: it is not a checkpoint of icrl-agents, "
                f"or a pickled one, which is never loaded; see {page}"
            )
        case errors.HfHubHTTPError():
            return _explain_status(error, page)
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return FileNotFoundError(
                f"{name} is not in the cache at revision {at}, and downloads are off (local_files_only or "
                f"HF_HUB_OFFLINE): load it once with them on{hint}"
            )
    near = difflib.get_close_matches(repo_id, pretrained, 3, 0)
    instead = f", or load one that needs none, such as {', '.join(near)} (icrl-agents agents lists all)" if near else ""
    return ConnectionError(f"{name} cannot be downloaded: {_unreachable(error, api)}{instead}{hint}")


def explain_upload(error: Exception, api: Any, repo_id: str) -> Exception:
    """Map a Hub client error of an upload to a built-in exception with a one-line fix."""
    from huggingface_hub import errors

    match error:
        case errors.HFValidationError():
            return ValueError(
                f"{printable(repr(repo_id), 100)} is no Hub repo id: use org/name of letters, digits, '-', '_', '.'"
            )
        case errors.RepositoryNotFoundError():
            return PermissionError(
                f"your token may not write to {repo_id} at {api.endpoint}: {LOGIN} with one that may"
            )
        case errors.HfHubHTTPError():
            return _explain_status(error, f"{api.endpoint}/{repo_id}")
        case errors.OfflineModeIsEnabled():
            return ConnectionError(f"cannot upload to {repo_id} while HF_HUB_OFFLINE is set: unset it")
        case TimeoutError():
            page = f"{api.endpoint}/{repo_id}"
            return ConnectionError(f"no answer from {page} in time: look there for what arrived, or push again later")
    return ConnectionError(f"cannot upload to {repo_id}: {_unreachable(error, api)}")


def _unreachable(error: Exception, api: Any) -> str:
    if isinstance(error, TimeoutError):
        return f"{api.endpoint} is too slow ({error}): try again later, or check the network and the proxy"
    return f"{api.endpoint} cannot be reached ({type(error).__name__}): check the network, the proxy and HF_ENDPOINT"


def _explain_status(error: Any, page: str) -> Exception:
    status = error.response.status_code
    if status in (401, 403):
        return PermissionError(f"{page} refuses your token ({status}): {LOGIN} of a token with the needed permission")
    said = printable(error.server_message or "", 100)
    when = _retry_after(error.response.headers)
    return ConnectionError(f"{page} answered {status}{f' ({said})' if said else ''}: try again {when}")


def _retry_after(headers: Any) -> str:
    asked = re.fullmatch(r"\d{1,9}", headers.get("Retry-After", "").strip())
    limit = re.search(r";\s*t=(\d{1,9})\b", headers.get("RateLimit", ""))
    return f"in {asked[0]} s" if asked else f"in {limit[1]} s" if limit else "later"


def token_of(api: Any) -> str | None:
    """Token of requests: from the client or the stored login; None without one."""
    from huggingface_hub import get_token

    return None if api.token is False else api.token if isinstance(api.token, str) else get_token()


def check_token(api: Any) -> None:
    """Check that the token is valid in a header, before a client logs it or fails to encode it.

    Raises:
        PermissionError: `token=True` without a stored token.
        ValueError: empty token, line breaks, spaces or non-ASCII letters; the message does not show the token.
    """
    token = token_of(api)
    if api.token is True and token is None:
        raise PermissionError(f"token=True, but no token is stored here: {LOGIN}")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise ValueError("the token is empty or has spaces, line breaks or letters beyond ASCII: copy it again")
