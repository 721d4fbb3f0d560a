"""Layout of the histories of a task: lengths, dtypes and shapes, without the values.

Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK
from icrl_agents.histories.columns import GIVEN, LENGTH, memory_bytes, read_length

if TYPE_CHECKING:
    from icrl_agents.histories.store import HistoryStore

MASK = GIVEN + ACTION_MASK  # optional: without it all actions are legal
AGAIN = "collect all tasks in the same way"
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


class Part(NamedTuple):
    """Histories of one task in one file."""

    task: int
    store: HistoryStore
    layout: Layout

    @property
    def nbytes(self) -> int:
        """Memory in bytes of all of them as `Steps`."""
        return len(self.layout.lengths) * self.layout.row_bytes


def check_same_columns(parts: Sequence[Part]) -> None:
    """ValueError for histories that differ in columns and so fit no common batch; action masks are optional."""
    first, wanted = parts[0], parts[0].layout.columns
    for part in parts:
        found, which = part.layout.columns, _names(first, part)
        for name in sorted((wanted.keys() ^ found.keys()) - {MASK}):
            raise ValueError(f"{part.store.path}: only one of {which} has '{printable(name)}': {AGAIN}")
        for name in wanted.keys() & found.keys():
            if wanted[name] != found[name]:
                one, other = printable(wanted[name]), printable(found[name])
                raise ValueError(
                    f"{part.store.path}: '{printable(name)}' is {one}, but {other} in task {part.task}: {AGAIN}"
                )
        wanted = {**found, **wanted}  # the first tasks may have no action mask


def _names(first: Part, other: Part) -> str:
    if first.store.path == other.store.path:
        return f"the tasks {first.task} and {other.task}"
    return f"the tasks {first.task} ({first.store.path}) and {other.task}"


def _size(entry: Entry) -> int:
    dtype, shape = entry
    return dtype.itemsize * math.prod(shape)
