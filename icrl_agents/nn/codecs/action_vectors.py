"""Random action vectors of Headless-AD, drawn per lifetime. Axis letters: B rows, A actions, K vector size, D width."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from icrl_agents.core.action_masks import MAX_ACTIONS
from icrl_agents.core.printable import printable
from icrl_agents.nn.codecs.codec import EMBEDDING_STD, Codec
from icrl_agents.nn.codecs.distributions import Gaussian


class ActionVectors(Codec):
    """Codec of any number of actions, each represented by a random vector (K,) of its lifetime (arXiv 2312.13327).

    `embed` and `head` process vectors, all other methods action numbers; no parameter belongs to a single action.

    Args:
        size: K.

    Raises:
        ValueError: the space is not Discrete(n) with start 0 and n up to `MAX_ACTIONS`.
    """

    options = None  # any number of actions
    tempers = True

    def __init__(self, space: gymnasium.Space, width: int, size: int):
        super().__init__(space, width, predicts=True)
        if not self.accepts(space):
            raise ValueError(
                f"actions described by vectors are a Discrete(n) from 0 on, n at most {MAX_ACTIONS}, "
                f"the space is {printable(space)}: choose another method"
            )
        self.count = int(space.n)  # type: ignore[attr-defined]
        self.input, self.output = nn.Linear(size, width, bias=False), nn.Linear(width, size)
        nn.init.normal_(self.input.weight, std=EMBEDDING_STD)

    @staticmethod
    def accepts(space: gymnasium.Space) -> bool:
        return isinstance(space, spaces.Discrete) and space.start == 0 and space.n <= MAX_ACTIONS

    def embed(self, x: Tensor) -> Tensor:
        return self.input(x)  # (..., K) -> (..., D)

    def head(self, hidden: Tensor) -> Gaussian:
        mean = self.output(hidden)  # (..., K)
        bound = mean.new_tensor(torch.inf)  # unit variance, unbounded
        return Gaussian(mean, torch.zeros_like(mean), -bound, bound, dims=1)

    def check_range(self, array: np.ndarray, what: str) -> None:
        if array.size and array.min() < 0:
            raise ValueError(f"{what} {printable(array)} is below 0: actions are 0, 1, ...")


def draw_vectors(rows: int, count: int, size: int, rng: np.random.Generator, normal: bool = False) -> np.ndarray:
    """Random action vectors (B, A, K) float32: orthonormal in each row, uniformly distributed.

    Beyond K actions, each further block of K gets its own orthonormal basis.

    Args:
        rows, count, size: B, A and K.
        normal: independent standard normal entries instead.
    """
    if normal:
        return rng.standard_normal((rows, count, size), np.float32)
    blocks = []
    for start in range(0, count, size):
        gaussian = rng.standard_normal((rows, size, min(size, count - start)))  # (B, K, up to K)
        basis, triangle = np.linalg.qr(gaussian)
        # QR with a positive diagonal samples the Haar measure (Mezzadri 2007)
        basis *= np.sign(np.diagonal(triangle, axis1=1, axis2=2))[:, None]
        blocks.append(basis.swapaxes(1, 2))
    return np.concatenate(blocks, 1).astype(np.float32)
