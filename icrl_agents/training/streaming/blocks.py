"""Blocks: groups of neighbouring histories that are read at once. Axis letters: B rows (streams), T steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from icrl_agents.histories.parts import Part

MB = 1 << 20
MOST = 16 * MB  # memory in bytes of a block while it is read
LEAST = 16  # blocks that are mixed at once, at least


class Block(NamedTuple):
    """Histories `rows` of a part."""

    part: Part
    rows: slice
    filled: np.ndarray  # numbers within the block of the histories that have a step

    @property
    def lengths(self) -> np.ndarray:
        """Number of steps of each history in `filled`."""
        return self.part.layout.lengths[self.rows][self.filled]


class Sizes(NamedTuple):
    """Sizes of a stream."""

    window: int  # steps of a window
    visits: int  # windows of a history each time it is read: as many as cover it
    bytes: int  # memory of a window

    @classmethod
    def of(cls, parts: Sequence[Part], window: int) -> Sizes:
        lengths = np.concatenate([part.layout.lengths for part in parts])
        lengths = lengths[lengths > 0]
        window = min(window, int(lengths.max()))
        static = max(part.layout.row_bytes - part.layout.steps * part.layout.step_bytes for part in parts)
        return cls(
            window,
            max(1, round(float(lengths.mean()) / window)),
            window * max(part.layout.step_bytes for part in parts) + static,
        )


def cut_blocks(parts: Sequence[Part], most: int) -> list[Block]:
    """Blocks of up to `most` bytes of memory, or of one history; those without any step are left out."""
    blocks = []
    for part in parts:
        lengths = part.layout.lengths
        count = min(len(lengths), math.ceil(part.nbytes / most))
        edges = np.linspace(0, len(lengths), count + 1).astype(int).tolist()
        for start, stop in pairwise(edges):
            if len(filled := np.flatnonzero(lengths[start:stop])):
                blocks.append(Block(part, slice(start, stop), filled))
    return blocks


def total_bytes(parts: Sequence[Part]) -> int:
    """Memory in bytes of all histories."""
    return sum(part.nbytes for part in parts)
