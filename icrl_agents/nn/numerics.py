"""Float32 computation regardless of the process's default dtype, default device, autocast and inference mode.

Agents are built and trained under PyTorch's initial settings (`own_settings`). `acting` turns off autocast and the
default device but keeps the default dtype, which threads share: code that acts gives new tensors an explicit dtype.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from icrl_agents.nn.stamp import Stamp


class _DefaultDtype:
    """Reference-counted override of the process's default dtype: float32 while any thread needs it."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = Lock(), 0, torch.float32  # users: nested and concurrent blocks

    @contextmanager
    def float32(self) -> Iterator[None]:
        with self.lock:
            if not self.users:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    torch.set_default_dtype(self.before)


_default_dtype = _DefaultDtype()


class BuiltInFloat32(ABCMeta):
    """Metaclass of modules that are built with float32 weights, regardless of the default dtype."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        with _default_dtype.float32():
            return super().__call__(*args, **kwargs)


@contextmanager
def own_settings() -> Iterator[None]:
    """PyTorch's initial settings inside the block: float32, CPU, no autocast, gradients enabled."""
    with _default_dtype.float32(), torch.inference_mode(False), _undisturbed():
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """CPU threads of PyTorch inside the block; 0: as many as before."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No autocast and no default device inside the block; free where neither is set."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def acting(module: Any) -> Iterator[None]:
    """Inference mode with a module whose weights are checked to be float32, see `check_float32`."""
    check_float32(module)
    with torch.inference_mode(), _undisturbed():
        yield


@contextmanager
def computed_like(hidden: torch.Tensor) -> Iterator[None]:
    """For a network that runs on `hidden` later, maybe outside `acting`: gradients only if `hidden` has any."""
    with _undisturbed(), torch.set_grad_enabled(torch.is_grad_enabled() and hidden.requires_grad):
        yield


def check_float32(module: Any) -> None:
    """Refuse converted weights: codecs, caches and checkpoints are float32.

    Raises:
        ValueError: a weight has another floating-point dtype, or is on the meta device.
    """
    if module.stamp is not None and module.stamp.holds():  # checked before, unchanged since
        return
    for name, tensor in _tensors(module):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"this agent's weights are {kind} ({name}): call agent.float() first")
        if tensor.is_meta:
            raise ValueError(f"this agent's weights are on the meta device ({name}), without values: load it again")
    module.stamp = Stamp.of(module)


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


MIN_SPREAD = 1e-6  # relative std below which an entry counts as constant: float32 rounding is about as large


def mean_and_std(data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std over the first axis, in float64; the std of a constant entry is 1."""
    data = data.double()  # sums over many steps lose digits in float32
    mean, std = data.mean(0), data.std(0, correction=0)
    return mean, std.masked_fill(std < MIN_SPREAD * mean.abs().clamp_min(1), 1)
