"""Ctrl-C and SIGTERM: a training saves its state first, and commands that can be continued say how."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PASSED_ON = 1.0  # seconds in which a launcher passes on to its processes a signal that its terminal sent them too


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says how to go on."""

    code = 128 + signal.SIGINT  # a shell's for a process that the signal ended


class Terminated(SystemExit):
    """SIGTERM, likewise."""

    def __init__(self, line: str = "terminated"):
        super().__init__(line)
        self.code = 128 + signal.SIGTERM


@contextmanager
def continuing(how: Callable[[], str]) -> Iterator[None]:
    """Add `how()` to go on to the message of the signal or the system's error that ends the block; "" adds nothing."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as end:
        kind, word = (Terminated, "terminated") if isinstance(end, Terminated) else (Interrupted, "interrupted")
        raise kind("; ".join(filter(None, (word, how())))) from None
    except OSError as error:
        if error.errno is None or not how():
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}; {how()}", error.filename) from None


class Stop:
    """Whether the process was asked to stop; asked again, it leaves at once."""

    def __init__(self) -> None:
        self.asked = 0  # the signal
        self._when = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        passed_on = "WORLD_SIZE" in os.environ and time.monotonic() < self._when + PASSED_ON
        if self.asked and not passed_on:
            self.leave()
        if not self.asked:
            self.asked, self._when = number, time.monotonic()

    def leave(self) -> None:
        raise Terminated if self.asked == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def stopping() -> Iterator[Stop]:
    """Signals that would end the process are kept for it to look at; a caller's own handlers stay."""
    stop = Stop()
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    mine = [number for number, handler in usual.items() if _in_main() and signal.getsignal(number) is handler]
    for number in mine:
        signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number in mine:
            signal.signal(number, usual[number])


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C waits until the block is done: for C libraries that call back and do not survive an exception there."""
    before, came = signal.getsignal(signal.SIGINT), list[int]()
    if not _in_main() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()
