"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929) that read several images, or predict one.

Axis letters: N rows, C channels, H height, W width, P patches of an image, L tokens, D width, Z size of the action
vector.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

PLACE_STD = 0.3  # of learnt positions when they are drawn, about the size of embedded patches


class VitSize(NamedTuple):
    """Sizes of a transformer of patches, but for its width."""

    layers: int
    heads: int
    patch: int  # side of a patch in pixels


class Patches(nn.Module):
    """Tokens (N, frames * P, D) of images on one axis (N, frames * C, H, W): embedded patches plus learnt positions.

    Args:
        shape: (C, H, W) of one image; it is padded to whole patches.
        frames: number of images.
        width: D.
        patch: side of a patch in pixels.
    """

    def __init__(self, shape: tuple[int, int, int], frames: int, width: int, patch: int):
        super().__init__()
        channels, height, length = shape
        self.frames, self.margin = frames, (0, -length % patch, 0, -height % patch)
        self.count = math.ceil(height / patch) * math.ceil(length / patch)  # P
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.place = nn.Parameter(torch.randn(self.count, width) * PLACE_STD)
        self.frame = nn.Parameter(torch.randn(frames, 1, width) * PLACE_STD)

    def forward(self, images: Tensor) -> Tensor:
        each = functional.pad(images, self.margin).unflatten(1, (self.frames, -1)).flatten(0, 1)
        tokens = self.embed(each).flatten(2).transpose(1, 2)  # (N * frames, P, D)
        return (tokens.unflatten(0, (-1, self.frames)) + self.place + self.frame).flatten(1, 2)


def blocks(width: int, size: VitSize) -> nn.Sequential:
    """Transformer blocks in which every token attends to all, with a norm after the last one."""
    made = [
        nn.TransformerEncoderLayer(
            width, size.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        for _ in range(size.layers)
    ]
    return nn.Sequential(*made, nn.LayerNorm(width))


class VitEncoder(nn.Module):
    """Vectors (N, D) of several images (N, frames * C, H, W): what an additional token has read from their patches."""

    def __init__(self, shape: tuple[int, int, int], frames: int, width: int, size: VitSize):
        super().__init__()
        self.patches = Patches(shape, frames, width, size.patch)
        self.reader = nn.Parameter(torch.randn(width) * PLACE_STD)
        self.blocks = blocks(width, size)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        return self.blocks(torch.cat([self.reader.expand(len(tokens), 1, -1), tokens], 1))[:, 0]


class VitForward(nn.Module):
    """Change of the latest of several images, given an action vector, which is one more token; at first no change.

    The tokens are those of its own images and of the action vector alone. An encoder that it shared with an inverse
    model would have seen the image that is to be predicted.
    """

    def __init__(self, shape: tuple[int, int, int], frames: int, action: int, width: int, size: VitSize):
        super().__init__()
        self.shape, self.patch = shape, size.patch
        self.patches = Patches(shape, frames, width, size.patch)
        self.action = nn.Linear(action, width)
        self.blocks = blocks(width, size)
        self.last = nn.Linear(width, shape[0] * size.patch**2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, frames: Tensor, action: Tensor) -> Tensor:
        """Changes (N, C, H, W) of the last of the frames (N, frames * C, H, W), given action vectors (N, Z)."""
        tokens = torch.cat([self.action(action)[:, None], self.patches(frames)], 1)
        pixels = self.last(self.blocks(tokens)[:, -self.patches.count :])  # (N, P, C * patch * patch)
        _, height, length = self.shape
        sides = tuple(math.ceil(side / self.patch) * self.patch for side in (height, length))
        return functional.fold(pixels.transpose(1, 2), sides, self.patch, stride=self.patch)[..., :height, :length]
