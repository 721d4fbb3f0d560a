"""Robust HDF5 access: one clear error for damaged files and for system errors, and no crash of the C library."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from icrl_agents.core.files import atomic
from icrl_agents.core.printable import printable
from icrl_agents.core.process import interrupts

ADVICE = {
    errno.EAGAIN: "another program has it open: close it, or set HDF5_USE_FILE_LOCKING=FALSE",
    errno.ENOLCK: "its file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE",
    errno.EMFILE: "close some, or raise the limit with ulimit -n",
    errno.ENFILE: "close some programs",
    errno.EACCES: "give yourself the right to read it",
    errno.EPERM: "give yourself the right to read it",
    errno.EISDIR: "name a file in it",
    errno.EIO: "the disk or the network fails, the file may be whole: try again",
}
HELD = "already open for write"  # part of HDF5's message
MARKED = "another program writes it: wait until it is closed; after a crash of that program run h5clear -s"
OF_DAMAGE = (None, errno.EINVAL)  # error numbers of damaged files; HDF5 reports EINVAL for invalid addresses


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Map h5py errors on damaged files to one ValueError, and system errors to an OSError with advice.

    Args:
        path: file named in the error.
        what: damaged part named in the error, such as "its header".
    """
    try:
        yield
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if HELD in str(error):  # a flag in the file, on systems without file locks
            raise BlockingIOError(errno.EAGAIN, f"{os.strerror(errno.EAGAIN)}; {MARKED}", str(path)) from None
        if number not in OF_DAMAGE:
            advice = f"; {ADVICE[number]}" if number in ADVICE else ""
            raise OSError(number, os.strerror(number) + advice, str(path)) from None
        why = printable(error, 200)
        raise ValueError(f"{path}: {what} is damaged, or of another program ({why}): collect it again") from None


@contextmanager
def writing(path: Path, temporary: Path, *, change: bool = False) -> Iterator[h5py.File]:
    """Write a new file, or change a copy of `path`, and rename it to `path` once it is complete and on the disk.

    Args:
        temporary: name of the file until then.
        change: start from a copy of `path` instead of an empty file.

    Raises:
        OSError: a system error, such as a full disk; `path` is unchanged, `temporary` is deleted.
    """
    mode, libver = "r+" if change else "w", "v110"  # the oldest format with checksums of all metadata
    try:
        if change:
            shutil.copyfile(path, temporary)
        with atomic.naming(path), _sink(temporary, mode) as sink, h5py.File(sink, mode, libver=libver) as file:
            yield file
        atomic.settle(temporary, path)
    finally:
        with suppress(OSError):  # the original error is the one to report
            temporary.unlink(missing_ok=True)


@contextmanager
def _sink(path: Path, mode: str) -> Iterator[_Sink]:
    """File object for HDF5; its first write error is raised after HDF5 has closed, else the file is synced."""
    with interrupts.unbroken(), io.FileIO(path, {"w": "w+", "r+": "r+"}[mode]) as file:
        sink = _Sink(file)
        try:
            yield sink
        finally:
            if sink.error:
                raise sink.error from None
        os.fsync(file.fileno())


class _Sink(io.RawIOBase):
    """File object whose writes never fail: HDF5 crashes the process if a file cannot be written and closed.

    Writes after the first error are dropped. HDF5 does not read them back: new data stays in its memory.
    """

    def __init__(self, file: io.FileIO):
        self._file = file
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def write(self, content: Any) -> int:
        self._attempt(atomic.put, self._file, content)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        self._attempt(self._file.truncate, size)
        return size or 0

    def _attempt(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            if self.error is None:
                call(*args)
        except OSError as error:
            self.error = error
