"""Exclusive lock on a folder: one process at a time."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from icrl_agents.core.files.atomic import naming

LOCK, OWNER = ".lock", ".owner"
OURS = {LOCK, OWNER}  # names that do not count as content of the folder
PATIENCE = 5.0  # seconds to wait for the owner file, which is written right after the lock is acquired


class FolderLock:
    """Lock on a folder, created if missing; the operating system releases the lock of a process that dies.

    Args:
        doing: activity named in the error message, such as "collecting to".

    Raises:
        NotADirectoryError: `folder` is a file.
        BlockingIOError: the folder is locked already, by another process or by this one.
    """

    def __init__(self, folder: Path, doing: str):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: name a folder")
        self.folder = folder
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with naming(folder / LOCK):
                self._lock.acquire()
        except Timeout:
            owner = f"process {self._owner()} is {doing} {folder}"
            raise BlockingIOError(f"{owner}: wait, or choose another path") from None
        except BaseException:
            self._clean()
            raise
        with suppress(OSError):  # the owner file only serves the error message; a full disk may refuse it
            (folder / OWNER).write_text(str(os.getpid()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock; delete the lock files, and the folders that were created for the lock and are empty."""
        with suppress(OSError):
            (self.folder / OWNER).unlink(missing_ok=True)
        removed = self._remove()
        self._lock.release()
        if not removed:  # Windows cannot delete an open file
            self._remove()
        self._clean()

    def _remove(self) -> bool:
        try:
            (self.folder / LOCK).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _clean(self) -> None:
        for place in self._made:
            with suppress(OSError):  # not empty
                place.rmdir()

    def _owner(self) -> str:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(OSError):
                if owner := (self.folder / OWNER).read_text()[:20]:
                    return owner
            time.sleep(0.02)
        return "unknown"
