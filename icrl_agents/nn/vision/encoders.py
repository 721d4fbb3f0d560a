"""Encoders of images. Axis letters: N images, C channels, H height, W width, D width of vectors."""

from __future__ import annotations

import math

from torch import Tensor, nn

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
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
