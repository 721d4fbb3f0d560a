"""The cache that lets a transformer be fed step by step.

Axis letters: B rows, L tokens, D width, H heads, K head width, C capacity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Cache:
    """Keys and values of the tokens that each row has already been fed, and where asked for what became of them.

    Rows may hold different numbers of tokens (`lengths`). The cache is plain state outside the module, so
    it can be forked: `select` copies rows, and writing to the copy never alters the parent.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: Tensor, turns: Tensor, outputs: Tensor | None = None):
        self.keys, self.values = keys, values  # (layers, B, H, C, K)
        self.lengths = lengths  # (B,) tokens held by each row
        self.turns = turns  # (C, K / 2) the rotation of each place, the same for all rows
        self.outputs = outputs  # (B, C, D) what the transformer made of the tokens, where that is read again

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def require(self, count: int) -> None:
        """Refuse `count` more tokens when the longest row has no room for them."""
        needed = int(self.lengths.max()) + count
        if needed > self.capacity:
            raise ValueError(f"{needed} tokens do not fit a cache of {self.capacity}: make a larger cache")

    def select(self, index: Any) -> Cache:
        """Copy the rows `index` (B',) of integers, in any order, repeats allowed."""
        index = self._index(index)
        outputs = None if self.outputs is None else self.outputs[index]
        return Cache(self.keys[:, index], self.values[:, index], self.lengths[index], self.turns, outputs)

    def assign(self, index: Any, rows: Cache) -> None:
        """Overwrite the rows `index` with `rows`."""
        index = self._index(index)
        self.keys[:, index], self.values[:, index] = rows.keys, rows.values
        self.lengths = self.lengths.index_copy(0, index, rows.lengths)
        if self.outputs is not None and rows.outputs is not None:
            self.outputs[index] = rows.outputs

    def write(self, outputs: Tensor) -> None:
        """Store what became of the new tokens (B, L, D), if that is kept."""
        if self.outputs is not None:
            place = self.lengths[:, None] + torch.arange(outputs.shape[1], device=outputs.device)  # (B, L)
            self.outputs.scatter_(1, place[..., None].expand_as(outputs), outputs)

    def advance(self, count: Tensor) -> None:
        """Keep the first `count` (B,) tokens of the last call; what lies beyond is overwritten by the next."""
        self.lengths = self.lengths + count

    def draft(self) -> Cache:
        """A cache that shares what is held: it may append, which this one does not see, as its `lengths` stay."""
        return Cache(self.keys, self.values, self.lengths, self.turns, self.outputs)

    @torch.inference_mode()
    def wipe(self) -> None:
        """Zero what lies beyond each row's tokens: masks hide it, but not NaN."""
        beyond = torch.arange(self.capacity, device=self.lengths.device) >= self.lengths[:, None]  # (B, C)
        for held in (self.keys, self.values):
            held.masked_fill_(beyond[:, None, :, None], 0)
        if self.outputs is not None:
            self.outputs.masked_fill_(beyond[..., None], 0)

    def forget(self, index: Any) -> None:
        """Forget the rows `index`; caches that share what is held keep theirs."""
        self.lengths = self.lengths.index_fill(0, self._index(index), 0)

    @torch.inference_mode()
    def drop(self, index: Any) -> None:
        """The rows `index` begin elsewhere, and a token's place is part of what was cached: it is void for all."""
        self.lengths.index_fill_(0, self._index(index), 0)

    def _index(self, index: Any) -> Tensor:
        return torch.as_tensor(index, device=self.lengths.device)
