"""Ctrl-C and SIGTERM: trainings save their state before they stop; error messages say how to resume a command."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PASSED_ON = 1.0  # seconds within which a launcher forwards a signal that its processes already got from the terminal


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message that says how to resume."""

    code = 128 + signal.SIGINT  # exit status as a shell reports it


class Terminated(SystemExit):
    """SIGTERM, with a message that says how to resume."""

    def __init__(self, line: str = "terminated"):
        super().__init__(line)
        self.code = 128 + signal.SIGTERM


@contextmanager
def continuing(advice: Callable[[], str]) -> Iterator[None]:
    """Append the text of `advice` (may be empty) to the signal or OSError that ends the block."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as end:
        kind, word = (Terminated, "terminated") if isinstance(end, Terminated) else (Interrupted, "interrupted")
        raise kind("; ".join(filter(None, (word, advice())))) from None
    except OSError as error:
        if error.errno is None or not advice():
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}; {advice()}", error.filename) from None


class Stop:
    """Signal handler that records a stop request; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.asked = 0  # number of the first signal, 0: none
        self._when = 0.0  # its time, monotonic seconds

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
    """Record SIGINT and SIGTERM in a `Stop` instead of ending the process; handlers of the caller stay in place."""
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
    """Delay Ctrl-C to the end of the block: C libraries crash on an exception raised inside their callbacks."""
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


@contextmanager
def same_handler(number: signal.Signals) -> Iterator[None]:
    """Put the handler of a signal back at the end of the block, in which a library may install its own."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if _in_main() and before is not None:
            signal.signal(number, before)


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()
