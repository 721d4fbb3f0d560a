"""Decisions: the memory of IDT: the cached tokens of both levels, and the chunk that the last decision is for.

Axis letter: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from icrl_agents.core.arrays import under
from icrl_agents.nn.cache import Cache


@dataclass
class Decisions:
    """`Memory` of both levels, one entry per row."""

    high: Cache  # high-level tokens of all chunks, the current one included
    low: Cache  # low-level tokens of the current chunk
    begin: np.ndarray  # (B,) first column of the current chunk, -1: no decision yet
    target: np.ndarray  # (B,) target return, NaN: the best return in the window
    reviewed: np.ndarray  # (B,) bool: the column `REVIEW` is known for all finished chunks in the window
    chunk: int  # maximum number of steps in a chunk

    def select(self, index: np.ndarray) -> Decisions:
        caches = self.high.select(index), self.low.select(index)
        return Decisions(*caches, self.begin[index], self.target[index], self.reviewed[index], self.chunk)

    def draft(self) -> Decisions:
        return Decisions(self.high.draft(), self.low.draft(), self.begin, self.target, self.reviewed, self.chunk)

    def wipe(self) -> None:
        self.high.wipe()
        self.low.wipe()

    def start(self, index: np.ndarray, column: Any) -> None:
        """Set the first column (n,) of the current chunk in the rows `index`."""
        self.begin = self.begin.copy()
        self.begin[index] = column

    def review(self, index: np.ndarray, known: bool | np.ndarray = True) -> None:
        """Set whether all reviews of the rows `index` are known."""
        self.reviewed = self.reviewed.copy()
        self.reviewed[index] = known

    def drop(self, index: np.ndarray) -> None:
        self.high.drop(index)
        self.low.drop(index)
        self.start(index, -1)

    def assign(self, index: np.ndarray, part: Decisions) -> None:
        self.high.assign(index, part.high)
        self.low.assign(index, part.low)
        self.start(index, part.begin)
        self.review(index, part.reviewed)
        self.target = self.target.copy()
        self.target[index] = part.target

    def arrays(self) -> dict[str, np.ndarray]:
        both = {"high": self.high.arrays(), "low": self.low.arrays()}
        caches = {f"{level}_{name}": value for level, found in both.items() for name, value in found.items()}
        own = {"begin": self.begin, "target": np.nan_to_num(self.target), "reviewed": self.reviewed}
        return {**caches, **own, "asked": ~np.isnan(self.target)}

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        for level, cache in (("high", self.high), ("low", self.low)):
            cache.fill(under(f"{level}_", arrays))
        begin, length = arrays["begin"], arrays["length"]
        if (begin < -1).any() or (begin > length).any() or ((begin >= 0) & (length - begin > self.chunk)).any():
            raise ValueError("a chunk that does not begin among the visible steps")
        self.reviewed = arrays["reviewed"].copy()
        self.begin, self.target = begin.copy(), np.where(arrays["asked"], arrays["target"], np.nan).astype(np.float32)

    def forget(self, index: np.ndarray) -> None:
        """Clear both caches in the rows `index`; the target return stays."""
        self.high.forget(index)
        self.low.forget(index)
        self.start(index, -1)
        self.review(index, False)
