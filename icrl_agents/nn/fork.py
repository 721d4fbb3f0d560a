"""Many continuations of one cached sequence, as planning needs them: the prefix is shared, never copied.

Axis letters: B rows, W branches of a row, A alternative next tokens of a branch, H heads, K width of one head,
N cached tokens, L tokens a branch has of its own, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icrl_agents.nn.transformer import Cache, Transformer, rotate, rotations


class Fork:
    """W branches behind every row of a cache, each with as many tokens of its own.

    `feed` runs tokens without keeping them; `grow` gives the fork in which some of them have become part of their
    branch. The cache is only read.
    """

    def __init__(self, cache: Cache, keys: Tensor, values: Tensor):
        self.cache = cache
        self.keys, self.values = keys, values  # (layers, B, W, L, H, K)
        self.fed: tuple[list[Tensor], list[Tensor]] = [], []  # keys and values (B, W, A, H, K) of the last `feed`

    @classmethod
    def of(cls, cache: Cache) -> Fork:
        """One empty branch behind every row."""
        layers, rows, heads, _, width = cache.keys.shape
        empty = cache.keys.new_zeros(layers, rows, 1, 0, heads, width)
        return cls(cache, empty, empty)

    def feed(self, body: Transformer, x: Tensor) -> Tensor:
        """Run `x` (B, W, A, D), alternatives for the next token of each branch; gives (B, W, A, D)."""
        self.fed = [], []
        return body.run(x.flatten(1, 2), _Branches(self, x.shape[2])).unflatten(1, x.shape[1:3])

    def grow(self, parent: Tensor, choice: Tensor) -> Fork:
        """Branches (B, V) that go on from the branches `parent` (B, V) with the token `choice` (B, V) just fed."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        new = [torch.stack(part)[:, rows, parent, choice][:, :, :, None] for part in self.fed]
        old = [part[:, rows, parent] for part in (self.keys, self.values)]
        return Fork(self.cache, *(torch.cat(pair, 3) for pair in zip(old, new, strict=True)))


class _Branches:
    """Where the alternatives stand: all next to their branch's last token."""

    def __init__(self, fork: Fork, count: int):
        self.fork, self.count = fork, count
        lengths, own = fork.cache.lengths, fork.keys.shape[3]
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
        shape = (len(query), -1, self.count, *query.shape[1::2])  # (B, W, A, H, K)
        own_query, own_key, own_value = (x.transpose(1, 2).reshape(shape) for x in (query, key, value))
        fork.fed[0].append(own_key)
        fork.fed[1].append(own_value)
        count = fork.keys.shape[3]
        score = query.new_empty(*query.shape[:3], self.end + count + 1)  # (B, H, W * A, N + L + 1), the bulk of it all
        score[..., : self.end] = query @ fork.cache.keys[layer][:, :, : self.end].transpose(2, 3)
        if self.beyond is not None:
            score[..., : self.end].masked_fill_(self.beyond, -torch.inf)
        if count:
            branch = torch.einsum("bwahk,bwlhk->bhwal", own_query, fork.keys[layer])
            score[..., self.end : -1] = branch.flatten(2, 3)
        score[..., -1] = (query * key).sum(-1)
        weight = torch.softmax(score, -1, out=score)
        mixed = weight[..., : self.end] @ fork.cache.values[layer][:, :, : self.end] + weight[..., -1:] * value
        if count:
            mine = weight[..., self.end : -1].unflatten(2, (-1, self.count))
            mixed = mixed + torch.einsum("bhwal,bwlhk->bhwak", mine, fork.values[layer]).flatten(2, 3)
        return mixed
