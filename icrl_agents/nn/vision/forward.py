"""Forward models: the change of the latest frame, from frames and an action vector.

Axis letters: N rows, C channels, H height, W width, Z size of the action vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from icrl_agents.nn.vision.encoders import SMALLEST, draw_weights, mlp
from icrl_agents.nn.vision.vit import VitForward, VitSize

BASE = 8  # channels at full size; they double with each halving, up to LARGEST
LARGEST = 64


class UNet(nn.Module):
    """Change of an image by a U-Net (Ronneberger et al. 2015, arXiv 1505.04597), which at first predicts no change.

    The action vector is given at full size, on every pixel, and at the smallest size.

    Args:
        shape: (C, H, W) of one image.
        frames: number of images that it reads.
        action: Z.
    """

    def __init__(self, shape: tuple[int, int, int], frames: int, action: int):
        super().__init__()
        channels, height, length = shape
        self.sizes = [(height, length)]
        while max(self.sizes[-1]) > SMALLEST:
            self.sizes.append((math.ceil(self.sizes[-1][0] / 2), math.ceil(self.sizes[-1][1] / 2)))
        widths = [min(BASE * 2**level, LARGEST) for level in range(len(self.sizes))]
        given = frames * channels + action
        self.down = nn.ModuleList(
            nn.Conv2d(given if level == 0 else widths[level - 1], width, 3, stride=1 if level == 0 else 2, padding=1)
            for level, width in enumerate(widths)
        )
        self.bottom = nn.Conv2d(widths[-1] + action, widths[-1], 1)
        self.up = nn.ModuleList(
            nn.Conv2d(widths[level] + widths[level - 1], widths[level - 1], 3, padding=1)
            for level in range(len(widths) - 1, 0, -1)
        )
        self.last = nn.Conv2d(widths[0] + frames * channels, channels, 1)
        draw_weights(self)
        nn.init.zeros_(self.last.weight)

    def forward(self, frames: Tensor, action: Tensor) -> Tensor:
        """Changes (N, C, H, W) of the last of the frames (N, frames * C, H, W), given action vectors (N, Z)."""
        everywhere = action[:, :, None, None]
        x = torch.cat([frames, everywhere.expand(-1, -1, *frames.shape[-2:])], 1)
        skips = []
        for layer in self.down:
            x = functional.gelu(layer(x))
            skips.append(x)
        x = functional.gelu(self.bottom(torch.cat([x, everywhere.expand(-1, -1, *x.shape[-2:])], 1)))
        for layer, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = functional.gelu(layer(torch.cat([functional.interpolate(x, skip.shape[-2:]), skip], 1)))
        return self.last(torch.cat([x, frames], 1))


class VectorForward(nn.Module):
    """Change of a vector by an MLP."""

    def __init__(self, size: int, frames: int, action: int, width: int):
        super().__init__()
        self.layers = mlp([frames * size + action, width, width, size])

    def forward(self, frames: Tensor, action: Tensor) -> Tensor:
        """Changes (N, size) of the last of the frames (N, frames * size), given action vectors (N, Z)."""
        return self.layers(torch.cat([frames, action], 1))


def make_forward(shape: tuple[int, ...], frames: int, action: int, width: int, vit: VitSize | None = None) -> nn.Module:
    """Forward model of frames of a shape: (C, H, W) images, by a transformer if `vit` gives its sizes; or (size,)."""
    if len(shape) != 3:
        return VectorForward(shape[0], frames, action, width)
    image = shape[0], shape[1], shape[2]
    return VitForward(image, frames, action, width, vit) if vit else UNet(image, frames, action)
