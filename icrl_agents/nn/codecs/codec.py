"""The contract of a codec: values of one space as vectors, and hidden vectors as distributions over that space.

Axis letter: D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.arrays import stored, to_array
from icrl_agents.nn.codecs.distributions import Distribution

EMBEDDING_STD = 0.5  # summed tables of unit scale would drown the residual stream of a narrow model


class Codec(nn.Module, ABC):
    """One space's translator.

    `embed(x)` (..., *shape) -> (..., D); `head(h)` (..., D) -> Distribution over the space.
    """

    def __init__(self, space: gymnasium.Space, width: int, predicts: bool):
        super().__init__()
        self.space, self.predicts = space, predicts

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The vectors (..., D) of values (..., *shape)."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Distribution:
        """The distribution over the space that each hidden vector (..., D) stands for."""

    def tensor(self, x: np.ndarray, device: torch.device) -> Tensor:
        """The array as a tensor of the type `embed` takes.

        Before a lifetime's first step the previous action is zero; where zero is not in the space, the nearest value.
        """
        if self.ends is not None:
            x = np.clip(x, *self.ends)
        return torch.as_tensor(x, dtype=self.dtype, device=device)

    def array(self, x: Tensor) -> np.ndarray:
        """What the head's distribution gave, as values of the space: `tensor` the other way round."""
        return x.cpu().numpy().astype(self.space.dtype, copy=False)

    options: int | None = 0  # how many actions 0, 1, ... there are, None for any number; 0 in other spaces
    dtype = torch.long
    ends: tuple[Any, ...] | None = None  # the lowest and highest value of a table that has none for zero

    def fit_normalization(self, x: Tensor) -> None:
        """Take the statistics of normalisation, where there are any, from data (..., *shape)."""

    def validate(self) -> None:
        """Refuse statistics that no data has; a ValueError if so. To be called on weights that were loaded."""

    def check(self, x: Any, rows: int | None, what: str) -> np.ndarray:
        """Give `x` as an array (rows, *shape), or (*shape) for rows None, of the space's type; refuse other values."""
        array = to_array(x, what)
        shape = tuple(self.space.shape or ())
        wanted = shape if rows is None else (rows, *shape)
        if array.shape != wanted:
            raise ValueError(f"{what} has shape {array.shape}, expected {wanted}: {_shape_hint(array, wanted, rows)}")
        array = stored(array, self.space.dtype or array.dtype, what)
        self.check_range(array, what)
        return array

    @abstractmethod
    def check_range(self, array: np.ndarray, what: str) -> None:
        """Refuse values outside the space; a ValueError that names them as `what`."""


def _shape_hint(array: np.ndarray, wanted: tuple[int, ...], rows: int | None) -> str:
    if rows is None and array.shape[1:] == wanted:
        return f"for a batch call reset(num_envs={array.shape[0]}) or reset(env) first"
    if rows is not None and array.shape == wanted[1:]:
        return "for single environments call reset() without num_envs first"
    return "is this the environment the agent was trained on?"
