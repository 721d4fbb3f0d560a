"""Whether the weights of a module were replaced, which invalidates what was derived from them."""

from __future__ import annotations

from operator import is_
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn


class Stamp(NamedTuple):
    """Detects whether tensors of a module were replaced, which invalidates values derived from its weights.

    It holds identities, addresses and dtypes of all tensors of a module; in-place edits leave it valid.

    `holds` runs at every acting step, so it walks over flat lists: a few microseconds, where a walk over the module
    takes about a hundred. The first three lists go together: `tables[i][names[i]]` was `values[i]`.
    """

    tables: list[dict[str, Any]]  # the dict of a module's children, parameters or buffers that has the name
    names: list[str]
    values: list[Any]  # children, parameters and buffers
    tensors: list[Tensor]
    addresses: list[int]
    dtypes: list[torch.dtype]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """The stamp of a module as it is now."""
        parts = list(module.modules())
        held: list[dict[str, Any]] = [
            table for part in parts for table in (part._modules, part._parameters, part._buffers)
        ]
        tables = [table for table in held for _ in table]
        names = [name for table in held for name in table]
        values: list[Any] = [value for table in held for value in table.values()]
        tensors = [value for value in values if isinstance(value, Tensor)]
        addresses, dtypes = [tensor.data_ptr() for tensor in tensors], [tensor.dtype for tensor in tensors]
        return cls(tables, names, values, tensors, addresses, dtypes)

    def holds(self) -> bool:
        """Whether every child, parameter and buffer is still the same object, at its address, of its dtype."""
        if not all(map(is_, map(dict.get, self.tables, self.names), self.values)):
            return False
        return [t.data_ptr() for t in self.tensors] == self.addresses and [t.dtype for t in self.tensors] == self.dtypes
