"""Atomic file writing: a killed process or a full disk leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

STAGED = re.compile(r"\..+\.\d+-\d+\.tmp")  # names of files that `write_files` has not renamed yet
STALE = 3600.0  # age in seconds at which such a file is of a killed process; a running one may be on another machine


def put(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write all of `content` to an unbuffered file; every write of this package goes through this function."""
    left = memoryview(content)
    while left:  # a disk that runs full accepts a part of the bytes before it fails
        left = left[file.write(left) :]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files of a folder together (name -> content): all are on the disk before the first one is renamed.

    The last file describes the others, as a card does. It is deleted before they are renamed: a process that is killed
    meanwhile leaves no description, instead of a wrong one. Temporary files of processes killed long ago are deleted.

    Raises:
        IsADirectoryError: a target is a folder.
        OSError: a system error, such as a full disk or a file that is held open; the old files are unchanged.
    """
    staged = {folder / name: folder / f".{name}.{os.getpid()}-{threading.get_ident()}.tmp" for name in contents}
    try:
        for (target, temporary), content in zip(staged.items(), contents.values(), strict=True):
            if target.is_dir():
                raise IsADirectoryError(f"{target} is a folder: move it away")
            with naming(target):
                _write(temporary, content)
        if len(staged) == 1:
            temporary.replace(target)
        else:
            _rename_together(staged)
    finally:
        for temporary in staged.values():
            with suppress(OSError):  # the original error is the one to report
                temporary.unlink(missing_ok=True)
    drop_leftovers(folder, STALE)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        put(file, content)
        os.fsync(file.fileno())


def _rename_together(staged: Mapping[Path, Path]) -> None:
    """Rename temporary files (target -> file), see `write_files`; where that fails, the old files are put back."""
    last = list(staged)[-1]
    before = {target: target.read_bytes() for target in staged if target.exists()}
    try:
        last.unlink(missing_ok=True)
        for target, temporary in staged.items():
            temporary.replace(target)
    except BaseException:
        for target, temporary in staged.items():
            if target not in before:
                target.unlink(missing_ok=True)
            elif not (target.exists() and temporary.exists()):  # it was replaced or deleted
                _write(temporary, before[target])
                temporary.replace(target)
        raise


def drop_leftovers(folder: Path, age: float = 0.0) -> None:
    """Delete the temporary files of killed `write_files` that were last written `age` seconds ago or before.

    With `age` 0 the caller holds the lock of the folder, so that no process is writing them.
    """
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # deleted by another process, or not ours to delete
            if STAGED.fullmatch(path.name) and path.stat().st_mtime <= time.time() - age:
                path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Replace one file atomically, creating its folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files(path.parent, {path.name: text.encode()})


def append_line(path: Path, line: str) -> None:
    """Append a line; not atomic: a killed process or a full disk may leave a part of it."""
    with naming(path), path.open("ab", buffering=0) as file:
        put(file, f"{line}\n".encode())


def settle(temporary: Path, path: Path) -> None:
    """Rename a synced file to `path`, and sync the folder so that the rename survives a power failure."""
    temporary.replace(path)
    if os.name == "posix":  # Windows cannot open folders
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            with naming(path):
                os.fsync(handle)
        finally:
            os.close(handle)
