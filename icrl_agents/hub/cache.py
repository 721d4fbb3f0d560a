"""RepoCache: the Hub client's disk cache of one repo, with hash checks of every file.

Layout, as documented by huggingface_hub: `blobs/<hash>` has contents, `snapshots/<commit>/<name>` links to them, and
`refs/<branch>` has the last known commit of a branch.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from icrl_agents.core.files.atomic import write_text
from icrl_agents.hub.checkpoint import CONFIG, WEIGHTS
from icrl_agents.hub.header import MAX_WEIGHTS_BYTES

FILES = (CONFIG, WEIGHTS)
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Published(NamedTuple):
    """Hub metadata of one file."""

    name: str
    commit: str  # 40 hex digits
    digest: str  # 40 or 64 hex digits; one of `digests` of the content
    size: int | None  # bytes


def digests(content: bytes) -> set[str]:
    """Hashes that Hubs use for a content: SHA-256 (LFS and Xet), SHA-1 of a Git blob, plain SHA-1 (mirrors)."""
    git = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    git.update(content)
    plain = hashlib.sha1(content, usedforsecurity=False)
    return {hashlib.sha256(content).hexdigest(), git.hexdigest(), plain.hexdigest()}


class RepoCache:
    """The cached files of one repo."""

    def __init__(self, repo_id: str, cache_dir: str | Path | None) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self.repo_id = repo_id
        self.root = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
        self.folder = self.root / repo_folder_name(repo_id=repo_id, repo_type="model")

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def commit(self, revision: str | None) -> str | None:
        """Last known commit of `revision` if both of its files are cached; else None."""
        from huggingface_hub import try_to_load_from_cache

        try:
            paths = [try_to_load_from_cache(self.repo_id, n, cache_dir=self.root, revision=revision) for n in FILES]
        except UnicodeDecodeError:  # refs/<revision> is damaged; the next download rewrites it
            return None
        return Path(str(paths[0])).parent.name if all(isinstance(path, str) for path in paths) else None

    def damaged(self, commit: str) -> list[str]:
        """Names of the files in a snapshot that are missing or do not match their hash.

        Without symbolic links a snapshot has copies, whose hash is unknown: these pass unchecked.
        """
        return [name for name in FILES if not self._whole(self.snapshot(commit) / name)]

    def _whole(self, path: Path) -> bool:
        digest = path.readlink().name if path.is_symlink() else ""
        return path.is_file() and (not DIGEST.fullmatch(digest) or _matches(path, digest))

    def link(self, file: Published) -> bool:
        """Add a file to its snapshot if its content is cached, from another commit; returns whether it is."""
        blob = self._blob(file)
        if not blob.is_file() or not _matches(blob, file.digest):
            return False
        with self._draft() as draft:
            self._link(file, Path(draft))
        return True

    def keep(self, file: Published, content: bytes) -> None:
        """Write the content of a file and add it to its snapshot, atomically each."""
        with self._draft() as draft:
            (Path(draft) / "blob").write_bytes(content)
            self._blob(file).parent.mkdir(exist_ok=True)
            (Path(draft) / "blob").replace(self._blob(file))
            self._link(file, Path(draft))

    def _link(self, file: Published, draft: Path) -> None:
        from huggingface_hub.file_download import are_symlinks_supported

        folder = self.snapshot(file.commit)
        folder.mkdir(parents=True, exist_ok=True)
        if are_symlinks_supported(self.root):
            (draft / "link").symlink_to(os.path.relpath(self._blob(file), folder))
        else:
            shutil.copyfile(self._blob(file), draft / "link")
        (draft / "link").replace(folder / file.name)

    def _blob(self, file: Published) -> Path:
        return self.folder / "blobs" / file.digest

    def _draft(self) -> tempfile.TemporaryDirectory[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self.folder, prefix=".")

    def remember(self, revision: str, commit: str) -> None:
        """Store the commit of a branch, so the branch loads without a network."""
        if revision != commit:
            with suppress(OSError):  # the cache may be read-only
                write_text(self.folder / "refs" / revision, commit)


def _matches(path: Path, digest: str) -> bool:
    return path.stat().st_size <= MAX_WEIGHTS_BYTES and digest in digests(path.read_bytes())
