"""Modules with a lower precision, or compiled code, in training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Lowered(nn.Module):
    """Module whose training may be faster than that of plain PyTorch; acting is not changed.

    Its outputs are float32 whatever the precision, so that embeddings, heads, log-probabilities and losses are, too.
    """

    precision: torch.dtype | None = None  # of matrix products and attention in training; None: float32
    compiled: Callable[..., Tensor] | None = None  # compiled form of the module for whole windows in training

    def __getstate__(self) -> dict[str, Any]:
        """State without compiled code, which copies cannot share."""
        return {**vars(self), "compiled": None}

    def products(self, x: Tensor) -> AbstractContextManager[Any]:
        """Context of the products with inputs such as `x`; weights stay float32."""
        lower = self.training and self.precision is not None
        return torch.autocast(x.device.type, self.precision) if lower else nullcontext()


def set_precision(module: nn.Module, precision: str) -> None:
    """Train all `Lowered` parts of a module in "bf16", "fp16" or "no" lower precision."""
    for part in module.modules():
        if isinstance(part, Lowered):
            part.precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
