"""Codec: the contract for embedding values of a space, and for predicting a distribution over them.

Axis letters: B rows, D width.
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
from icrl_agents.nn.devices import to_device

EMBEDDING_STD = 0.5  # sums of unit-scale embeddings would dominate the residual stream of a narrow model


class Codec(nn.Module, ABC):
    """Embedding and output head of one space: `embed` (..., *shape) -> (..., D), `head` (..., D) -> Distribution.

    Args:
        space: the Gymnasium space; its values have shape (*shape).
        width: D.
        predicts: whether to build the head.

    Codecs that embed actions also take `embeds`, whether to build the embedding.
    """

    options: int | None = 0  # number of actions 0, 1, ...; None: any number; 0: not such an action space
    tempers = False  # whether the distributions of the head have a temperature, `Categorical.tempered`
    noise_size = 0  # random numbers that a loss of the head takes for each value
    dtype = torch.long  # of the tensors that `embed` takes
    ends: tuple[Any, ...] | None = None  # (lowest, highest) value of a table without an entry for zero, else None

    def __init__(self, space: gymnasium.Space, width: int, predicts: bool):
        super().__init__()
        self.space, self.predicts = space, predicts

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (..., D) of values (..., *shape)."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Distribution:
        """Distribution over the space predicted at each hidden vector (..., D)."""

    def tensor(self, x: np.ndarray, device: torch.device) -> Tensor:
        """Tensor of an array, in the dtype that `embed` takes.

        The previous action of a lifetime's first step is stored as zero; if the space excludes zero, the nearest value
        replaces it here.
        """
        if self.ends is not None:
            x = np.clip(x, *self.ends)
        return to_device(x, device, self.dtype)

    def array(self, x: Tensor) -> np.ndarray:
        """NumPy values of the space from the head's samples or mode; the inverse of `tensor`."""
        return x.cpu().numpy().astype(self.space.dtype, copy=False)

    def fit_normalization(self, x: Tensor) -> None:
        """Set the normalisation statistics, if the codec has any, from data (..., *shape)."""

    def fit_actions(self, x: Tensor) -> None:
        """`fit_normalization` for actions: bounds are mapped to -1 and 1, entries without bounds follow the data."""

    def validate(self) -> None:
        """Refuse (ValueError) impossible normalisation statistics, in loaded weights."""

    def check(self, x: Any, rows: int | None, what: str) -> np.ndarray:
        """Array (rows, *shape), or (*shape) if `rows` is None, in the dtype of the space.

        Raises:
            ValueError: wrong shape, dtype or range; the message names the value as `what`.
        """
        array = to_array(x, what)
        shape = tuple(self.space.shape or ())
        wanted = shape if rows is None else (rows, *shape)  # rows None: a single value
        if array.shape != wanted:
            raise ValueError(f"{what} has shape {array.shape}, expected {wanted}: {self.shape_hint(array.shape, rows)}")
        array = stored(array, self.space.dtype or array.dtype, what)  # refuses lossy casts
        self.check_range(array, what)
        return array

    @abstractmethod
    def check_range(self, array: np.ndarray, what: str) -> None:
        """Refuse (ValueError) values outside the space; the message names them as `what`."""

    def shape_hint(self, found: tuple[int, ...], rows: int | None) -> str:
        """Likely fix of a value of shape `found`, with `rows` as in `check`."""
        shape = tuple(self.space.shape or ())
        if rows is None and found[1:] == shape:
            return f"for a batch call reset(num_envs={found[0]}) or reset(env) first"
        if rows is not None and found == shape:
            return "for single environments call reset() without num_envs first"
        return "is this the environment the agent was trained on?"
