"""Memory: what a method computes from the visible steps of a context and keeps. Axis letter: B rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np


class Memory(Protocol):
    """Values computed from the steps of a context, such as a transformer cache; one entry per row."""

    def select(self, index: np.ndarray) -> Self:
        """Independent copy of the rows `index` (repeats allowed)."""

    def draft(self) -> Self:
        """Copy that shares the cached tensors: it may append to them, unseen by this one, or replace them."""

    def wipe(self) -> None:
        """Zero the entries appended by failed drafts: attention masks hide finite values there, but not NaN."""

    def drop(self, index: np.ndarray) -> None:
        """Invalidate the rows `index`, whose oldest steps were dropped: the positions of the others have changed.

        The cached entries become invalid in this memory and in all that share its tensors, and are overwritten.
        """

    def forget(self, index: np.ndarray) -> None:
        """Clear the rows `index` for a new task."""

    def assign(self, index: np.ndarray, part: Self) -> None:
        """Overwrite the rows `index` with those of `part`."""

    def arrays(self) -> dict[str, np.ndarray]:
        """State as arrays, each with one entry per row, or with the cached tokens of all rows one after the other."""

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the state of `arrays` into this new memory; `length` (B,) there is the number of closed steps.

        Raises:
            ValueError: a value that no context of that length has.
        """
