"""Frames: observations as float arrays for networks that read several of them, or predict them.

Axis letters: N observations, C channels, H height, W width.
"""

from __future__ import annotations

import math

import gymnasium
import torch
from torch import Tensor, nn

from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import channels_last, is_box, is_image_box, pixel_range
from icrl_agents.nn.numerics import mean_and_std

CLIP = 10.0  # of standardised entries: one that hardly moves may jump by thousands of its standard deviations


class Frames(nn.Module):
    """Images as (..., C, H, W) from -0.5 to 0.5, or other Boxes as standardised vectors (..., size) from -10 to 10.

    Attributes:
        shape: (C, H, W), or (size,).
        bounded: whether entries are from -0.5 to 0.5, as in images.

    Raises:
        ValueError: the space is no Box.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, space: gymnasium.Space):
        super().__init__()
        if not is_box(space):
            raise ValueError(f"observations are {printable(space, 60)}: models of videos take images and other Boxes")
        self.axes = len(space.shape)
        self.bounded, self.last = is_image_box(space), False
        if self.bounded:
            a, b, c = space.shape if self.axes == 3 else (1, *space.shape)
            self.last, (self.low, self.range) = channels_last(space), pixel_range(space)
            self.shape: tuple[int, ...] = (c, a, b) if self.last else (a, b, c)
        else:
            self.shape = (math.prod(space.shape),)
        self.register_buffer("mean", torch.zeros(() if self.bounded else self.shape))
        self.register_buffer("std", torch.ones(() if self.bounded else self.shape))

    def forward(self, obs: Tensor) -> Tensor:
        """Frames (..., *shape) of observations (..., *space.shape), of any dtype."""
        if not self.bounded:
            flat = obs.float().reshape(*obs.shape[: obs.dim() - self.axes], *self.shape)
            return ((flat - self.mean) / self.std).clamp(-CLIP, CLIP)
        images = obs.unsqueeze(-3) if self.axes == 2 else obs
        return ((images.movedim(-1, -3) if self.last else images).float() - self.low) / self.range - 0.5

    @torch.no_grad()
    def fit_normalization(self, obs: Tensor) -> None:
        """Set mean and std of vectors from observations (N, *space.shape); a constant entry keeps std 1."""
        if self.bounded:
            return
        mean, std = mean_and_std(obs.reshape(len(obs), -1))
        self.mean.copy_(mean)
        self.std.copy_(std)

    def validate(self) -> None:
        """Refuse (ValueError) impossible statistics, in loaded weights."""
        if not (self.mean.isfinite() & self.std.isfinite() & (self.std > 0)).all():
            raise ValueError("mean or std of the observations is not finite, or std is not above 0: damaged weights")
