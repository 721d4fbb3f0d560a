"""Codecs of real values: Box spaces and returns. Axis letter: D width."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from icrl_agents.core.arrays import check_finite
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import value_range
from icrl_agents.nn.codecs.bins import BinnedLinear, number_layer
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.distributions import Gaussian
from icrl_agents.nn.numerics import mean_and_std

MAX_BOUND = 1e6  # bounds farther from 0 say that there are none


class Units(NamedTuple):
    """Conversion between values (..., *shape) of a Box and flat normalised vectors (..., N)."""

    mean: Tensor  # (*shape), like the others
    std: Tensor
    low: Tensor
    high: Tensor

    @property
    def size(self) -> int:
        return self.mean.numel()

    @property
    def log_volume(self) -> Tensor:
        """Log of the volume that a unit volume of normalised vectors has in the space."""
        return self.std.log().sum()

    def flat(self, value: Tensor) -> Tensor:
        unit = (value - self.mean) / self.std
        return unit.flatten(-self.mean.dim()) if self.mean.dim() else unit[..., None]

    def value(self, unit: Tensor) -> Tensor:
        """Values clipped to the space."""
        value = unit.reshape(*unit.shape[:-1], *self.mean.shape) * self.std + self.mean
        return torch.maximum(torch.minimum(value, self.high), self.low)


class BoxCodec(Codec):
    """Linear embedding of real arrays and a diagonal Gaussian head; the normalisation is saved with the weights."""

    dtype = torch.float32
    space: spaces.Box
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    moments = 2  # head outputs per entry: mean and log std

    def __init__(self, space: spaces.Box, width: int, predicts: bool, embeds: bool = True, bins: int = 0):
        super().__init__(space, width, predicts)
        self.size, self.dims = math.prod(space.shape), len(space.shape)
        if embeds:
            self.linear = number_layer(self.size, width, bins)
        if predicts:
            self.outputs = self.make_outputs(width, self.size)
        self.register_buffer("mean", torch.zeros(space.shape))
        self.register_buffer("std", torch.ones(space.shape))
        self.limits = value_range(space)  # for the check of inputs
        self.register_buffer("low", torch.as_tensor(space.low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high, dtype=torch.float32), persistent=False)

    @property
    def binned(self) -> BinnedLinear | None:
        """The embedding, if it has bins."""
        layer = getattr(self, "linear", None)
        return layer if isinstance(layer, BinnedLinear) else None

    @property
    def units(self) -> Units:
        return Units(self.mean, self.std, self.low, self.high)

    def make_outputs(self, width: int, size: int) -> nn.Module:
        """Network from hidden vectors (..., D) to what `head` reads."""
        return nn.Linear(width, self.moments * size)

    def embed(self, x: Tensor) -> Tensor:
        return self.linear(self.units.flat(x))  # (..., D)

    def head(self, hidden: Tensor) -> Gaussian:
        mean, log_std = self.outputs(hidden).unflatten(-1, (2, -1)).unbind(-2)  # (..., size) each
        shape = (*hidden.shape[:-1], *self.mean.shape)
        mean, log_std = mean.reshape(shape), log_std.reshape(shape).clamp(-8, 4)
        # the outputs are in normalised units, the distribution in units of the space
        return Gaussian(mean * self.std + self.mean, log_std + self.std.log(), self.low, self.high, self.dims)

    def check_range(self, array: np.ndarray, what: str) -> None:
        check_finite(array, what)
        if (array < self.limits[0]).any() or (array > self.limits[1]).any():
            raise ValueError(f"{what} {printable(array)} is outside its Box: is this the env the agent was trained on?")

    def array(self, x: Tensor) -> np.ndarray:
        """NumPy value clipped to the space: the float32 bounds of the head may exceed those of a float64 space."""
        return np.clip(super().array(x), self.space.low, self.space.high)

    @torch.no_grad()
    def fit_normalization(self, x: Tensor) -> None:
        """Set mean and std from data (..., *shape); a constant entry keeps std 1."""
        mean, std = mean_and_std(x.reshape(-1, *self.mean.shape))
        self.mean.copy_(mean)
        self.std.copy_(std)
        if self.binned:
            self.binned.fit(self.units.flat(x).reshape(-1, self.size))

    @torch.no_grad()
    def fit_actions(self, x: Tensor) -> None:
        self.fit_normalization(x)
        low, high = self.low.double(), self.high.double()
        bounded = (low.abs() <= MAX_BOUND) & (high.abs() <= MAX_BOUND) & (low < high)
        self.mean.copy_(torch.where(bounded, (low + high) / 2, self.mean))
        self.std.copy_(torch.where(bounded, (high - low) / 2, self.std))

    def validate(self) -> None:
        if not (self.mean.isfinite() & self.std.isfinite() & (self.std > 0)).all():
            raise ValueError(
                f"the normalisation of {printable(self.space, 60)} has std {printable(self.std.numpy(force=True))} and "
                f"mean {printable(self.mean.numpy(force=True))}, "
                "expected finite numbers and std > 0: the checkpoint is damaged"
            )
        if self.binned:
            self.binned.validate(f"the bins of {printable(self.space, 60)}")


class ReturnCodec(BoxCodec):
    """Codec of returns: normalised, with a fixed std in the head, so its NLL is a squared error in normalised units."""

    moments = 1  # head outputs per entry: the mean

    def __init__(self, width: int, predicts: bool = True, embeds: bool = True):
        super().__init__(spaces.Box(-np.inf, np.inf, (), np.float32), width, predicts, embeds)

    def head(self, hidden: Tensor) -> Gaussian:
        mean = self.outputs(hidden)[..., 0]
        return Gaussian(mean * self.std + self.mean, self.std.log().expand_as(mean), self.low, self.high, dims=0)
