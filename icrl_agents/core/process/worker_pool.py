"""Worker processes, which end with the process that started them, also if that is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes; an error or Ctrl-C in the block ends their work at once."""
    # spawn: a fork would inherit the threads' locks of torch and HDF5
    context = multiprocessing.get_context("spawn")
    listening, held = context.Pipe(duplex=False)
    with ProcessPoolExecutor(processes, context, initializer=_end_with, initargs=(listening,)) as pool:
        try:
            yield pool
        except BaseException:  # GeneratorExit too
            pool.shutdown(wait=False, cancel_futures=True)
            held.close()
            raise
    held.close()


def _end_with(listening: Connection) -> None:
    """End this process with the one that holds the other end of the pipe, which the system closes then."""

    def wait() -> None:
        try:
            listening.recv_bytes()
        except EOFError:
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
