"""Find checkpoints in a folder, among the bundled agents or on the Hugging Face Hub, and upload them to the Hub."""

from __future__ import annotations

import difflib
import os
import re
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

from icrl_agents.core import __version__
from icrl_agents.core.checks import flag
from icrl_agents.core.files.bundled import bundled
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.printable import printable
from icrl_agents.hub import checkpoint
from icrl_agents.hub.cache import FILES, RepoCache
from icrl_agents.hub.checkpoint import CARD, CONFIG, CURVE, RECORDING, RESULTS, WEIGHTS
from icrl_agents.hub.download import Download
from icrl_agents.hub.errors import LOGIN, check_token, explain_download, explain_upload, explained, token_of
from icrl_agents.hub.transfer import Patience, Remote

BUNDLED = "icrl/"  # prefix of the ids of bundled agents
CANNOT_SAY = (408, 429, *range(500, 600))  # HTTP status of a server that is busy or broken: use the cached commit
REVISION = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\/][^\x00-\x20\x7f~^:?*\[\\]{0,249}")


class ResolvedCheckpoint(NamedTuple):
    """A checkpoint's folder and its origin: "local", "bundled" or "hub@<commit>"."""

    folder: Path
    source: str


# ---- finding ----------------------------------------------------------------------------------------------------


def fetch(id_or_path: str | Path, options: Download = Download()) -> ResolvedCheckpoint:
    """Find a checkpoint: an existing folder, else a bundled id, else a Hub repo, with all files from one commit.

    Ids of bundled agents (`icrl/...`) need no network, unless `revision` or `force_download` requests the Hub's
    version. Files are compared with the hash published by the Hub, in the cache too; damaged ones are downloaded
    again. The timeout is 60 s plus 1 s for every 32 KiB received.

    Raises:
        FileNotFoundError: no such folder, repo, revision or file; or not cached while downloads are off.
        PermissionError: the Hub rejects the token, or the repo is gated.
        ConnectionError: not cached, and the Hub is unreachable, too slow or busy, or sends files without a hash or
            with another hash.
        ValueError: neither a path nor a repo id, a malformed revision or token, contradicting arguments, or a damaged
            cached file while downloads are off.
    """
    if not isinstance(id_or_path, str | PurePath) or not str(id_or_path):
        raise ValueError(
            f"{printable(repr(id_or_path), 200)} is no checkpoint: give a folder, a Hub repo id or one of "
            "`icrl-agents agents`"
        )
    check_utf8(id_or_path)
    for asked in ("local_files_only", "force_download"):
        flag(asked, getattr(options, asked))
    # os.path returns False where Path raises: too long names, unknown users
    folder = os.path.expanduser(id_or_path)  # noqa: PTH111
    if os.path.isdir(folder):  # noqa: PTH112
        _check_folder(folder, id_or_path, options)
        return ResolvedCheckpoint(Path(folder), "local")
    _refuse_path(folder, id_or_path)
    name = str(id_or_path)
    if name in list_pretrained() and options.revision is None and not options.force_download:
        return ResolvedCheckpoint(bundled_folder() / name.removeprefix(BUNDLED), "bundled")
    if options.force_download and options.local_files_only:
        raise ValueError("force_download=True and local_files_only=True contradict each other: leave one out")
    return _fetch_hub(name, options)


def _check_folder(folder: str, id_or_path: str | Path, options: Download) -> None:
    """Refuse a folder where another checkpoint was meant: a bundled agent, or one of the Hub."""
    if str(id_or_path) in list_pretrained() and not os.listdir(folder):  # noqa: PTH208
        raise FileNotFoundError(
            f"the folder {printable(folder, 200)} is empty (it has no {CONFIG}) and hides the package's agent of "
            "that name: remove it"
        )
    if options.revision is not None or options.force_download:
        asked = "force_download=True" if options.revision is None else f"revision={options.revision!r}"
        shown = f"{printable(asked, 80)} asks the Hub, and {printable(id_or_path, 200)} is a folder here"
        raise ValueError(f"{shown}: leave it out, or run where there is no such folder")


def _refuse_path(path: str, id_or_path: str | Path) -> None:
    """Refuse what is no folder and no id: a file, a broken link, the path of a folder that does not exist."""
    shown = printable(id_or_path, 200)
    if os.path.exists(path):  # noqa: PTH110
        raise NotADirectoryError(f"{shown} is a file: give the folder that holds {CONFIG} and {WEIGHTS}")
    if os.path.lexists(path):
        raise FileNotFoundError(f"{shown} is a broken link: give the folder it is meant for")
    if _is_path(id_or_path):
        name = printable(repr(str(id_or_path)), 200)
        raise FileNotFoundError(f"there is no folder {name}: Hub repos are named org/name, without ./ or /")


def _is_path(id_or_path: str | Path) -> bool:
    text = str(id_or_path)
    marked = text.startswith((".", "~")) or text.endswith("/") or "\\" in text or text.count("/") > 1
    return isinstance(id_or_path, PurePath) or PurePath(text).is_absolute() or marked


def bundled_folder() -> Path:
    """Folder of the bundled agents."""
    return bundled("model_cards")


def list_pretrained() -> list[str]:
    """Ids of the bundled agents, which `ICAgent.from_pretrained` loads without a network."""
    return sorted(BUNDLED + weights.parent.name for weights in bundled_folder().glob(f"*/{WEIGHTS}"))


def _fetch_hub(repo_id: str, options: Download) -> ResolvedCheckpoint:
    from huggingface_hub import constants

    api = _api(options.token)
    with explained(lambda error: explain_download(error, api, repo_id, options.revision, list_pretrained())):
        _check_id(repo_id)
        _check_revision(options.revision)
        if repo_id.startswith(BUNDLED) and options.revision is None and not options.force_download:
            raise FileNotFoundError(_no_such_bundle(repo_id))
        cache = RepoCache(repo_id, options.cache_dir)
        offline = options.local_files_only or (constants.is_offline_mode() and not options.force_download)
        seen = None if options.force_download else _last_seen(cache, options.revision, offline)
        if seen and (offline or seen == options.revision):
            commit = seen
        else:
            check_token(api)
            commit = _download(Remote(api, repo_id), cache, options.revision, seen, options.force_download)
            cache.remember(options.revision or "main", commit)
    return ResolvedCheckpoint(cache.snapshot(commit), f"hub@{commit}")


def _last_seen(cache: RepoCache, revision: str | None, offline: bool) -> str | None:
    """Last known commit of `revision` if it is cached and intact; None if a download is needed.

    Raises:
        LocalEntryNotFoundError, ValueError: not cached, or damaged, while `offline`.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    commit = cache.commit(revision)
    damaged = cache.damaged(commit) if commit else []
    if offline and damaged:
        raise ValueError(
            f"{' and '.join(damaged)} of {cache.repo_id} in the cache {'are' if damaged[1:] else 'is'} damaged: "
            "load it once with downloads on and force_download=True"
        )
    if offline and not commit:
        raise LocalEntryNotFoundError(cache.repo_id)
    return None if damaged else commit


def _download(
    remote: Remote, cache: RepoCache, revision: str | None, last_seen: str | None, force_download: bool
) -> str:
    """Download the commit of `revision` into the cache; returns it, or `last_seen` if the Hub does not answer."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    try:
        config = remote.published(CONFIG, revision)
    except (errors.HfHubHTTPError, httpx.TransportError, TimeoutError) as error:
        refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code not in CANNOT_SAY
        if last_seen is None or refused:
            raise
        return last_seen
    wanted = FILES if force_download else cache.damaged(config.commit)
    for file in [config if name == CONFIG else remote.published(name, config.commit) for name in wanted]:
        if force_download or not cache.link(file):
            cache.keep(file, remote.content(file))
    return config.commit


def _no_such_bundle(name: str) -> str:
    near = difflib.get_close_matches(name, list_pretrained(), 1)
    hint = f"did you mean {near[0]!r}?" if near else "`icrl-agents agents` lists all."
    return f"{name!r} is no folder here and no bundled agent: {hint} For a Hub repo of that name give revision='main'"


def _check_revision(revision: str | None) -> None:
    """ValueError for names outside Git's rules, since a revision becomes a path in the cache."""
    if revision not in (None, "") and (not REVISION.fullmatch(str(revision)) or ".." in str(revision)):
        raise ValueError(f"revision {printable(repr(revision), 80)} is no branch, tag or commit: give the name of one")


def _check_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repo_id.isprintable():  # older clients accept a trailing line break
        raise HFValidationError(repo_id)
    validate_repo_id(repo_id)


def _api(token: str | bool | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="icrl-agents", library_version=__version__)


# ---- publishing -------------------------------------------------------------------------------------------------


class Proof(Protocol):
    """Callbacks of an upload, so that this file does not depend on agents."""

    def load(self, folder: Path) -> Any:
        """Load the checkpoint in `folder`; raises if it does not load."""

    def card(self, folder: Path, name: str | None = None) -> str:
        """Render the card of the checkpoint in `folder` with the id `name`."""


def upload(
    folder: str | Path,
    repo_id: str,
    proof: Proof,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload agent",
) -> str:
    """Upload a checkpoint folder, with results, curve and recording if present, as one commit.

    The repo and the branch `revision` are created if needed. Only the six files of a checkpoint are sent; results,
    curve and recording of an earlier upload are deleted from the repo if this folder lacks them.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError, ValueError: no loadable checkpoint in `folder`, or a bad `repo_id`; nothing is sent.
        PermissionError: no token, a token without write access, or a public repo with `private=True`.
        ConnectionError: the Hub is unreachable or fails.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api(token)
    private = None if private is None else flag("private", private)
    with explained(lambda error: explain_upload(error, api, repo_id)):
        _check_writable(api, repo_id)
        if not commit_message.strip():
            raise ValueError(f"commit_message={commit_message!r} is empty: say what the commit brings")
        files = _to_upload(Path(folder).expanduser(), repo_id, proof)
        patience = Patience(api)
        patience.extend(sum(map(len, files.values())))
        repo = patience.wait(lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
        if revision not in (None, "main"):
            patience.wait(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
        info = patience.wait(lambda: api.repo_info(repo, revision=revision))
        if private and not info.private:
            raise PermissionError(f"{repo} is public: make it private in its settings first, or leave private out")
        stale = {there.rfilename for there in info.siblings or []} & {RESULTS, CURVE, RECORDING} - set(files)
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in sorted(stale)]
        send = partial(api.create_commit, repo, operations, commit_message=commit_message, revision=revision)
        return printable(patience.wait(send).commit_url, 300)


def _check_writable(api: Any, repo_id: str) -> None:
    _check_id(repo_id)
    check_token(api)
    if not token_of(api):
        raise PermissionError(f"cannot write to {repo_id} without a token: {LOGIN}")


def _to_upload(folder: Path, repo_id: str, proof: Proof) -> dict[str, bytes]:
    proof.load(folder)  # raises before anything is sent
    card = proof.card(folder)
    for name in checkpoint.FILES:
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a link: put the file itself there, links are not followed into a repo"
            )
    files = {name: (folder / name).read_bytes() for name in checkpoint.FILES if (folder / name).is_file()}
    if files.get(CARD, card.encode()) == card.encode():  # a manually edited card is sent unchanged
        files[CARD] = proof.card(folder, repo_id).encode()
    return files
