"""Many continuations of one cached sequence, as planning needs them: the prefix is shared, never copied.

Axis letters: B rows, W branches of a row, A alternative next tokens of a branch, H heads, K width of one head,
N cached tokens, L tokens a branch has of its own, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icrl_agents.nn.cache import Cache
from icrl_agents.nn.transformer import Transformer, rotate, rotations


class Fork:
    """W branches behind every row of a cache, each with as many tokens of its own.

    `feed` runs tokens without keeping them; `grow` gives the fork in which some of them have become part of their
    branch. The cache is only read.
    """

    def __init__(self, cache: Cache, keys: Tensor, values: Tensor):
        self.cache = cache
        self.keys, self.values = keys, values  # (layers, B, H, W, L, K)
        self.fed: tuple[list[Tensor], list[Tensor]] = [], []  # keys and values (B, H, W, A, K) of the last `feed`

    @classmethod
    def of(cls, cache: Cache) -> Fork:
        """One empty branch behind every row."""
        layers, rows, heads, _, width = cache.keys.shape
        empty = cache.keys.new_zeros(layers, rows, heads, 1, 0, width)
        return cls(cache, empty, empty)

    def feed(self, body: Transformer, x: Tensor) -> Tensor:
        """Run `x` (B, W, A, D), alternatives for the next token of each branch; gives (B, W, A, D)."""
        self.fed = [], []
        return body.run(x.flatten(1, 2), _Branches(self, x.shape[2])).unflatten(1, x.shape[1:3])

    def grow(self, parent: Tensor, choice: Tensor) -> Fork:
        """Branches (B, V) that go on from the branches `parent` (B, V) with the token `choice` (B, V) just fed."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        grown = []
        for own, fed in zip((self.keys, self.values), self.fed, strict=True):
            new = torch.stack(fed, 1)[rows, :, :, parent, choice]  # (B, V, layers, H, K)
            old = own.permute(1, 3, 0, 2, 4, 5)[rows, parent]  # (B, V, layers, H, L, K)
            grown.append(torch.cat([old, new[:, :, :, :, None]], 4).permute(2, 0, 3, 1, 4, 5))
        return Fork(self.cache, *grown)

    def kept(self) -> Fork:
        """The branches with the one token that was fed to each."""
        pairs = zip((self.keys, self.values), self.fed, strict=True)
        return Fork(self.cache, *(torch.cat([own, torch.stack(fed)], 4) for own, fed in pairs))


class _Branches:
    """Where the alternatives stand: all next to their branch's last token."""

    def __init__(self, fork: Fork, count: int):
        self.fork, self.count = fork, count
        lengths, own = fork.cache.lengths, fork.keys.shape[4]
        self.end = int(lengths.max())
        turns = rotations(self.end + own + 1, 2 * fork.cache.turns.shape[1], lengths.device)
        self.turns = turns[lengths + own][:, None, None]  # (B, 1, 1, K / 2)
        beyond = torch.arange(self.end, device=lengths.device) >= lengths[:, None]  # (B, N)
        self.beyond = beyond[:, None, None] if beyond.any() else None

    def rotate(self, x: Tensor) -> Tensor:
        return rotate(x, self.turns)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each token (B, H, W * A, K) reads the row's prefix, its branch's own tokens and itself."""
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
        score[..., -1] = torch.linalg.vecdot(query, key)
        weight = torch.softmax(score, -1, out=score)
        mixed = weight[..., : self.end] @ fork.cache.values[layer, :, :, : self.end] + weight[..., -1:] * value
        if keys.shape[3]:
            mixed += (weight[..., self.end : -1].unflatten(2, shape) @ values).flatten(2, 3)
        return mixed
