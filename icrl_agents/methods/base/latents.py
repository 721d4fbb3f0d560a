"""Latents: the memory of CAD beyond its window. Axis letters: B rows, Z latents, D width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icrl_agents.nn.cache import Cache

MOST_FOLDS = 1 << 40  # number of folds that a saved context may claim


@dataclass
class Latents:
    """`Memory` of each row: latents of the folded steps, and the cache of latents and visible steps."""

    cache: Cache
    latents: Tensor  # (B, Z, D), zeros before the first fold
    folds: np.ndarray  # (B,) number of folds so far

    def select(self, index: np.ndarray) -> Latents:
        at = torch.as_tensor(index, device=self.latents.device)
        return Latents(self.cache.select(index), self.latents[at], self.folds[index])

    def draft(self) -> Latents:
        return Latents(self.cache.draft(), self.latents, self.folds)

    def wipe(self) -> None:
        self.cache.wipe()

    def drop(self, index: np.ndarray) -> None:
        self.cache.drop(index)

    def assign(self, index: np.ndarray, part: Latents) -> None:
        self.cache.assign(index, part.cache)
        self.latents = self.latents.index_copy(0, torch.as_tensor(index, device=self.latents.device), part.latents)
        self.folds = self.folds.copy()
        self.folds[index] = part.folds

    def arrays(self) -> dict[str, np.ndarray]:
        return {**self.cache.arrays(), "latents": self.latents.cpu().numpy(), "folds": self.folds}

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.cache.fill(arrays)
        folds = arrays["folds"]
        if folds.min() < 0 or folds.max() > MOST_FOLDS:
            raise ValueError(f"a number of folds outside 0..{MOST_FOLDS}")
        self.latents = torch.as_tensor(arrays["latents"], device=self.latents.device)
        self.folds = folds.copy()

    def forget(self, index: np.ndarray) -> None:
        self.cache.forget(index)
        self.latents = self.latents.index_fill(0, torch.as_tensor(index, device=self.latents.device), 0)
        self.folds = self.folds.copy()
        self.folds[index] = 0
