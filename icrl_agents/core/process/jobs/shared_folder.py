"""A folder that all machines of a cluster have: jobs whose results are files check it before they write."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple


class SharedFolder(NamedTuple):
    """A folder, and a file in it that the machine which gives the jobs has written."""

    mark: Path

    def check(self) -> None:
        """Refuse (FileNotFoundError) a folder of the same name that is another one, or none."""
        if not self.mark.is_file():
            raise FileNotFoundError(
                f"the machine {socket.gethostname()} does not have the folder {self.mark.parent} of the command: put "
                "it on a file system that all machines share"
            )


@contextmanager
def shared(folder: Path) -> Iterator[SharedFolder]:
    """The folder, made if it is missing, with a mark in it for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=".shared-") as mark:
        yield SharedFolder(Path(mark.name))
