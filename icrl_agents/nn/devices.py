"""Device selection for acting, and for training with Accelerate."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import torch
from torch import Tensor

from icrl_agents.core.process.launched import is_launched, local_rank
from icrl_agents.core.process.packages import need

PINNED = 64 << 10  # bytes; CUDA itself copies up to that many without waiting
ACCELERATE_DEVICE = "ACCELERATE_TORCH_DEVICE"  # environment variable with which Accelerate selects its device


def pick_device(device: str | torch.device) -> torch.device:
    """Device by name; "auto" is CUDA if available, else MPS, else the CPU. Checkpoints never store a device.

    Raises:
        ValueError: the name is unknown or this machine has no such device.
    """
    counts = _counts()
    if isinstance(device, str) and device == "auto":
        return torch.device(next(iter(counts)))
    wanted = _parse(device)
    if wanted is None or not 0 <= (wanted.index or 0) < counts.get(wanted.type, 0):
        names = [f"{kind}:{index}" if kind == "cuda" else kind for kind, n in counts.items() for index in range(n)]
        raise ValueError(
            f"device {str(device)[:80]!r} is not on this machine: choose auto, {', '.join(names[:8])}"
            + (", ..." if len(names) > 8 else "")
        )
    return wanted if wanted.type == "cuda" else torch.device(wanted.type)


def training_device(device: str | torch.device) -> torch.device:
    """`pick_device`; under `accelerate launch` the GPU of this process."""
    found = pick_device(device)
    if found.type == "cuda" and is_launched():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return found


def _counts() -> dict[str, int]:
    """Number of devices of each available kind, in order of preference."""
    found = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    return {kind: count for kind, count in found.items() if count}


def _parse(device: object) -> torch.device | None:
    if not isinstance(device, str | torch.device):
        return None
    try:
        return torch.device(device)
    except RuntimeError:
        return None


def to_device(x: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Tensor of an array; large copies to a GPU come from pinned memory, so that nothing waits for them."""
    if device.type != "cuda":
        return torch.as_tensor(x, dtype=dtype, device=device)
    value = torch.as_tensor(x)
    if value.nbytes > PINNED:
        value = value.pin_memory()
    return value.to(device, non_blocking=True).to(dtype or value.dtype)


FAILED = Event()  # whether a training of this launched process has failed


@contextmanager
def accelerate_on(device: torch.device) -> Iterator[None]:
    """Give Accelerate fresh global state in the block, on `device` instead of the first GPU; restore it afterwards.

    Under `accelerate launch` every process keeps the device that the launcher gives it, and its connection to the
    other processes until it ends: one block may follow another. After a block that fails they may wait for this process
    until it ends, so that a further block is refused (ConnectionError).
    """
    states = need("accelerate", "train").state
    theirs = states.is_initialized()  # the connection, too, is of the caller's `Accelerator`
    kept = [states.AcceleratorState, states.GradientState]
    if is_launched():
        with _anew(*kept), _connected(theirs):
            yield
    else:
        with _anew(*kept, states.PartialState), _selected(device):
            yield


@contextmanager
def _anew(*states: Any) -> Iterator[None]:
    """Clear the state that all `Accelerator`s of a process share, which the first one fixes; restore it afterwards."""
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        yield
    finally:
        for state, values in zip(states, before, strict=True):
            state._shared_state.clear()  # in place: every `Accelerator` holds this dict
            state._shared_state.update(values)


@contextmanager
def _selected(device: torch.device) -> Iterator[None]:
    before = os.environ.get(ACCELERATE_DEVICE)
    os.environ[ACCELERATE_DEVICE] = str(device)
    try:
        yield
    finally:
        os.environ.pop(ACCELERATE_DEVICE, None)
        if before is not None:
            os.environ[ACCELERATE_DEVICE] = before


@contextmanager
def _connected(theirs: bool) -> Iterator[None]:
    """`accelerate_on` in a launched process, whose connection to the others is that of its caller or our own."""
    # Its functions keep the process group that exists when it is imported, as default arguments, and DDP imports it
    # late: the threads of that group would run on while Python ends, and may abort the process.
    import torch.distributed.nn

    if not theirs and FAILED.is_set():
        raise ConnectionError("a training failed here, and other processes may wait in it: start the script again")
    if not torch.distributed.is_initialized():
        atexit.register(_leave_group)
    try:
        yield
    except BaseException:
        if not theirs:
            FAILED.set()
        raise


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
