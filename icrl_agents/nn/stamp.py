"""Identity of the weights of a module: whether tensors were replaced since, and a digest of their values."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, Self

import numpy as np
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


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the names, dtypes, shapes and values of a module's weights and buffers."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()
