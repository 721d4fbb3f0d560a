"""Codecs of integers and integer vectors: embedding tables and categorical heads. Axis letter: D width."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import value_range
from icrl_agents.nn.codecs.codec import EMBEDDING_STD, Codec
from icrl_agents.nn.codecs.distributions import Categorical, Independent


class DiscreteCodec(Codec):
    """Codec of a Discrete space: one learned embedding per value."""

    tempers = True

    def __init__(self, space: spaces.Discrete, width: int, predicts: bool, embeds: bool = True):
        super().__init__(space, width, predicts)
        self.start, self.count = int(space.start), int(space.n)
        if self.start == 0:
            self.options = self.count
        if not self.start <= 0 < self.start + self.count:  # the placeholder 0 has no embedding, see Codec.tensor
            self.ends = self.start, self.start + self.count - 1
        if embeds:
            self.table = nn.Embedding(self.count, width)
        if predicts:
            self.logits = nn.Linear(width, self.count)
        if embeds:
            nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    def embed(self, x: Tensor) -> Tensor:
        return self.table(x - self.start if self.start else x)  # (..., D)

    def head(self, hidden: Tensor) -> Categorical:
        return Categorical(self.logits(hidden), self.start)

    def check_range(self, array: np.ndarray, what: str) -> None:
        low, high = self.start, self.start + self.count - 1
        if array.size and (array.min() < low or array.max() > high):
            raise ValueError(
                f"{what} {printable(array)} is outside {low}..{high}: is this the env the agent was trained on?"
            )


class IntegerVectorCodec(Codec):
    """Codec of integer vectors: one embedding table per dimension, summed.

    A grid cell absent from the training data still has trained row and column embeddings; one embedding per cell does
    not generalise to held-out goals.
    """

    shift: Tensor

    def __init__(self, space: gymnasium.Space, width: int, predicts: bool, embeds: bool = True):
        super().__init__(space, width, predicts)
        self.low, self.high = (end.reshape(-1).astype(np.int64) for end in value_range(space))  # (dimensions,)
        self.shape = tuple(space.shape or ())
        if ((self.low > 0) | (self.high < 0)).any():  # zero is outside the space, see Codec.tensor
            self.ends = tuple(end.reshape(self.shape).astype(space.dtype) for end in (self.low, self.high))
        sizes = self.high - self.low + 1  # (dimensions,) number of values
        shift = np.cumsum(sizes) - sizes - self.low  # value + shift = row of the shared table
        self.register_buffer("shift", torch.as_tensor(shift), persistent=False)
        if embeds:
            self.table = nn.Embedding(int(sizes.sum()), width)
        self.logits = nn.ModuleList(nn.Linear(width, int(n)) for n in sizes if predicts)
        if embeds:
            nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    def embed(self, x: Tensor) -> Tensor:
        return self.table(x.flatten(-len(self.shape)) + self.shift).sum(-2)  # (..., dimensions, D) -> (..., D)

    def head(self, hidden: Tensor) -> Independent:
        parts = [Categorical(f(hidden), int(low)) for f, low in zip(self.logits, self.low, strict=True)]
        return Independent(parts, self.shape)

    def check_range(self, array: np.ndarray, what: str) -> None:
        flat = array.reshape(-1, len(self.low))
        if ((flat < self.low) | (flat > self.high)).any():
            raise ValueError(
                f"{what} {printable(array)} is outside {printable(self.low)}..{printable(self.high)}: "
                "is this the env the agent was trained on?"
            )
