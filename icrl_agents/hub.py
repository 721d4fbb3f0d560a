"""Where checkpoints come from and go to: a folder, the package itself, or the Hugging Face Hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from icrl_agents import __version__
from icrl_agents.atomic import write_text
from icrl_agents.bundled import bundled
from icrl_agents.checkpoint import CARD, CONFIG, CURVE, RESULTS, WEIGHTS, make_card
from icrl_agents.hub_errors import LOGIN, explain_download, explain_upload, explained, token_of

BUNDLED = "icrl/"  # the only ids that ship with the package; nobody else's can be shadowed by them


class Found(NamedTuple):
    """A checkpoint's folder, and where it is from: "local", "bundled" or "hub@<commit>"."""

    folder: Path
    source: str


# ---- finding ----------------------------------------------------------------------------------------------------


def fetch(
    id_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Found:
    """Find a checkpoint: an existing folder, else a bundled id, else a Hub repo with all files of ONE commit.

    Bundled ids touch no network, unless `revision` or `force_download` ask for the Hub's version.

    Raises:
        FileNotFoundError: no such folder, repo, revision or file; or not cached, and downloads are off.
        PermissionError: the Hub refuses the token, or the repo asks for access.
        ConnectionError: the Hub cannot be reached and the checkpoint is not cached.
        ValueError: neither a path nor a repo id, or arguments that contradict each other.
    """
    if not isinstance(id_or_path, str | PurePath) or not str(id_or_path):
        raise ValueError(
            f"{id_or_path!r} is no checkpoint: give a folder, a Hub repo id or one of `icrl-agents agents`"
        )
    # os.path says no where Path raises: names that are too long, users that do not exist.
    folder = os.path.expanduser(id_or_path)  # noqa: PTH111
    if os.path.isdir(folder):  # noqa: PTH112
        return Found(Path(folder), "local")
    if os.path.isfile(folder):  # noqa: PTH113
        raise NotADirectoryError(f"{id_or_path} is a file: give the folder that holds {CONFIG} and {WEIGHTS}")
    if _is_path(id_or_path):
        raise FileNotFoundError(
            f"there is no folder {str(id_or_path)!r}: Hub repos are named org/name, without ./ or /"
        )
    name = str(id_or_path)
    if name in list_pretrained() and revision is None and not force_download:
        return Found(bundled_folder() / name.removeprefix(BUNDLED), "bundled")
    if force_download and local_files_only:
        raise ValueError("force_download=True and local_files_only=True contradict each other: leave one out")
    return _fetch_hub(name, revision, token, cache_dir, local_files_only, force_download)


def _is_path(id_or_path: str | Path) -> bool:
    text = str(id_or_path)
    marked = text.startswith((".", "~")) or text.endswith("/") or "\\" in text or text.count("/") > 1
    return isinstance(id_or_path, PurePath) or PurePath(text).is_absolute() or marked


def bundled_folder() -> Path:
    """The folder of the released agents."""
    return bundled("model_cards")


def list_pretrained() -> list[str]:
    """The ids that `ICAgent.from_pretrained` loads without a network."""
    return sorted(BUNDLED + weights.parent.name for weights in bundled_folder().glob(f"*/{WEIGHTS}"))


def _fetch_hub(
    repo_id: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    force_download: bool,
) -> Found:
    from huggingface_hub import errors

    api = _api(token)
    with explained(lambda error: explain_download(error, api, repo_id, revision, list_pretrained())):
        _check_id(repo_id)
        cached = None if force_download else _cached(repo_id, revision, cache_dir)
        if cached and (local_files_only or cached.name == revision):
            return Found(cached, f"hub@{cached.name}")
        if local_files_only:
            raise errors.LocalEntryNotFoundError(repo_id)
        commit = _resolve(api, repo_id, revision, cached.name if cached else None)
        folder = _download(api, repo_id, commit, cache_dir, force_download)
    _remember(folder, revision or "main")
    return Found(folder, f"hub@{folder.name}")


def _cached(repo_id: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    """The snapshot of `revision`, as far as it was last seen, if it is complete."""
    from huggingface_hub import try_to_load_from_cache

    paths = [
        try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=revision) for name in (CONFIG, WEIGHTS)
    ]
    return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None


def _resolve(api: Any, repo_id: str, revision: str | None, last_seen: str | None) -> str:
    """The commit that `revision` names now, or that it named when last seen if the Hub cannot say.

    One request without retries: hf_hub_download would try for 23 s to reach a server that is not there, and it asks
    for size and content of a moving branch one after the other, so that one commit's name may get another's content.
    """
    from huggingface_hub import errors, hf_hub_url
    from huggingface_hub.utils import httpx

    url = hf_hub_url(repo_id, CONFIG, revision=revision, endpoint=api.endpoint)
    try:
        commit = api.get_hf_file_metadata(url=url).commit_hash
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, httpx.TransportError) as error:
        refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500
        if last_seen is None or refused:
            raise
        return last_seen
    if commit is None:
        raise ConnectionError(f"{api.endpoint} does not answer like a Hub: check the proxy and HF_ENDPOINT")
    return str(commit)


