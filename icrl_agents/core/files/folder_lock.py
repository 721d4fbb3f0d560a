"""A folder that one process at a time works in."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from icrl_agents.core.files.atomic import naming

LOCK, OWNER = ".lock", ".owner"
OURS = {LOCK, OWNER}  # no content of the folder
PATIENCE = 5.0  # seconds to wait for the process id of an owner that has just locked the folder


class FolderLock:
    """Locks a folder, which is made if it is not there; the operating system frees the lock of a process that dies.

    Args:
        doing: what is done there, for the message: "collecting to".

    Raises:
        NotADirectoryError: it is a file.
        BlockingIOError: another process, or this one, has locked it.
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
        with suppress(OSError):  # it is locked, even if a full disk does not take a name
            (folder / OWNER).write_text(str(os.getpid()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Free the folder and leave no trace in it: what was made for the lock and stayed empty is deleted."""
        with suppress(OSError):
            (self.folder / OWNER).unlink(missing_ok=True)
        removed = self._remove()
        self._lock.release()
        if not removed:  # Windows deletes no open file
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
            with suppress(OSError):  # something is in there
                place.rmdir()

    def _owner(self) -> str:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(OSError):
                if owner := (self.folder / OWNER).read_text()[:20]:
                    return owner
            time.sleep(0.02)
        return "unknown"
