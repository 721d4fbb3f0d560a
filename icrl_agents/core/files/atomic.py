"""Files that appear whole or not at all, whenever the process is killed and wherever the disk is full."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def put(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write all of `content` to a file without a buffer; every byte of a file of ours goes through here."""
    left = memoryview(content)
    while left:  # a disk that fills up takes a part first
        left = left[file.write(left) :]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system that names no file is about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace all of these files of a folder at once; one that fails or is killed leaves the old ones whole."""
    staged = {folder / name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        for (target, temporary), content in zip(staged.items(), contents.values(), strict=True):
            if target.is_dir():
                raise IsADirectoryError(f"{target} is a folder: move it away")
            with naming(target), temporary.open("wb", buffering=0) as file:
                put(file, content)
                os.fsync(file.fileno())
        for target, temporary in staged.items():
            temporary.replace(target)
    finally:
        for temporary in staged.values():
            with suppress(OSError):  # the error before this one is the one to report
                temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace one file; its folder is made if it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files(path.parent, {path.name: text.encode()})


def append_line(path: Path, line: str) -> None:
    """Add a line; a process that is killed or a full disk may leave a part of it."""
    with naming(path), path.open("ab", buffering=0) as file:
        put(file, f"{line}\n".encode())


def settle(temporary: Path, path: Path) -> None:
    """Bring a file that is on the disk under its name, and the name to the disk."""
    temporary.replace(path)
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            with naming(path):
                os.fsync(handle)
        finally:
            os.close(handle)
