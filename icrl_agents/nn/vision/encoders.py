"""Encoders of frames: images or vectors. Axis letters: N frames, C channels, H height, W width, D width of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from icrl_agents.nn.vision.vit import VitEncoder, VitSize

SMALLEST = 4  # largest side of the last feature map
CHANNELS = (16, 32)  # of the first convolution, and of all later ones


class ConvEncoder(nn.Module):
    """Vectors (N, D) of images (N, C, H, W): convolutions that halve the image, then one linear layer.

    The linear layer sees every place of the last map, so vectors tell where things are. Weights are drawn as in He et
    al. (2015): with PyTorch's default a thing of a few pixels vanishes in a deep network.

    Args:
        shape: (C, H, W).
        width: D.
    """

    def __init__(self, shape: tuple[int, int, int], width: int):
        super().__init__()
        channels, height, length = shape
        layers: list[nn.Module] = []
        while not layers or max(height, length) > SMALLEST:
            out = CHANNELS[min(len(layers) // 2, 1)]
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GELU()]
            channels, height, length = out, math.ceil(height / 2), math.ceil(length / 2)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * length, width))
        draw_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class MotionEncoder(nn.Module):
    """Vectors (N, D) of what moves in images (N, C, H, W), wherever: convolutions, then mean and maximum over places.

    Args:
        channels: C.
        width: D.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        narrow, wide = CHANNELS
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, narrow, 3, stride=2, padding=1), nn.GELU()),
            *(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GELU()),
            *(nn.Conv2d(wide, wide, 3, padding=1), nn.GELU()),
        )
        self.last = nn.Linear(2 * wide, width)
        draw_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        places = self.layers(images).flatten(2)  # (N, channels, places)
        return self.last(torch.cat([places.mean(2), places.amax(2)], 1))


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers between vectors of these sizes, with GELU between them."""
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def motion_encoder(shape: tuple[int, ...], frames: int, width: int, vit: VitSize | None = None) -> nn.Module:
    """Network from several frames on the first axis, (N, frames * C, H, W) or (N, frames * size), to (N, D).

    Args:
        vit: sizes of a transformer that reads the images; None: convolutions.
    """
    if len(shape) != 3:
        layers: nn.Module = mlp([frames * shape[0], width, width])
    elif vit:
        layers = VitEncoder((shape[0], shape[1], shape[2]), frames, width, vit)
    else:
        layers = MotionEncoder(frames * shape[0], width)
    return nn.Sequential(layers, nn.GELU())


def draw_weights(module: nn.Module) -> None:
    """Draw the weights of convolutions as in He et al. (2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
