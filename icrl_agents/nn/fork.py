"""Fork: branches that continue a cached sequence for planning; they share the cached prefix instead of copying it.

Axis letters: B rows, W branches of a row, V branches after `grow`, A alternative next tokens of a branch, H heads,
K head width, N cached tokens, L tokens of a branch beyond the prefix, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icrl_agents.nn.cache import Cache
from icrl_agents.nn.transformer import Transformer, rotate, rotations


class Fork:
    """W branches that continue every row of a cache, each with L tokens of its own.

    `feed` runs alternative next tokens without keeping them; `grow` returns a fork that extends branches by some of
    them. The cache is read-only.
    """

    def __init__(self, cache: Cache, keys: Tensor, values: Tensor):
        self.cache = cache
        self.keys, self.values = keys, values  # (layers, B, H, W, L, K)
        self.fed: tuple[list[Tensor], list[Tensor]] = [], []  # keys and values (B, H, W, A, K) of the last `feed`

    @classmethod
    def of(cls, cache: Cache) -> Fork:
        """Fork with one empty branch (W = 1, L = 0) per row."""
        layers, rows, heads, _, width = cache.keys.shape
        empty = cache.keys.new_zeros(layers, rows, heads, 1, 0, width)
        return cls(cache, empty, empty)

    def feed(self, body: Transformer, x: Tensor) -> Tensor:
        """Outputs (B, W, A, D) for the tokens `x` (B, W, A, D), alternatives for the next token of each branch."""
        self.fed = [], []
        return body.run(x.flatten(1, 2), _Branches(self, x.shape[2])).unflatten(1, x.shape[1:3])

    def grow(self, parent: Tensor, choice: Tensor) -> Fork:
        """Fork with V branches: the branches `parent` (B, V), extended by their last fed tokens `choice` (B, V)."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        grown = []
        for own, fed in zip((self.keys, self.values), self.fed, strict=True):
            new = torch.stack(fed, 1)[rows, :, :, parent, choice]  # (B, V, layers, H, K)
            old = own.permute(1, 3, 0, 2, 4, 5)[rows, parent]  # (B, V, layers, H, L, K)
            grown.append(torch.cat([old, new[:, :, :, :, None]], 4).permute(2, 0, 3, 1, 4, 5))
        return Fork(self.cache, *grown)

    def kept(self) -> Fork:
        """Fork in which each branch keeps the single token (A = 1) last fed to it."""
        pairs = zip((self.keys, self.values), self.fed, strict=True)
        return Fork(self.cache, *(torch.cat([own, torch.stack(fed)], 4) for own, fed in pairs))


class _Branches:
    """`Spot` of the fed alternatives: all take the position after the last token of their branch."""

    def __init__(self, fork: Fork, count: int):
        self.fork, self.count = fork, count
        lengths, own = fork.cache.lengths, fork.keys.shape[4]
        self.end = int(lengths.max())
        turns = rotations(self.end + own + 1, 2 * fork.cache.turns.shape[1], lengths.device)
        self.turns = turns[lengths + own][:, None, None]  # (B, 1, 1, K / 2)
        beyond = torch.arange(self.end, device=lengths.device) >= lengths[:, None]  # (B, N) unused cache slots
        self.beyond = beyond[:, None, None] if beyond.any() else None

    def rotate(self, x: Tensor) -> Tensor:
        return rotate(x, self.turns)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each token (B, H, W * A, K) to the row's prefix, the tokens of its branch, and itself."""
        fork, query = self.fork, query * query.shape[-1] ** -0.5
        keys, values = fork.keys[layer], fork.values[layer]  # (B, H, W, L, K)
        shape = keys.shape[2], self.count
        fork.fed[0].append(key.unflatten(2, shape))
        fork.fed[1].append(value.unflatten(2, shape))
        score = query.new_empty(*query.shape[:3], self.end + keys.shape[3] + 1)  # (B, H, W * A, N + L + 1)
        torch.matmul(query, fork.cache.keys[layer, :, :, : self.end].transpose(2, 3), out=score[..., : self.end])
        if self.beyond is not None:
            score[..., : self.end].masked_fill_(self.beyond, -torch.inf)
        if keys.shape[3]:
            score[..., self.end : -1] = (query.unflatten(2, shape) @ keys.transpose(3, 4)).flatten(2, 3)
        score[..., -1] = torch.linalg.vecdot(query, key)  # the token itself; alternatives do not see each other
        weight = torch.softmax(score, -1, out=score)
        mixed = weight[..., : self.end] @ fork.cache.values[layer, :, :, : self.end] + weight[..., -1:] * value
        if keys.shape[3]:
            mixed += (weight[..., self.end : -1].unflatten(2, shape) @ values).flatten(2, 3)
        return mixed
