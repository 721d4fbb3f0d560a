"""What the processes of one training agree on: each finds a value of its own, and all go on with the same one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icrl_agents.core.printable import printable
from icrl_agents.core.process.interrupts import Stop
from icrl_agents.core.process.launched import FIRST_REPORTS, is_launched, launched
from icrl_agents.core.process.memory import memory_limit
from icrl_agents.methods.base.config import ModelConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_number(accelerator: Accelerator, batch_size: int, config: ModelConfig) -> None:
    """Refuse (ValueError) more processes than there are windows in a batch, or several that do not train as one."""
    count = accelerator.num_processes
    if count != launched():  # each would be the first one, and write what the others write
        raise ValueError(
            f"{launched()} processes were launched, and Accelerate connects {count} on {accelerator.device.type}: "
            "several train on CPUs (device='cpu') or CUDA GPUs, and on CPUs a script's own Accelerator() needs cpu=True"
        )
    if count > 1 and config.one_process:
        raise ValueError(f"{count} processes, and {config.one_process}: train it with one")
    if batch_size < count:
        raise ValueError(f"batch_size={batch_size} is less than the {count} processes: raise it")


@contextmanager
def missing_others() -> Iterator[None]:
    """ConnectionError for the end of another process, whose own message says why it ended.

    It comes late, so that the launcher, which sees that end, too, can end this process without a further message.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_launched() or not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        time.sleep(2 * FIRST_REPORTS)  # within half of that the other one reports
        raise ConnectionError("another process of this training has ended: its own message says why") from None


def agreed_signal(accelerator: Accelerator, stop: Stop) -> int:
    """The stop signal that any process has received, 0 for none; all processes stop after the same update."""
    if accelerator.num_processes > 1:
        asked = accelerator.reduce(torch.tensor(float(stop.asked > 0), device=accelerator.device), "sum")
        stop.asked = stop.asked or (signal.SIGTERM if asked.item() else 0)
    return stop.asked


def agreed_start(accelerator: Accelerator, start: int, out: Path) -> int:
    """The number of updates of the checkpoint that all processes have found; ValueError if they differ."""
    found = accelerator.gather(torch.tensor([start], device=accelerator.device)).tolist()
    if len(set(found)) > 1:
        raise ValueError(
            f"processes found checkpoints of updates {found[:8]} in {printable(out, 160)}: put the run folder on a "
            "file system that all machines see"
        )
    return start


def agreed_memory(accelerator: Accelerator) -> float:
    """Memory in bytes that each process may use, the same number in all of them, as batches depend on it."""
    here = min(memory_limit() / int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 2.0**53)
    return float(accelerator.gather(torch.tensor([here], dtype=torch.float32, device=accelerator.device)).min())
