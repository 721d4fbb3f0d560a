"""Layout of the histories of a task: lengths, dtypes and shapes, without the values.

Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import NamedTuple

import h5py
import numpy as np

from icrl_agents.histories.columns import GIVEN, LENGTH, memory_bytes, read_length

DERIVED = 3 + 2 * 4  # bytes a step: first, start and mask; lowest and highest reward so far

Entry = tuple[np.dtype, tuple[int, ...]]  # dtype and shape of a value at one step, or of one static value


class Layout(NamedTuple):
    """What the histories of a task hold."""

    lengths: np.ndarray  # (B,) number of steps of each history
    steps: int  # T
    columns: dict[str, Entry]
    nbytes: int  # memory of the stored columns

    @classmethod
    def of(cls, columns: Mapping[str, h5py.Dataset]) -> Layout:
        """Layout of the checked columns of a task; ValueError for a length outside 0..T."""
        entries = {
            name: (column.dtype.newbyteorder("="), column.shape[1 if name.startswith(GIVEN) else 2 :])
            for name, column in columns.items()
            if name != LENGTH
        }
        return cls(read_length(columns), columns["reward"].shape[1], entries, memory_bytes(columns.values()))

    def only(self, names: Container[str], added: Mapping[str, Entry]) -> Layout:
        """The layout with its columns among `names`, and with `added` ones that it lacks; static values stay."""
        kept = {name: entry for name, entry in self.columns.items() if name in names or name.startswith(GIVEN)}
        return self._replace(columns={**added, **kept})

    @property
    def step_bytes(self) -> int:
        """Memory in bytes of one step of `Steps`, with the columns that reading derives."""
        sizes = {name: _size(entry) for name, entry in self.columns.items() if not name.startswith(GIVEN)}
        return sum(sizes.values()) + sum(sizes[name] for name in ("obs", "action", "reward")) + DERIVED

    @property
    def row_bytes(self) -> int:
        """Memory in bytes of one history of `Steps`."""
        static = sum(_size(entry) for name, entry in self.columns.items() if name.startswith(GIVEN))
        return self.steps * self.step_bytes + static


def _size(entry: Entry) -> int:
    dtype, shape = entry
    return dtype.itemsize * math.prod(shape)
