"""The transformer for one new token a row, in NumPy on the CPU: the same function as `Transformer.forward`.

At the sizes of these agents an acting step is a hundred kernels of a few microseconds each; PyTorch's dispatch costs
several times their arithmetic. NumPy reads the same weights and writes the same cache, without copies.
Axis letters as in `transformer`: B rows, D width, H heads, K width of one head, N cached tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from icrl_agents.nn.transformer import Block, Cache, Transformer


def can_decode(x: torch.Tensor) -> bool:
    """Whether the tokens `x` (B, L, D) are one a row, plain CPU floats, and no gradient is wanted."""
    return x.shape[1] == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


def decode(body: Transformer, x: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Run the tokens `x` (B, 1, D) behind what `cache` holds; gives (B, 1, D) and stores keys and values."""
    place = cache.lengths.numpy()  # (B,)
    stream, where = x[:, 0].numpy(), Place(place, cache)
    for layer, block in enumerate(body.blocks):
        keys, values = cache.keys[layer].numpy(), cache.values[layer].numpy()
        stream = _block(block, stream, where, keys, values)
    return torch.from_numpy(_norm(stream, body.norm))[:, None]


class Place:
    """Where each row's new token stands, and what it may read."""

    def __init__(self, place: np.ndarray, cache: Cache):
        self.rows, self.place = np.arange(len(place)), place
        self.turns = cache.turns.numpy()[place][:, None]  # (B, 1, K / 2)
        self.end = int(place.max()) + 1
        aligned = int(place.min()) + 1 == self.end
        self.hidden = None if aligned else (np.arange(self.end) > place[:, None])[:, None]  # (B, 1, N)


def _block(block: Any, x: np.ndarray, where: Place, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    x = x + _attend(block, _norm(x, block.attention_norm), where, keys, values)
    gate, up = np.split(_linear(_norm(x, block.mlp_norm), block.gate_up), 2, axis=1)
    return x + _linear(gate / (1 + np.exp(-np.maximum(gate, -80))) * up, block.down)


def _attend(block: Block, x: np.ndarray, where: Place, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    rows, width, heads = *x.shape, block.heads
    qkv = _linear(x, block.qkv).reshape(rows, 3 * heads, -1)  # (B, 3 H, K)
    turned = (qkv[:, : 2 * heads].copy().view(np.complex64) * where.turns).view(np.float32)
    keys[where.rows, :, where.place] = turned[:, heads:]
    values[where.rows, :, where.place] = qkv[:, 2 * heads :]
    query = turned[:, :heads, :, None] * (turned.shape[-1] ** -0.5)  # (B, H, K, 1)
    score = (keys[:, :, : where.end] @ query)[..., 0]  # (B, H, N)
    if where.hidden is not None:
        score = np.where(where.hidden, -np.inf, score)
    weight = np.exp(score - score.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    mixed = weight[:, :, None] @ values[:, :, : where.end]  # (B, H, 1, K)
    return _linear(mixed.reshape(rows, width), block.out)


def _linear(x: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    y = x @ layer.weight.detach().numpy().T
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def _norm(x: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    variance = np.einsum("bd,bd->b", centred, centred)[:, None] / x.shape[-1]
    return centred * (layer.weight.detach().numpy() / np.sqrt(variance + np.float32(layer.eps)))
