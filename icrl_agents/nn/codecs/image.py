"""Codec of images: Box spaces of bytes. Axis letters: H height, W width, C channels, D width of vectors."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import channels_last, pixel_range
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.vision.encoders import ConvEncoder

UNPREDICTED = (
    "images ({space}) are not predicted: as observations use dynamics=False, and a method other than cad; as actions a "
    "Box of floats"
)


class ImageCodec(Codec):
    """Embedding of images (..., H, W, C), (..., C, H, W) or (..., H, W) of bytes by a convolutional network.

    The channels are the shorter one of the first and the last axis. Images stay bytes until they are embedded, from
    -0.5 to 0.5 between the bounds of the space.

    Raises:
        ValueError: `predicts`, since it has no head.
    """

    dtype = torch.uint8
    space: spaces.Box

    def __init__(self, space: spaces.Box, width: int, predicts: bool):
        if predicts:
            raise ValueError(UNPREDICTED.format(space=printable(space, 60)))
        super().__init__(space, width, predicts)
        a, b, c = space.shape if len(space.shape) == 3 else (1, *space.shape)
        self.channels_last, (self.low, self.range) = channels_last(space), pixel_range(space)
        self.encoder = ConvEncoder((c, a, b) if self.channels_last else (a, b, c), width)

    def embed(self, x: Tensor) -> Tensor:
        axes = len(self.space.shape or ())
        images = x.reshape(-1, *x.shape[x.dim() - axes :])  # (N, *shape)
        images = images[:, None] if axes == 2 else images.movedim(-1, 1) if self.channels_last else images
        vectors = self.encoder((images.float() - self.low) / self.range - 0.5)
        return vectors.reshape(*x.shape[: x.dim() - axes], -1)  # (..., D)

    def head(self, hidden: Tensor) -> Distribution:
        raise ValueError(UNPREDICTED.format(space=printable(self.space, 60)))

    def check_range(self, array: np.ndarray, what: str) -> None:
        if (array < self.space.low).any() or (array > self.space.high).any():
            raise ValueError(
                f"{what} is outside {printable(self.space, 60)}: is this the env the agent was trained on?"
            )
