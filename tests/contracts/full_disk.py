"""A disk that is full after so many bytes: what the package writes goes through one function, which fails here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from icrl_agents.core.files import atomic


class Disk:
    """Counts what was written, and refuses it when `room` bytes are used up."""

    def __init__(self, room: float) -> None:
        self.room, self.written, self.refused = room, 0, 0
        self._put = atomic.put

    def put(self, file: Any, content: Any) -> None:
        fits = int(min(len(content), max(0, self.room - self.written)))
        self.written += fits
        self._put(file, memoryview(content)[:fits])  # a part is written, as on a real disk
        if fits < len(content):
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def disk(room: float = float("inf")) -> Iterator[Disk]:
    """All files of the package are written to a disk of this size; without one the bytes are counted."""
    found = Disk(room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "put", found.put)
        yield found
