"""Key-value cache for incremental transformer inference.

Axis letters: B rows, L tokens, D width, H heads, K head width, C capacity in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.arrays import under


class Cache:
    """Keys and values of the tokens fed so far, and optionally their outputs.

    Rows may hold different numbers of tokens (`lengths`). The cache is plain state outside the module, so it can be
    forked: `select` copies rows, and writing to the copy never alters the parent.

    `ahead`, if any, is a second cache of the tokens that remain when the oldest steps are dropped next time, at the
    positions that they will have then; after a `drop`, `take_ahead` puts it in place.
    """

    ahead: Cache | None = None

    def __init__(self, keys: Tensor, values: Tensor, lengths: Tensor, turns: Tensor, outputs: Tensor | None = None):
        self.keys, self.values = keys, values  # (layers, B, H, C, K)
        self.lengths = lengths  # (B,) number of cached tokens
        self.turns = turns  # (C, K / 2) complex rotation of each position, shared by all rows
        self.outputs = outputs  # (B, C, D) transformer outputs of the cached tokens, or None

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def require(self, count: int) -> None:
        """Refuse (ValueError) `count` more tokens if the longest row lacks the capacity."""
        needed = int(self.lengths.max()) + count
        if needed > self.capacity:
            raise ValueError(f"{needed} tokens do not fit a cache of {self.capacity}: make a larger cache")

    def select(self, index: Any) -> Cache:
        """Copy of the rows `index` (B',), integers in any order, repeats allowed."""
        index = self._index(index)
        outputs = None if self.outputs is None else self.outputs[index]
        rows = Cache(self.keys[:, index], self.values[:, index], self.lengths[index], self.turns, outputs)
        rows.ahead = None if self.ahead is None else self.ahead.select(index)
        return rows

    def assign(self, index: Any, rows: Cache) -> None:
        """Overwrite the rows `index` (B',) with the B' rows of another cache."""
        index = self._index(index)
        self.keys[:, index], self.values[:, index] = rows.keys, rows.values
        self.lengths = self.lengths.index_copy(0, index, rows.lengths)
        if self.outputs is not None and rows.outputs is not None:
            self.outputs[index] = rows.outputs
        if self.ahead is not None and rows.ahead is not None:
            self.ahead.assign(index, rows.ahead)

    def write(self, outputs: Tensor) -> None:
        """Store the outputs (B, L, D) of the new tokens, if the cache keeps outputs."""
        if self.outputs is not None:
            place = self.lengths[:, None] + torch.arange(outputs.shape[1], device=outputs.device)  # (B, L)
            self.outputs.scatter_(1, place[..., None].expand_as(outputs), outputs)

    def advance(self, count: Tensor) -> None:
        """Keep the first `count` (B,) tokens of the last call; the next call overwrites the others."""
        self.lengths = self.lengths + count

    def draft(self) -> Cache:
        """Cache that shares the tensors: it may append, which this one ignores because its `lengths` stay."""
        draft = Cache(self.keys, self.values, self.lengths, self.turns, self.outputs)
        draft.ahead = None if self.ahead is None else self.ahead.draft()
        return draft

    @torch.inference_mode()
    def wipe(self) -> None:
        """Zero the slots beyond each row's tokens: attention masks hide finite values there, but not NaN."""
        beyond = ~self._held()  # (B, C)
        for held in (self.keys, self.values):
            held.masked_fill_(beyond[:, None, :, None], 0)
        if self.outputs is not None:
            self.outputs.masked_fill_(beyond[..., None], 0)
        if self.ahead is not None:
            self.ahead.wipe()

    def forget(self, index: Any) -> None:
        """Empty the rows `index`; caches that share the tensors keep their rows."""
        self.lengths = self.lengths.index_fill(0, self._index(index), 0)
        if self.ahead is not None:
            self.ahead.forget(index)

    @torch.inference_mode()
    def drop(self, index: Any, keep: Any = 0) -> None:
        """Invalidate the rows `index`, also in caches that share `lengths`: the cached keys depend on position.

        Args:
            keep: number of leading tokens that stay, one or one per row of `index`.
        """
        at = self._index(index)
        self.lengths.index_copy_(0, at, self._index(keep).minimum(self.lengths[at]))
        if self.ahead is not None:
            self.ahead.drop(index)

    def take_ahead(self, index: Any, lengths: Tensor) -> None:
        """Move the first `lengths` (n,) tokens of `ahead` to the rows `index` (n,), ascending, which were dropped."""
        assert self.ahead is not None
        at, most, other = self._index(index), int(lengths.max()), self.ahead
        if len(at) == len(self.lengths):  # no copy; caches that share these tensors have dropped the rows, too
            self.keys, other.keys = other.keys, self.keys
            self.values, other.values = other.values, self.values
            self.outputs, other.outputs = other.outputs, self.outputs
        else:
            self.keys[:, at, :, :most] = other.keys[:, at, :, :most]
            self.values[:, at, :, :most] = other.values[:, at, :, :most]
            if self.outputs is not None and other.outputs is not None:
                self.outputs[at, :most] = other.outputs[at, :most]
        self.lengths = self.lengths.index_copy(0, at, lengths)

    def arrays(self) -> dict[str, np.ndarray]:
        """State as arrays: `lengths` (B,), and the entries of the cached tokens of all rows, one after the other."""
        held = self._held()
        found = {"keys": _by_token(self.keys)[held], "values": _by_token(self.values)[held]}  # (N, layers, H, K)
        if self.outputs is not None:
            found["outputs"] = self.outputs[held]  # (N, D)
        own = {name: value.cpu().numpy() for name, value in {"lengths": self.lengths, **found}.items()}
        ahead = {} if self.ahead is None else self.ahead.arrays()
        return {**own, **{f"ahead_{name}": value for name, value in ahead.items()}}

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the state of `arrays` into this empty cache; ValueError if it does not fit."""
        lengths = arrays["lengths"]
        if lengths.shape != self.lengths.shape or lengths.min() < 0 or lengths.max() > self.capacity:
            raise ValueError(
                f"cached tokens of {len(lengths)} rows, expected 0..{self.capacity} in {len(self.lengths)}"
            )
        self.lengths = torch.as_tensor(lengths, device=self.lengths.device)
        held, count = self._held(), int(lengths.sum())
        targets = {"keys": _by_token(self.keys), "values": _by_token(self.values), "outputs": self.outputs}
        for name, target in targets.items():
            if target is not None:
                if len(arrays[name]) != count:
                    raise ValueError(f"{len(arrays[name])} {name} of {count} cached tokens")
                target[held] = torch.as_tensor(arrays[name], device=target.device)
        if self.ahead is not None:
            self.ahead.fill(under("ahead_", arrays))

    def _held(self) -> Tensor:
        """(B, C) bool: slots with a cached token."""
        return torch.arange(self.capacity, device=self.lengths.device) < self.lengths[:, None]

    def _index(self, index: Any) -> Tensor:
        return torch.as_tensor(index, device=self.lengths.device)


def _by_token(entries: Tensor) -> Tensor:
    """View (B, C, layers, H, K) of keys or values (layers, B, H, C, K)."""
    return entries.permute(1, 3, 0, 2, 4)
