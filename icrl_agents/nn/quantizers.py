"""Quantisers of vectors, from the library vector-quantize-pytorch.

Axis letters: N vectors, Z size of a vector, L codes of a vector.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icrl_agents.core.process.packages import need

QUANTIZERS = ("vq", "residual-vq", "fsq", "none")
# number of codes of "fsq" -> numbers of values of its entries, as in the paper
FSQ_LEVELS = {9: [3, 3], 16: [4, 4], 64: [8, 8], 240: [8, 6, 5], 1000: [8, 5, 5, 5], 4096: [8, 8, 8, 8]}
DECAY = 0.95  # of the moving averages that codebooks are; at 0.99 dead codes are found after hundreds of updates
DEAD = 2.0  # codes with fewer vectors in the moving average are replaced by vectors of the batch


class Quantized(NamedTuple):
    """Vectors, their codes, and a loss that keeps vectors near their codes."""

    vectors: Tensor  # (N, Z)
    codes: Tensor  # (N, L) int64; L = 0 without quantiser
    loss: Tensor  # ()


class Quantizer(nn.Module):
    """Maps vectors (N, Z) to the nearest of a few; gradients pass straight through.

    Codebooks are moving averages of the vectors assigned to them. They start at clusters of the first batch and stay as
    they are in eval mode. A code that is never used is replaced.

    Args:
        kind: "vq" (van den Oord et al. 2017); "residual-vq", in which each level quantises what the levels before have
            left; "fsq" (Mentzer et al. 2023), which rounds each entry and has no codebook; or "none".
        size: Z.
        codes: number of codes of a level, of "fsq" one of `FSQ_LEVELS`.
        levels: L of "residual-vq".
        commitment: weight of the loss.
    """

    def __init__(self, kind: str, size: int, codes: int, levels: int, commitment: float):
        super().__init__()
        self.kind = kind
        self.codes = codes  # of a level
        if kind == "none":
            return
        library: Any = need("vector_quantize_pytorch", "latent")
        book = {
            "codebook_size": codes,
            "decay": DECAY,
            "commitment_weight": commitment,
            "kmeans_init": True,
            "threshold_ema_dead_code": DEAD,
            "rotation_trick": False,
        }
        if kind == "vq":
            self.layer = library.VectorQuantize(dim=size, **book)
        elif kind == "residual-vq":
            self.layer = library.ResidualVQ(dim=size, num_quantizers=levels, **book)
        else:
            with torch.device("cpu"):  # it computes with its constants, which a device without values cannot
                self.layer = library.FSQ(levels=FSQ_LEVELS[codes], dim=size)

    def forward(self, vectors: Tensor) -> Quantized:
        if self.kind == "none" or not len(vectors):  # no vector changes no codebook
            return Quantized(vectors, vectors.new_zeros(len(vectors), 0, dtype=torch.long), vectors.new_zeros(()))
        found, codes, *loss = self.layer(vectors[None])
        codes = codes[0].reshape(len(vectors), -1).long()
        if self.kind == "fsq":
            return Quantized(found[0], codes, vectors.new_zeros(()))
        # the library lets a gradient through once for each level
        return Quantized(vectors + (found[0] - vectors).detach(), codes, loss[0].sum())
