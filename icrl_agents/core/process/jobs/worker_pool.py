"""Pool of worker processes that exit with their parent, even if the parent is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

from icrl_agents.core.families import Registration, restore


@contextmanager
def worker_pool(processes: int, families: Sequence[Registration] = ()) -> Iterator[ProcessPoolExecutor]:
    """Pool of worker processes; an error or Ctrl-C in the block cancels their work at once.

    Args:
        processes: number of processes.
        families: families that the workers register, see `sendable`; those of the package they know.
    """
    # spawn, not fork: a forked child inherits locks held by threads of torch and HDF5
    context = multiprocessing.get_context("spawn")
    listening, held = context.Pipe(duplex=False)
    with ProcessPoolExecutor(processes, context, _begin, (listening, families)) as pool:
        try:
            yield pool
        except BaseException:  # includes KeyboardInterrupt and GeneratorExit
            pool.shutdown(wait=False, cancel_futures=True)
            held.close()
            raise
    held.close()


def _begin(listening: Connection, families: Sequence[Registration]) -> None:
    """Start of a worker."""
    _end_with(listening)
    restore(families)


def _end_with(listening: Connection) -> None:
    """Exit with the parent process: the system closes its end of the pipe, which ends the blocking read."""

    def wait() -> None:
        try:
            listening.recv_bytes()
        except EOFError:
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
