"""The Hub client's errors, which span many lines and types, as builtin ones of one line with the likely fix."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from icrl_agents.checkpoint import CONFIG, WEIGHTS

LOGIN = "log in with `hf auth login`, set HF_TOKEN or pass token="


@contextmanager
def explained(explain: Callable[[Exception], Exception]) -> Iterator[None]:
    """Turn the Hub client's errors into builtin ones of one line with the likely fix."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    client_errors = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        httpx.HTTPError,
    )
    try:
        yield
    except client_errors as error:
        raise explain(error) from None
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # how the client reports a download cut short
            raise explain(error) from None
        raise


def explain_download(
    error: Exception, api: Any, repo_id: str, revision: str | None, pretrained: list[str]
) -> Exception:
    """What went wrong while loading, for somebody who may not know that there is a Hub."""
    from huggingface_hub import errors

    page, name, at = f"{api.endpoint}/{repo_id}", repr(repo_id)[:120], repr(revision or "main")
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
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError(__cause__=None):
            return FileNotFoundError(
                f"{name} is not in the cache at revision {at}, and downloads are off (local_files_only or "
                f"HF_HUB_OFFLINE): load it once with them on{hint}"
            )
    if type(error) is OSError:
        return ConnectionError(f"the download of {name} was cut short: load it again with force_download=True")
    near = difflib.get_close_matches(repo_id, pretrained, 3, 0)
    instead = f", or load one that needs none, such as {', '.join(near)} (icrl-agents agents lists all)" if near else ""
    return ConnectionError(f"{name} is not in the cache, and {_unreachable(error, api)}{instead}{hint}")


def explain_upload(error: Exception, api: Any, repo_id: str) -> Exception:
    """What went wrong while uploading."""
    from huggingface_hub import errors

    match error:
        case errors.HFValidationError():
            return ValueError(
                f"{repr(repo_id)[:120]} is no Hub repo id: use org/name of letters, digits, '-', '_', '.'"
            )
        case errors.RepositoryNotFoundError():
            return PermissionError(
                f"your token may not write to {repo_id} at {api.endpoint}: {LOGIN} with one that may"
            )
        case errors.HfHubHTTPError():
            return _explain_status(error, f"{api.endpoint}/{repo_id}")
        case errors.OfflineModeIsEnabled():
            return ConnectionError(f"cannot upload to {repo_id} while HF_HUB_OFFLINE is set: unset it")
    return ConnectionError(f"cannot upload to {repo_id}: {_unreachable(error, api)}")


def _unreachable(error: Exception, api: Any) -> str:
    return f"{api.endpoint} cannot be reached ({type(error).__name__}): check the network, the proxy and HF_ENDPOINT"


def _explain_status(error: Any, page: str) -> Exception:
    status = error.response.status_code
    if status in (401, 403):
        return PermissionError(f"{page} refuses your token ({status}): {LOGIN} of a token with the needed permission")
    said = " ".join(str(error.server_message or "").split())[:200]
    return ConnectionError(f"{page} answered {status}{f' ({said})' if said else ''}: try again later")


def token_of(api: Any) -> str | None:
    """The token that requests carry, wherever it is from."""
    from huggingface_hub import get_token

    return None if api.token is False else api.token if isinstance(api.token, str) else get_token()
