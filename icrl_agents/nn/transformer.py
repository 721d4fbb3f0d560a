"""Causal transformer over vectors, for whole sequences or incrementally with a cache.

It is independent of the meaning of tokens: methods render tokens, codecs read the outputs. Pre-norm blocks with rotary
positions and SwiGLU, as in the published AD and DICP code. Deviations: a final norm, which stabilises training at high
learning rates, and LayerNorm without bias instead of RMSNorm, because it is a single kernel on CPUs.

Axis letters: B rows, L tokens, D width, H heads, K head width, C cache capacity.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.nn.cache import Cache
from icrl_agents.nn.decode import Views, can_decode, decode
from icrl_agents.nn.lowered import Lowered


class Transformer(Lowered):
    """Causal transformer: `body(x)` for whole sequences, `body(x, cache)` for tokens after the cached ones.

    Args:
        width: D, an even multiple of `heads`.
        layers: number of blocks.
        heads: number of attention heads of a block.
        inner: hidden width of the SwiGLU.
        dropout: rate on the outputs of both residual branches during training.

    Raises:
        ValueError: `width` is not an even multiple of `heads`.
    """

    def __init__(self, width: int, layers: int, heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} must be an even multiple of heads {heads}: rotary positions rotate pairs")
        self.heads, self.head_width = heads, width // heads
        blocks = [Block(width, heads, inner, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, bias=False)
        self.views: Views | None = None  # NumPy views of the weights for `decode`, built on first use
        for block in blocks:  # scaled-down residual branches keep the initial output scale independent of depth
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.02 / (2 * layers) ** 0.5)

    def __getstate__(self) -> dict[str, Any]:
        """State without `views`: copies and unpickled modules build views of their own weights."""
        return {**super().__getstate__(), "views": None}

    def make_cache(self, rows: int, capacity: int, outputs: bool = False) -> Cache:
        """Empty cache for `rows` sequences of up to `capacity` tokens; with `outputs` it also stores the outputs."""
        weight = self.norm.weight
        shape = (len(self.blocks), rows, self.heads, capacity, self.head_width)
        lengths = torch.zeros(rows, dtype=torch.long, device=weight.device)
        turns = rotations(capacity, self.head_width, weight.device)
        kept = weight.new_zeros(rows, capacity, len(weight)) if outputs else None
        return Cache(weight.new_zeros(shape), weight.new_zeros(shape), lengths, turns, kept)

    def forward(self, x: Tensor, cache: Cache | None = None, parts: Tensor | None = None) -> Tensor:
        """Outputs (B, L, D) of the tokens `x` (B, L, D); causal, and each row continues where its cache ends.

        Keys and values of the new tokens are stored, but `cache.lengths` stays: call `cache.advance` with the number
        of tokens to keep in each row.

        Args:
            parts: for whole sequences: number (B, L) of the part of each token, which sees no other part.

        Raises:
            ValueError: the tokens exceed the capacity of the cache.
        """
        if cache is not None and can_decode(x):
            cache.require(1)
            if self.views is None or not self.views.stamp.holds():
                self.views = Views.of(self)
            x = decode(self.views, x, cache)
        elif self.compiled and self.training:
            turns = torch.view_as_real(rotations(x.shape[1], self.head_width, x.device))
            with self.products(x):
                x = self.compiled(x, turns, within(parts))
        else:
            with self.products(x):
                x = self.run(x, Positions(x, cache, self.head_width, within(parts)))
        if cache is not None:
            cache.write(x)
        return x

    def run(self, x: Tensor, spot: Spot) -> Tensor:
        """Outputs (B, L, D) of all blocks for the tokens `x` (B, L, D), with positions and attention from `spot`."""
        for layer, block in enumerate(self.blocks):
            x = block(x, spot, layer)
        return self.norm(x)  # (B, L, D)


class Spot(Protocol):
    """Positions of new tokens, and the keys they attend to."""

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries and keys (B, H, L, K) by their positions."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention outputs (B, H, L, K) of the new tokens."""


class Positions:
    """`Spot` of tokens that follow a cache or start a sequence: rotations, cache slots and attention mask."""

    def __init__(self, x: Tensor, cache: Cache | None, head_width: int, mask: Tensor | None = None):
        rows, count = x.shape[:2]
        self.cache, self.mask = cache, mask
        if cache is None:
            self.end, self.causal = count, count > 1 and mask is None
            self.turns = rotations(count, head_width, x.device)  # (L, K / 2)
            return
        lowest, highest = (int(n) for n in torch.aminmax(cache.lengths))
        self.end, self.aligned = highest + count, lowest == highest
        cache.require(count)
        # a boolean mask is only built where `is_causal`, which assumes equal query and key ranges, does not apply
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
        """Attention outputs (B, H, L, K) of the new tokens; stores their keys and values in the cache."""
        key, value = self._remember(layer, key, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=self.causal)

    def _remember(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (B, H, L, K) in the cache; returns all cached ones (B, H, end, K)."""
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


def within(parts: Tensor | None) -> Tensor | None:
    """Attention mask (B, 1, L, L) bool of tokens that see the earlier ones of their part (B, L); None: one part."""
    if parts is None:
        return None
    return (parts[:, None, :, None] == parts[:, None, None]).tril()


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): rotate neighbouring pairs of `x` (B, H, L, K), read as complex numbers."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def rotations(count: int, head_width: int, device: torch.device) -> Tensor:
    """Unit complex numbers (count, K / 2): the rotary rotation of each pair at each position."""
    inverse = 10000.0 ** -(torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width)
    angle = torch.arange(count, device=device)[:, None] * inverse  # (count, K / 2) radians
    return torch.polar(torch.ones_like(angle), angle)


class Block(nn.Module):
    """Pre-norm block: causal self-attention and SwiGLU.

    Calls functionals on the weights: for one token per row, submodule calls would cost more than their arithmetic.
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
        gate, up = F.linear(_norm(x, self.mlp_norm), self.gate_up.weight).chunk(2, -1)  # (B, L, inner)
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
