"""Compressor of CAD: learned queries cross-attend to a set of vectors and fold it into a fixed number of latents.

Q-Former style (Li et al. 2023, arXiv 2301.12597). Axis letters: N rows, Q queries, M source vectors, Z latents,
D width, H heads, K head width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.nn.lowered import Lowered

QUERY_STD = 0.5  # initial standard deviation of queries and position vectors


class Reader(Lowered):
    """Learned queries (Q, D) that attend to each other and to source vectors (N, M, D) in every layer.

    Args:
        count: Q.
        width: D.
        layers: number of blocks.
        heads: number of attention heads of a block.
        inner: hidden width of the SwiGLU.
        dropout: rate on the outputs of all residual branches during training.
    """

    def __init__(self, count: int, width: int, layers: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.width = width
        self.queries = nn.Parameter(torch.randn(count, width) * QUERY_STD)
        self.blocks = nn.ModuleList(ReaderBlock(width, heads, inner, dropout) for _ in range(layers))
        self.source_norm, self.norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)

    def forward(self, source: Tensor, count: int | None = None) -> Tensor:
        """Outputs (N, Q', D) of the first `count` queries (None: all) after reading `source` (N, M, D)."""
        with self.products(source):
            source = self.source_norm(source)
            x = self.queries[:count].expand(len(source), -1, -1)  # (N, Q', D)
            for block in self.blocks:
                x = block(x, source)
            return self.norm(x)


class ReaderBlock(nn.Module):
    """Pre-norm block: self-attention among queries, cross-attention to the source, SwiGLU."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.self_norm, self.cross_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.qkv, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Queries `x` (N, Q, D) after one block over the normalised `source` (N, M, D)."""
        x = x + self._drop(self.self_out(self._attend(*self.qkv(self.self_norm(x)).chunk(3, -1))))
        query, pair = self.query(self.cross_norm(x)), self.key_value(source)  # (N, Q, D), (N, M, 2 D)
        x = x + self._drop(self.cross_out(self._attend(query, *pair.chunk(2, -1))))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)  # (N, Q, inner)
        return x + self._drop(self.down(F.silu(gate) * up))

    def _attend(self, *qkv: Tensor) -> Tensor:
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in qkv)  # (N, H, ., K)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # (N, ., D)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Compressor(nn.Module):
    """Folds vectors (N, M, D) and the old latents (N, Z, D), if any, into new latents (N, Z, D).

    Args:
        reader: network with Z queries.
        longest: maximum M, the number of position vectors.
        gate: update rule of the latents: "gated" interpolation, the same with weights that reach 0 and 1 ("hard"), so
            that old latents can stay exactly what they were; "residual" sum with a norm, or "replace".
    """

    GATES: ClassVar = ("gated", "hard", "residual", "replace")
    STRETCH: ClassVar = 0.1  # a "hard" weight is a sigmoid stretched by so much beyond 0 and 1, and clipped

    def __init__(self, reader: Reader, longest: int, gate: str):
        super().__init__()
        self.reader, width = reader, reader.width
        self.old = nn.Parameter(torch.randn(width) * QUERY_STD)  # type vector: marks old latents in the source
        self.place = nn.Parameter(torch.randn(longest, width) * QUERY_STD)  # (M, D) learned positions
        self.gate = gate
        if gate in ("gated", "hard"):  # initial weights of 0.12 keep most of the old latents
            self.open, self.change = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
            for linear, bias in ((self.open, -2.0 if gate == "gated" else -1.5), (self.change, 0.0)):
                nn.init.zeros_(linear.weight)
                nn.init.constant_(linear.bias, bias)
        elif gate == "residual":
            self.merge = nn.LayerNorm(width)

    def forward(self, old: Tensor | None, x: Tensor) -> Tensor:
        """New latents (N, Z, D) from the vectors `x` (N, M, D); `old` (N, Z, D) is None at the first fold."""
        x = x + self.place[: x.shape[1]]  # (N, M, D)
        if old is None:
            return self.reader(x)
        new = self.reader(torch.cat([old + self.old, x], 1))  # reads Z + M vectors
        if self.gate == "replace":
            return new
        if self.gate == "residual":
            return self.merge(old + new)
        both = torch.cat([old, new], -1)  # (N, Z, 2 D)
        share = torch.sigmoid(self.open(both))  # (N, Z, D) weight of new
        if self.gate == "hard":
            share = (share * (1 + 2 * self.STRETCH) - self.STRETCH).clamp(0, 1)
        return torch.lerp(old, new + torch.tanh(self.change(both)), share)
