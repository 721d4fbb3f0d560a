"""HDF5 files that may be unreadable and disks that may be full: one error each, and no crash of the C library."""

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
HELD = "already open for write"
MARKED = "another program writes it: wait until it is closed; after a crash of that program run h5clear -s"
OF_DAMAGE = (None, errno.EINVAL)  # what HDF5 says of addresses that make no sense


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Make one ValueError of all that h5py says of damage; an OSError of the system stays one and says what to do."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if HELD in str(error):  # HDF5's own mark, where files are not locked
            raise BlockingIOError(errno.EAGAIN, f"{os.strerror(errno.EAGAIN)}; {MARKED}", str(path)) from None
        if number not in OF_DAMAGE:
            advice = f"; {ADVICE[number]}" if number in ADVICE else ""
            raise OSError(number, os.strerror(number) + advice, str(path)) from None
        why = printable(error, 200)
        raise ValueError(f"{path}: {what} is damaged, or of another program ({why}): collect it again") from None


@contextmanager
def writing(path: Path, temporary: Path, *, change: bool = False) -> Iterator[h5py.File]:
    """A new file, or a copy of `path` to `change`, that takes this name when it is complete and on the disk.

    Args:
        temporary: its name until then.

    Raises:
        OSError: of the system, such as a full disk; `path` is as it was, `temporary` is gone.
    """
    mode, libver = "r+" if change else "w", "v110"  # the oldest format with checksums everywhere
    try:
        if change:
            shutil.copyfile(path, temporary)
        with atomic.naming(path), _sink(temporary, mode) as sink, h5py.File(sink, mode, libver=libver) as file:
            yield file
        atomic.settle(temporary, path)
    finally:
        with suppress(OSError):  # the error before this one is the one to report
            temporary.unlink(missing_ok=True)


@contextmanager
def _sink(path: Path, mode: str) -> Iterator[_Sink]:
    """Where HDF5 writes to, whose first error is raised when HDF5 is done; then all is on the disk."""
    with interrupts.unbroken(), io.FileIO(path, {"w": "w+", "r+": "r+"}[mode]) as file:
        sink = _Sink(file)
        try:
            yield sink
        finally:
            if sink.error:
                raise sink.error from None
        os.fsync(file.fileno())


class _Sink(io.RawIOBase):
    """A file that never fails: HDF5 crashes the process if one cannot be written and closed.

    What is written after the first error is dropped. HDF5 does not read it again: it holds what is new in memory.
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
