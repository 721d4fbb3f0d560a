"""Transformer forward pass for one new token per row, in NumPy on the CPU; equals `Transformer.run`.

At the sizes of these agents an acting step is about a hundred kernels of a few microseconds, and PyTorch's dispatch
costs several times their arithmetic. NumPy reads the same weights and writes the same cache, without copies.
Axis letters as in `transformer`: B rows, D width, H heads, K head width, N cached tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from icrl_agents.nn.cache import Cache
from icrl_agents.nn.stamp import Stamp


def can_decode(x: torch.Tensor) -> bool:
    """Whether `x` (B, L, D) has one token per row, is float32 on the CPU, and needs no gradient or compiled graph."""
    if x.shape[1] != 1 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def decode(views: Views, x: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Outputs (B, 1, D) for the tokens `x` (B, 1, D) that follow the cached ones; stores their keys and values."""
    where, stream = Place(cache, x.shape[2]), x[:, 0].numpy()  # (B, D)
    keys, values = cache.keys.numpy(), cache.values.numpy()
    for layer, weights in enumerate(views.layers):
        stream = _block(weights, stream, where, keys[layer], values[layer])
    return torch.from_numpy(_norm(stream, views.norm, where.average))[:, None]


class Weights(NamedTuple):
    """Weights of one block, transposed for `x @ weight`."""

    heads: int
    attention_norm: np.ndarray  # (D,)
    qkv: np.ndarray  # (D, 3 D)
    qkv_bias: np.ndarray
    out: np.ndarray  # (D, D)
    out_bias: np.ndarray
    mlp_norm: np.ndarray  # (D,)
    gate_up: np.ndarray  # (D, 2 inner)
    down: np.ndarray  # (inner, D)


class Views(NamedTuple):
    """NumPy views of the weights of a `Transformer`; in-place updates (training, loading) are visible through them."""

    stamp: Stamp  # invalid once a weight is moved, converted or replaced
    layers: list[Weights]
    norm: np.ndarray

    @classmethod
    def of(cls, body: Any) -> Views:
        layers = [_weights(block) for block in body.blocks]
        return cls(Stamp.of(body), layers, body.norm.weight.detach().numpy())


def _weights(block: Any) -> Weights:
    return Weights(
        heads=block.heads,
        attention_norm=block.attention_norm.weight.detach().numpy(),
        qkv=block.qkv.weight.detach().numpy().T,
        qkv_bias=block.qkv.bias.detach().numpy(),
        out=block.out.weight.detach().numpy().T,
        out_bias=block.out.bias.detach().numpy(),
        mlp_norm=block.mlp_norm.weight.detach().numpy(),
        gate_up=block.gate_up.weight.detach().numpy().T,
        down=block.down.weight.detach().numpy().T,
    )


class Place:
    """Position of each row's new token, its cache slot, and its attention mask."""

    def __init__(self, cache: Cache, width: int):
        self.average = np.full((width, 1), 1 / width, np.float32)  # a matrix product is faster than a mean
        place = cache.lengths.numpy()  # (B,)
        lowest, highest = int(place.min()), int(place.max())
        self.end = highest + 1
        self.turns = cache.turns.numpy()[place][:, None]  # (B, 1, K / 2)
        self.slot: Any = (slice(None), slice(None), highest)
        self.hidden = None
        if lowest < highest:  # rows of different lengths
            self.slot = (np.arange(len(place)), slice(None), place)
            self.hidden = (np.arange(self.end) > place[:, None])[:, None]  # (B, 1, N)


def _block(weights: Weights, x: np.ndarray, where: Place, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    x = x + _attend(weights, _norm(x, weights.attention_norm, where.average), where, keys, values)
    inner = _norm(x, weights.mlp_norm, where.average) @ weights.gate_up
    gate, up = inner[:, : len(weights.down)], inner[:, len(weights.down) :]
    silu = gate * (0.5 + 0.5 * np.tanh(0.5 * gate))  # sigmoid written as tanh, which cannot overflow
    return x + (silu * up) @ weights.down


def _attend(weights: Weights, x: np.ndarray, where: Place, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    rows, width, heads = *x.shape, weights.heads
    qkv = x @ weights.qkv + weights.qkv_bias
    pairs = qkv[:, : 2 * width].reshape(rows, 2 * heads, -1).view(np.complex64)
    turned = (pairs * where.turns).view(np.float32)  # (B, 2 H, K)
    keys[where.slot] = turned[:, heads:]
    values[where.slot] = qkv[:, 2 * width :].reshape(rows, heads, -1)
    query = turned[:, :heads, :, None] * np.float32(turned.shape[-1] ** -0.5)  # (B, H, K, 1)
    score = (keys[:, :, : where.end] @ query)[..., 0]  # (B, H, N)
    if where.hidden is not None:
        score = np.where(where.hidden, -np.inf, score)
    score = np.exp(score - np.maximum.reduce(score, -1, keepdims=True))
    weight = score / np.add.reduce(score, -1, keepdims=True)
    mixed = weight[:, :, None] @ values[:, :, : where.end]  # (B, H, 1, K)
    return mixed.reshape(rows, width) @ weights.out + weights.out_bias


EPS = np.float32(1e-5)  # default of nn.LayerNorm


def _norm(x: np.ndarray, gain: np.ndarray, average: np.ndarray) -> np.ndarray:
    centred = x - x @ average
    return centred * (gain / np.sqrt((centred * centred) @ average + EPS))
