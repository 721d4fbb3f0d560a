"""HistoryStore: whole lifetimes of learners in one HDF5 file.

Format: the root attributes are the header (`HistoryInfo`); one group per task id holds columns (streams, T, ...) and
static values (streams, ...). Derived columns (prev_obs, prev_action, prev_reward, first, start, mask) are not stored
but computed on reading. Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from icrl_agents.core.files.folder_lock import FolderLock
from icrl_agents.core.files.strict_json import refuse_special
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import space_from_json
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.histories.columns import (
    FIELDS,
    GIVEN,
    LENGTH,
    check_expansion,
    column_name,
    open_columns,
    read_column,
    read_length,
    refuse_aliases,
    write_column,
)
from icrl_agents.histories.hdf5 import reading, writing
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.layout import Layout

BY = "annotated_by"  # attribute of a column: identity of what wrote it


class HistoryStore(AbstractContextManager):
    """Reads histories: `store[task]`, `store[task, stream]` and `store[task, stream, a:b]` are `Steps` (B, T, ...).

    `stream` is a number (B=1) or a slice. An interrupted collection can be opened too, with its finished tasks.

    Args:
        path: HDF5 file; only numbers and the JSON header are read, nothing is ever unpickled.

    Raises:
        FileNotFoundError: neither the file nor an unfinished collection of that name exists.
        ValueError: the file is truncated, damaged, of another program or of a newer version.
        OSError: a system error: another program has the file open, too many files are open, ...
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._open: tuple[Path, h5py.File] | None = None
        header = self.path
        self._where: dict[int, Path] = {}  # task id -> file
        self.partial = not os.path.lexists(self.path)
        if self.partial:
            header = partial_folder(self.path) / "header.h5"
            if not os.path.lexists(header):
                raise FileNotFoundError(f"no histories at {self.path}: make them with `icrl-agents collect`")
        self.info = HistoryInfo.read(self._file(header), header)
        for part in sorted(header.parent.glob("part-*.h5")) if self.partial else [self.path]:
            file = self._file(part)
            with reading(part, "the list of its tasks"):
                names = [name for name in file if name.isascii() and name.isdecimal()]
                refuse_aliases(file, names)
                self._where.update((int(name), part) for name in names)

    @property
    def tasks(self) -> list[int]:
        """Ids of the stored tasks, sorted."""
        return sorted(self._where)

    @property
    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        """Observation space and action space."""
        with reading(self.path, "its header"):
            return space_from_json(self.info.observation_space), space_from_json(self.info.action_space)

    def __len__(self) -> int:
        """Number of tasks; each has `info.streams` histories."""
        return len(self._where)

    def __iter__(self) -> Iterator[int]:
        return iter(self.tasks)

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and unpickled stores reopen the path, also in another process."""
        return type(self), (self.path.absolute(),)

    def close(self) -> None:
        if self._open:
            self._open[1].close()
        self._open = None

    def __getitem__(self, key: int | tuple[Any, ...]) -> Steps:
        given = key if isinstance(key, tuple) else (key,)
        task, stream, steps = (*given, slice(None), slice(None))[:3]  # all of what is not given
        if task not in self._where:
            known = ", ".join(map(str, self.tasks[:8])) + (", ..." if len(self) > 8 else "")
            raise IndexError(f"task {task!r} is not in {self.path}: it has {known or 'none yet'}")
        with self._columns(task) as columns:
            length = read_length(columns)
            del columns[LENGTH]
        rows = _as_slice(stream, columns["reward"].shape[0], f"stream of task {task}")
        wanted = _as_slice(steps, columns["reward"].shape[1], f"step of task {task}")
        early = max(wanted.start - 1, 0)  # one extra step, for prev_obs, prev_action, prev_reward and first
        with reading(self._where[task], f"task {task}"):
            # (B, T) bool, then (B, ...) static values and (B, T, ...) columns
            mask = np.arange(early, wanted.stop) < length[rows][:, None]
            static = {name: read_column(columns.pop(name), rows) for name in list(columns) if name.startswith(GIVEN)}
            read = {name: read_column(column, rows, slice(early, wanted.stop)) for name, column in columns.items()}
        static = {name.removeprefix(GIVEN): value for name, value in static.items()}
        seen = stack_steps(**{name: read.pop(name) for name in FIELDS}, mask=mask, extras=read, static=static)
        return seen.window(wanted.start - early, None)

    def layouts(self, tasks: Iterable[int]) -> list[Layout]:
        """Lengths, dtypes and shapes of these tasks, whose values are not read.

        Raises:
            ValueError: they are damaged, or would expand the file more than `check_expansion` allows.
        """
        found: dict[tuple[Path, int], str] = {}  # (file, address) -> column stored there
        layouts = []
        for task in tasks:
            with self._columns(task) as columns:
                layouts.append(Layout.of(columns))
                for name, column in columns.items():
                    place, what = (self._where[task], h5py.h5o.get_info(column.id).addr), f"{name!r} of task {task}"
                    if (other := found.setdefault(place, what)) != what:
                        raise ValueError(f"{printable(what)} is {printable(other)}")
        with reading(self.path, "it"):
            stored = sum(path.stat().st_size for path in {path for path, _ in found})
            check_expansion(sum(layout.nbytes for layout in layouts), stored)
        return layouts

    def annotate(self, field: str | Sequence[str], fn: Callable[[Steps], Any], *, identity: str = "") -> bool:
        """Add or replace columns; the file is replaced atomically.

        Args:
            field: column, or several: identifiers that are not standard columns.
            fn: function from the steps (B, T) of one task to the column (B, T, ...), or to a mapping that has all
                columns by name, such as an `Annotator`.
            identity: text that stands for `fn`, such as a checksum of its weights. Columns that all have it are left as
                they are, so that an interrupted annotation of many files goes on where it stopped.

        Returns:
            Whether columns were written.

        Raises:
            ValueError: a name is reserved, the store is unfinished, or `fn` returns another shape or lacks a column.
        """
        fields = [field] if isinstance(field, str) else list(field)
        for name in fields:
            column_name(name)
        if self.partial:
            raise ValueError(f"{self.path} is not finished: run `icrl-agents collect` again before you annotate it")
        if not self.tasks:
            raise ValueError(f"{self.path} has no histories: record some first")
        if identity and self._annotated(fields, identity):
            return False
        place = self.path.with_name(self.path.name + ".annotating")
        with FolderLock(place, "annotating in"), writing(self.path, place / "writing.h5.tmp", change=True) as file:
            for task in self.tasks:
                for name, value in _named(fields, fn(self[task])).items():
                    write_column(file[str(task)], name, value)
                    if identity:
                        file[str(task)][name].attrs[BY] = identity
            self.close()  # Windows cannot replace an open file
        with suppress(OSError):  # left over by an annotation that was killed
            place.rmdir()
        return True

    def annotated_by(self, field: str) -> str:
        """The identity of what wrote a column; "" if there is no such column or no task, or none was given."""
        if not self.tasks:
            return ""
        with self._columns(self.tasks[0]) as columns:
            return str(columns[field].attrs.get(BY, "")) if field in columns else ""

    def _annotated(self, fields: Sequence[str], identity: str) -> bool:
        """Whether all tasks have these columns, written with `identity`."""
        for task in self.tasks:
            with self._columns(task) as columns:
                if any(name not in columns or columns[name].attrs.get(BY) != identity for name in fields):
                    return False
        return True

    @contextmanager
    def _columns(self, task: int) -> Iterator[dict[str, h5py.Dataset]]:
        """Checked columns of a task; an error while they are read names the file and the task."""
        file = self._file(self._where[task])
        with reading(self._where[task], f"task {task}"):
            yield open_columns(file, task)

    def _file(self, path: Path) -> h5py.File:
        if self._open is None or self._open[0] != path:
            self.close()
            if not path.is_dir():  # opening a folder raises a clear system error
                refuse_special(path)
            with reading(path, "it"):
                self._open = path, h5py.File(path, "r")
        return self._open[1]


def _named(fields: Sequence[str], found: Any) -> dict[str, np.ndarray]:
    """The columns `fields` of what a function returned: a mapping that has all of them, or a single one itself."""
    columns = found if isinstance(found, Mapping) else {fields[0]: found}
    if missing := [name for name in fields if name not in columns]:
        raise ValueError(f"no column {missing[0]!r}: there are {', '.join(columns)}")
    return {name: np.asarray(columns[name]) for name in fields}


def _as_slice(index: Any, size: int, what: str) -> slice:
    if isinstance(index, slice) and index.step in (None, 1):
        start, stop, _ = index.indices(size)
        return slice(start, max(start, stop))
    if isinstance(index, int | np.integer) and -size <= index < size:
        return slice(index % size, index % size + 1)
    raise IndexError(f"{what}: {index!r} is neither a number below {size} nor a slice a:b")


def partial_folder(path: Path) -> Path:
    """Folder of an unfinished collection: part files, each a store of some tasks."""
    return path.with_name(path.name + ".partial")