def _download(api: Any, repo_id: str, commit: str, cache_dir: str | Path | None, force_download: bool) -> Path:
    for name in (CONFIG, WEIGHTS):
        path = api.hf_hub_download(repo_id, name, revision=commit, cache_dir=cache_dir, force_download=force_download)
    return Path(path).parent


def _remember(folder: Path, revision: str) -> None:
    """Note in the Hub's cache which commit a branch named, so that it loads by that name without a network."""
    if revision != folder.name and ".." not in revision:
        with suppress(OSError):  # a read-only cache serves as well
            write_text(folder.parents[1] / "refs" / revision, folder.name)


def _check_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repo_id.isprintable():  # older clients let a last line break pass
        raise HFValidationError(repo_id)
    validate_repo_id(repo_id)


def _api(token: str | bool | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="icrl-agents", library_version=__version__)


# ---- publishing -------------------------------------------------------------------------------------------------


def push(save: Callable[[Path], None], repo_id: str, **options: Any) -> str:
    """`upload` what `save(folder)` writes; the options are those of `upload`."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return upload(folder, repo_id, **options)


def upload(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload agent",
) -> str:
    """Upload a checkpoint folder, with its results and curve if it has them, as one commit.

    The repo and the branch `revision` are made if they do not exist. Of the files in the folder only the five of a
    checkpoint are sent; results and curve that an earlier upload left in the repo and this folder lacks are deleted.

    Returns:
        The commit's URL.

    Raises:
        FileNotFoundError, ValueError: no loadable checkpoint in `folder`, or a bad `repo_id`; nothing is sent.
        PermissionError: no token, one that may not write there, or a public repo although `private=True`.
        ConnectionError: the Hub cannot be reached or fails.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api(token)
    with explained(lambda error: explain_upload(error, api, repo_id)):
        _check_writable(api, repo_id)
        files = _to_upload(Path(folder).expanduser(), repo_id)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision not in (None, "main"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        info = api.repo_info(repo, revision=revision)
        if private and not info.private:
            raise PermissionError(f"{repo} is public: make it private in its settings first, or leave private out")
        stale = {there.rfilename for there in info.siblings or []} & {RESULTS, CURVE} - set(files)
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in sorted(stale)]
        commit = api.create_commit(repo, operations, commit_message=commit_message, revision=revision)
        return str(commit.commit_url)


def _check_writable(api: Any, repo_id: str) -> None:
    _check_id(repo_id)
    if not token_of(api):
        raise PermissionError(f"cannot write to {repo_id} without a token: {LOGIN}")


def _to_upload(folder: Path, repo_id: str) -> dict[str, bytes]:
    from icrl_agents.agent import ICAgent

    ICAgent.from_pretrained(Path(folder), device="cpu")  # what does not load here does not load there
    card = make_card(folder)
    for name in (CONFIG, WEIGHTS, CARD, RESULTS, CURVE):
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a link: put the file itself there, links are not followed into a repo"
            )
    files = {n: (folder / n).read_bytes() for n in (CONFIG, WEIGHTS, CARD, RESULTS, CURVE) if (folder / n).is_file()}
    if files.get(CARD, card.encode()) == card.encode():  # a card edited by hand is sent as it is
        files[CARD] = make_card(folder, repo_id).encode()
    return files
