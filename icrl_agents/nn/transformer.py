"""A causal transformer from vectors to vectors, and the cache that lets it be fed step by step.

The transformer never learns what a token means: methods render tokens, codecs read its outputs.
Pre-norm blocks with rotary positions and SwiGLU, as in the published AD and DICP code. Deviations: a final norm,
which steadies training at high learning rates, and LayerNorm without bias in place of RMSNorm, because it runs as
one kernel on CPUs.

Axis letters: B rows, L tokens, D width, H heads, K width of one head, C cache capacity.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.nn.decode import Views, can_decode, decode


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


class Transformer(nn.Module):
    """`body(x)` for whole sequences, `body(x, cache)` for what follows the cached tokens.

    Args:
        width: D, a multiple of `heads`.
        layers, heads: numbers of blocks and of attention heads.
        inner: hidden width of the SwiGLU.
        dropout: rate on the outputs of both branches while training.
    """

    def __init__(self, width: int, layers: int, heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} must be an even multiple of heads {heads}: rotary positions rotate pairs")
        self.heads, self.head_width = heads, width // heads
        blocks = [Block(width, heads, inner, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, bias=False)
        self.views: Views | None = None  # the weights for `decode`, found when first needed
        for block in blocks:  # residual branches start small, so that depth does not change the initial scale
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.02 / (2 * layers) ** 0.5)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles find views of their own weights."""
        return {**vars(self), "views": None}

    def make_cache(self, rows: int, capacity: int, outputs: bool = False) -> Cache:
        """An empty cache for `rows` sequences of at most `capacity` tokens; with `outputs` it keeps those as well."""
        weight = self.norm.weight
        shape = (len(self.blocks), rows, self.heads, capacity, self.head_width)
        lengths = torch.zeros(rows, dtype=torch.long, device=weight.device)
        turns = rotations(capacity, self.head_width, weight.device)
        kept = weight.new_zeros(rows, capacity, len(weight)) if outputs else None
        return Cache(weight.new_zeros(shape), weight.new_zeros(shape), lengths, turns, kept)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Run the tokens `x` (B, L, D); causal, and each row continues where its cache ends.

        The cache stores what is new but its `lengths` stay: call `cache.advance` with the
        number of tokens to keep for each row.
        """
        if cache is not None and can_decode(x):
            cache.require(1)
            x = decode(self, x, cache)
        else:
            x = self.run(x, Positions(x, cache, self.head_width))
        if cache is not None:
            cache.write(x)
        return x

    def run(self, x: Tensor, spot: Spot) -> Tensor:
        """All blocks on the tokens `x` (B, L, D), which stand and read where `spot` says."""
        for layer, block in enumerate(self.blocks):
            x = block(x, spot, layer)
        return self.norm(x)  # (B, L, D)


class Spot(Protocol):
    """Where new tokens stand, and what they may read."""

    def rotate(self, x: Tensor) -> Tensor:
        """Turn queries and keys (B, H, L, K) by their places."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What the new tokens (B, H, L, K) read."""


class Positions:
    """Where the new tokens stand: their rotations, the slots they take in the cache, what they may read."""

    def __init__(self, x: Tensor, cache: Cache | None, head_width: int):
        rows, count = x.shape[:2]
        self.cache, self.mask = cache, None
        if cache is None:
            self.end, self.causal = count, count > 1
            self.turns = rotations(count, head_width, x.device)  # (L, K / 2)
            return
        lowest, highest = (int(n) for n in torch.aminmax(cache.lengths))
        self.end, self.aligned = highest + count, lowest == highest
        cache.require(count)
        self.causal = self.aligned and highest == 0 and count > 1
        if self.aligned:
            place = torch.arange(highest, self.end, device=x.device)  # (L,)
        else:
            place = cache.lengths[:, None, None] + torch.arange(count, device=x.device)  # (B, 1, L)
            self.slots = place[..., None].expand(rows, 1, count, head_width)
        self.turns = cache.turns[place]  # ((B, 1,) L, K / 2)
        if not self.causal and (count > 1 or not self.aligned):
            self.mask = torch.arange(self.end, device=x.device) <= place[..., None]  # ((B, 1,) L, end)

    def rotate(self, x: Tensor) -> Tensor:
        return rotate(x, self.turns)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What the new tokens (B, H, L, K) read."""
        key, value = self._remember(layer, key, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=self.causal)

    def _remember(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (B, H, L, K); give back all that may be read (B, H, end, K)."""
        if self.cache is None:
            return key, value
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if self.aligned:
            start = self.end - key.shape[2]
            keys[:, :, start : self.end], values[:, :, start : self.end] = key, value
        else:
            slots = self.slots.expand_as(key)
            keys.scatter_(2, slots, key)
            values.scatter_(2, slots, value)
        return keys[:, :, : self.end], values[:, :, : self.end]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): neighbouring pairs of `x` (B, H, L, K) as complex numbers, turned."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def rotations(count: int, head_width: int, device: torch.device) -> Tensor:
    """The unit complex numbers (count, K / 2) by which rotary positions turn the pairs at each place."""
    inverse = 10000.0 ** -(torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width)
    angle = torch.arange(count, device=device)[:, None] * inverse
    return torch.polar(torch.ones_like(angle), angle)


class Block(nn.Module):
    """Attention and SwiGLU, each on a normalised copy of the residual stream.

    Written as one function over its weights: when one token a row is fed, calling submodules would cost more
    than their arithmetic.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, spot: Spot, layer: int) -> Tensor:
        x = x + self._drop(self._attend(x, spot, layer))
        gate, up = F.linear(_norm(x, self.mlp_norm), self.gate_up.weight).chunk(2, -1)
        return x + self._drop(F.linear(F.silu(gate) * up, self.down.weight))

    def _attend(self, x: Tensor, spot: Spot, layer: int) -> Tensor:
        qkv = F.linear(_norm(x, self.attention_norm), self.qkv.weight, self.qkv.bias)
        qkv = qkv.view(*x.shape[:2], 3 * self.heads, -1).transpose(1, 2)  # (B, 3 H, L, K)
        query, key = spot.rotate(qkv[:, : 2 * self.heads]).chunk(2, 1)  # (B, H, L, K)
        mixed = spot.attend(layer, query, key, qkv[:, 2 * self.heads :])
        return F.linear(mixed.transpose(1, 2).reshape(x.shape), self.out.weight, self.out.bias)  # (B, L, D)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight)
