"""Columns of a task in a store: layout, writing, and checks before reading, which bound the memory of untrusted files.

Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Steps

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
FLAGS = ("terminated", "truncated")
GIVEN = "given."  # name prefix of static values (B, ...), on disk
LENGTH = "length"  # number of steps (B,) of each history
CHECKSUMS = "checksums"  # attribute of a task whose `length` has checksums, too; other columns always have them
PIPELINE = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)
CHUNK_BYTES = 1 << 18  # target chunk size: bytes read and decompressed at once

# Limits on files. Deflate compresses by a factor of up to 1032, real histories by 10 to 160.
MAX_CHUNK_BYTES = 1 << 24  # one step of a large observation
MAX_CHUNKS = 1 << 18  # chunks of a column
MAX_COLUMNS = 256  # columns of a task
MAX_TASK_BYTES = 1 << 33  # memory of all columns of a task
MAX_READ_BYTES = 1 << 36  # memory of all tasks that a training reads
MAX_EXPANSION = 500  # bytes in memory per byte of the file, beyond FREE_BYTES
FREE_BYTES = 1 << 26  # bytes in memory that are always allowed


def check_expansion(nbytes: int, stored: int, most: int | None = None) -> None:
    """Refuse (ValueError) to expand a file of `stored` bytes to `nbytes` in memory, above `most` or `MAX_EXPANSION`."""
    if most is not None and nbytes > most:
        raise ValueError(
            f"it takes {nbytes} bytes of memory, at most {most} are read: read fewer tasks, or shorter ones"
        )
    if nbytes > FREE_BYTES + MAX_EXPANSION * stored:
        raise ValueError(f"it would expand {stored} bytes to {nbytes}, more than {MAX_EXPANSION} times")


def linked(group: h5py.Group, name: str, kind: Any) -> Any:
    """Object `name` of a group, of class `kind`; ValueError for soft or external links and for aliases."""
    if type(group.get(name, getlink=True)) is not h5py.HardLink or not isinstance(found := group[name], kind):
        raise ValueError(f"'{printable(name)}' is not a {kind.__name__.lower()}")
    if (names := h5py.h5o.get_info(found.id).rc) != 1:
        raise ValueError(f"'{printable(name)}' is one of {names} names of the same {kind.__name__.lower()}")
    return found


def refuse_aliases(group: h5py.Group, names: Iterable[str]) -> None:
    """Refuse (ValueError) several names for one object: it would be read once per name."""
    found = [group.id.links.get_info(name.encode("utf-8", "surrogateescape")) for name in names]
    places = [info.u for info in found if info.type == h5py.h5l.TYPE_HARD]  # addresses
    if len(set(places)) < len(places):
        raise ValueError(f"{len(places)} names stand for {len(set(places))} objects")


def memory_bytes(columns: Iterable[h5py.Dataset]) -> int:
    """Memory in bytes of these columns when read."""
    return sum(math.prod(column.shape) * column.dtype.itemsize for column in columns)


def open_columns(file: h5py.File, task: int) -> dict[str, h5py.Dataset]:
    """Checked columns of a task by name, `length` and static values included.

    Raises:
        ValueError: a column is missing, has an unexpected dtype or shape, exceeds a limit of this file, or is not
            stored in the format of `write_column`.
    """
    group = linked(file, str(task), h5py.Group)
    if len(group) > MAX_COLUMNS:
        raise ValueError(f"it has {len(group)} columns, at most {MAX_COLUMNS}")
    refuse_aliases(group, group)
    columns = {name: linked(group, name, h5py.Dataset) for name in group}
    if missing := {*FIELDS, LENGTH} - set(columns):
        raise ValueError(f"column {min(missing)!r} is missing")
    shape: Any = columns["reward"].shape or ()
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"column 'reward' has shape {printable(shape)}, expected those of streams and steps")
    for name, column in columns.items():
        _check_kind(name, column, shape)
    check_expansion(memory_bytes(columns.values()), file.id.get_filesize(), MAX_TASK_BYTES)
    checked = CHECKSUMS in group.attrs
    for name, column in columns.items():
        if name != LENGTH or checked or column.chunks:
            _check_storage(name, column)
    return columns


def _check_kind(name: str, column: h5py.Dataset, shape: tuple[int, int]) -> None:
    """Refuse (ValueError) a column of another dtype or shape than its name asks for; `shape` is (streams, steps)."""
    once = name == LENGTH or name.startswith(GIVEN)  # one value a stream, not one a step
    exact = name in (LENGTH, "reward", *FLAGS)  # numbers; other columns may hold arrays
    kinds = "b" if name in FLAGS else "iu" if name == LENGTH else "biuf"  # NumPy's letters of bool, int and float
    wanted, found = shape[:1] if once else shape, column.shape or ()
    if column.dtype.kind not in kinds or column.dtype.itemsize > 8:
        raise ValueError(f"column '{printable(name)}' is of dtype {printable(column.dtype)}")
    if found[: len(wanted)] != wanted or (exact and found != wanted):
        raise ValueError(f"column '{printable(name)}' has shape {printable(found)}, {wanted} are the streams and steps")
    if column.external is not None or column.is_virtual:
        raise ValueError(f"column '{printable(name)}' lies in another file")


def _check_storage(name: str, column: h5py.Dataset) -> None:
    """Refuse (ValueError) a column without checksums, with missing chunks, or whose chunks share bytes of the file."""
    plist = column.id.get_create_plist()
    filters = tuple(plist.get_filter(number)[0] for number in range(plist.get_nfilters()))
    if not column.chunks or filters != PIPELINE:
        raise ValueError(f"column '{printable(name)}' has no checksums, or is not stored as a store's columns are")
    nbytes = math.prod(column.chunks) * column.dtype.itemsize
    count = math.prod(-(-size // chunk) for size, chunk in zip(column.shape, column.chunks, strict=True))
    if nbytes > MAX_CHUNK_BYTES or count > MAX_CHUNKS:
        raise ValueError(f"column '{printable(name)}' has {count} chunks of {nbytes} bytes")
    chunks = _chunks(column, count + 1)
    largest = nbytes + nbytes // 64 + 64  # of a chunk that did not become smaller by compression
    if len(chunks) != count or any(chunk.filter_mask or chunk.size > largest for chunk in chunks):
        raise ValueError(f"column '{printable(name)}' has chunks that are missing, too large or without checksums")
    chunks.sort(key=lambda chunk: chunk.byte_offset)
    if any(one.byte_offset + one.size > other.byte_offset for one, other in pairwise(chunks)):
        raise ValueError(f"column '{printable(name)}' has chunks that share bytes of the file")


def _chunks(column: h5py.Dataset, most: int) -> list[Any]:
    """Where the first `most` chunks of a column lie: objects with `byte_offset`, `size` and `filter_mask`."""
    found: list[Any] = []

    def keep(chunk: Any) -> bool | None:
        found.append(chunk)
        return len(found) >= most or None  # None continues the iteration

    column.id.chunk_iter(keep)
    return found


def write_column(group: h5py.Group, name: str, value: np.ndarray) -> None:
    """Add or replace the column `name` of a task: (B, T, ...), or (B, ...) for `length` and static values.

    Raises:
        ValueError: not numbers, or another number of streams or steps than the other columns.
    """
    wanted = group["reward"].shape if "reward" in group else value.shape
    dims = 1 if name == LENGTH or name.startswith(GIVEN) else 2
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8 or value.shape[:dims] != wanted[:dims]:
        raise ValueError(f"column {name!r} is {value.dtype} {value.shape}: give numbers of shape {wanted[:2]} or more")
    if name in group:
        del group[name]
    row, inner = max(value[:1].nbytes, 1), value.shape[1:]  # bytes of one stream
    if row > CHUNK_BYTES:
        inner = (max(1, inner[0] * CHUNK_BYTES // row), *inner[1:])
    chunks = (min(len(value), max(1, CHUNK_BYTES // row)), *inner)
    group.create_dataset(name, data=value, chunks=chunks, compression=1, shuffle=True, fletcher32=True)


def read_column(column: h5py.Dataset, rows: slice, *steps: slice) -> np.ndarray:
    """Part of a column in native byte order; ValueError for bool bytes other than 0 and 1."""
    value: np.ndarray = column[(rows, *steps)]
    if value.dtype == bool and (value.view(np.uint8) > 1).any():
        raise ValueError(f"column '{printable(column.name)}' has flags that are neither 0 nor 1")
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def read_length(columns: Mapping[str, h5py.Dataset]) -> np.ndarray:
    """Number of steps (B,) of each history; ValueError outside 0..T."""
    length = read_column(columns[LENGTH], slice(None))
    steps = columns["reward"].shape[1]
    if length.size and (length.min() < 0 or length.max() > steps):
        raise ValueError(f"{LENGTH} {length.min()}..{length.max()} is outside 0..{steps}")
    if not columns[LENGTH].chunks:
        _compare_length(columns, length)
    return length


def _compare_length(columns: Mapping[str, h5py.Dataset], length: np.ndarray) -> None:
    """Check a `length` without checksum (older stores) against the columns: padding is zero in all of them.

    The last real step is never all zeros, because an episode ends there.
    """
    rows, steps = columns["reward"].shape
    seen = np.zeros((rows, steps), bool)  # (B, T) some column is not zero
    for name in FIELDS:
        seen |= (read_column(columns[name], slice(None)) != 0).reshape(rows, steps, -1).any(-1)
    last = np.where(seen.any(1), steps - seen[:, ::-1].argmax(1), 0)  # (B,) number of steps up to the last nonzero one
    if (last != length).any():
        row = int((last != length).argmax())
        raise ValueError(f"{LENGTH} of stream {row} is {length[row]}, its steps are {last[row]}")


def column_name(name: str) -> str:
    """Checked name of a user-defined column; ValueError if it is reserved or not an identifier."""
    if name in {*Steps._fields, "length"} or not name.isidentifier():
        raise ValueError(f"{name!r} cannot name a column: use an identifier that is no field of Steps, nor 'length'")
    return name
