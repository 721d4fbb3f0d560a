"""Fork: branches that continue a cached sequence for planning; they share the cached prefix instead of copying it.

Axis letters: B rows, W branches of a row, V branches after `grow`, H heads, K head width, N cached tokens, L tokens of
a branch beyond the prefix, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icrl_agents.nn.cache import Cache
from icrl_agents.nn.transformer import Transformer, rotate, rotations


class Fork:
    """W branches that continue every row of a cache, each with L tokens of its own. The cache is read-only."""

    def __init__(self, cache: Cache, keys: Tensor, values: Tensor):
        self.cache = cache
        self.keys, self.values = keys, values  # (layers, B, H, W, L, K)

    @classmethod
    def of(cls, cache: Cache) -> Fork:
        """Fork with one empty branch (W = 1, L = 0) per row."""
        layers, rows, heads, _, width = cache.keys.shape
        empty = cache.keys.new_zeros(layers, rows, heads, 1, 0, width)
        return cls(cache, empty, empty)

    def grow(self, body: Transformer, parent: Tensor, x: Tensor) -> tuple[Fork, Tensor]:
        """Fork with V branches: the branches `parent` (B, V), each extended by a token of `x` (B, V, D).

        Returns:
            The new fork; this one is unchanged.
            Outputs (B, V, D) of `body` at the tokens.
        """
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        own = (y.permute(1, 3, 0, 2, 4, 5)[rows, parent].permute(2, 0, 3, 1, 4, 5) for y in (self.keys, self.values))
        branches = _Branches(Fork(self.cache, *own))
        out = body.run(x, branches)
        return branches.grown(), out


class _Branches:
    """`Spot` of new tokens, each at the position after the last token of its branch."""

    def __init__(self, fork: Fork):
        self.fork = fork
        self.new: tuple[list[Tensor], list[Tensor]] = [], []  # keys and values (B, H, W, K) of the tokens, by layer
        lengths, own = fork.cache.lengths, fork.keys.shape[4]
        self.end = int(lengths.max())
        turns = rotations(self.end + own + 1, 2 * fork.cache.turns.shape[1], lengths.device)
        self.turns = turns[lengths + own][:, None, None]  # (B, 1, 1, K / 2)
        beyond = torch.arange(self.end, device=lengths.device) >= lengths[:, None]  # (B, N) unused cache slots
        self.beyond = beyond[:, None, None] if beyond.any() else None

    def rotate(self, x: Tensor) -> Tensor:
        return rotate(x, self.turns)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each token (B, H, W, K) to the row's prefix, the tokens of its branch, and itself."""
        fork, query = self.fork, query * query.shape[-1] ** -0.5
        keys, values = fork.keys[layer], fork.values[layer]  # (B, H, W, L, K)
        self.new[0].append(key)
        self.new[1].append(value)
        score = query.new_empty(*query.shape[:3], self.end + keys.shape[3] + 1)  # (B, H, W, N + L + 1)
        torch.matmul(query, fork.cache.keys[layer, :, :, : self.end].transpose(2, 3), out=score[..., : self.end])
        if self.beyond is not None:
            score[..., : self.end].masked_fill_(self.beyond, -torch.inf)
        if keys.shape[3]:
            score[..., self.end : -1] = (keys @ query[..., None])[..., 0]
        score[..., -1] = torch.linalg.vecdot(query, key)
        weight = torch.softmax(score, -1, out=score)
        mixed = weight[..., : self.end] @ fork.cache.values[layer, :, :, : self.end] + weight[..., -1:] * value
        if keys.shape[3]:
            mixed += (weight[..., None, self.end : -1] @ values)[..., 0, :]
        return mixed

    def grown(self) -> Fork:
        """The fork with the new tokens at the end of its branches."""
        pairs = zip((self.fork.keys, self.fork.values), self.new, strict=True)
        return Fork(self.fork.cache, *(torch.cat([own, torch.stack(new)[..., None, :]], 4) for own, new in pairs))
