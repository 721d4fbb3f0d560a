"""Whether the weights of a module were replaced, which invalidates what was derived from them."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn


class Stamp(NamedTuple):
    """Detects whether tensors of a module were replaced, which invalidates values derived from its weights.

    It holds identities, addresses and dtypes of all tensors of a module; in-place edits leave it valid.

    `holds` takes a few microseconds, a walk over the module about a hundred.
    """

    entries: list[tuple[dict[str, Any], str, Any]]  # (table of children or tensors of a module, name, object)
    places: list[tuple[Tensor, int, torch.dtype]]  # (tensor, address, dtype)

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        tables = [t for part in module.modules() for t in (part._modules, part._parameters, part._buffers)]
        entries = [(table, name, value) for table in tables for name, value in table.items()]
        tensors = [value for _, _, value in entries if isinstance(value, Tensor)]
        return cls(entries, [(tensor, tensor.data_ptr(), tensor.dtype) for tensor in tensors])

    def holds(self) -> bool:
        return all(table.get(name) is value for table, name, value in self.entries) and all(
            tensor.data_ptr() == address and tensor.dtype == dtype for tensor, address, dtype in self.places
        )
