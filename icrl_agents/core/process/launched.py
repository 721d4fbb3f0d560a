"""The processes of one training, as `accelerate launch` and `torchrun` start them and describe them to each other."""

from __future__ import annotations

import os
import time

FIRST_REPORTS = 10.0  # seconds; a launcher ends all processes as soon as the first one has left


def is_launched() -> bool:
    return int(os.environ.get("LOCAL_RANK", -1)) != -1


def launched() -> int:
    """Number of processes that a launcher has started, on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else 1


def refuse_launched(what: str) -> None:
    """Refuse (ValueError) several processes for what is no training: each would do all of it, and write it."""
    if (count := launched()) > 1:
        raise ValueError(f"{what} is the work of one process, and {count} were launched: start it without a launcher")


def local_rank() -> int:
    """Number of this process on its machine, from 0; 0 without a launcher."""
    return max(0, int(os.environ.get("LOCAL_RANK", 0)))


def is_first() -> bool:
    """Whether this process writes and prints for all: the first of all machines, or one without a launcher."""
    return int(os.environ.get("RANK", 0)) <= 0


def await_first() -> None:
    """Give the first process time to report an error that all processes have found; then the launcher ends this one.

    It returns if the first process goes on, because the error is of this process only.
    """
    if not is_first():
        time.sleep(FIRST_REPORTS)
