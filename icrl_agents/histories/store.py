"""Stores of histories: whole lifetimes of learners in one HDF5 file.

The file: root attributes say what it is (`HistoryInfo`), one group a task id holds columns (streams, T, ...), and
static values (streams, ...). What follows from other columns (prev_action, prev_reward, first, start, mask) is not
stored but derived on reading. Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from icrl_agents.core.files.strict_json import refuse_special
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import space_from_json
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.histories.columns import (
    FIELDS,
    GIVEN,
    LENGTH,
    MAX_READ_BYTES,
    check_expansion,
    column_name,
    memory_bytes,
    open_columns,
    read_column,
    read_length,
    refuse_aliases,
    write_column,
)
from icrl_agents.histories.hdf5 import reading, writing
from icrl_agents.histories.info import HistoryInfo


class HistoryStore(AbstractContextManager):
    """Read histories: `store[task]`, `store[task, stream]`, `store[task, stream, a:b]` give `Steps` (B, T, ...).

    `stream` is a number (B=1) or a slice. A collection that was interrupted opens too, with what was finished.

    Args:
        path: of the file; all that is read of it are numbers and the JSON header, nothing is ever unpickled.

    Raises:
        FileNotFoundError: there is neither the file nor an unfinished collection of that name.
        ValueError: the file is truncated, damaged, of another program or of a newer version.
        OSError: the system cannot read it now: another program has it open, too many files are open, ...
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._open: tuple[Path, h5py.File] | None = None
        header = self.path
        self._where: dict[int, Path] = {}  # the file each task is in
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
        """The ids of the tasks in here, sorted."""
        return sorted(self._where)

    @property
    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        """The observation space and the action space."""
        with reading(self.path, "its header"):
            return space_from_json(self.info.observation_space), space_from_json(self.info.action_space)

    def __len__(self) -> int:
        """The number of tasks; each has `info.streams` histories."""
        return len(self._where)

    def __iter__(self) -> Iterator[int]:
        return iter(self.tasks)

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in another process too, opens the path by itself."""
        return type(self), (self.path.absolute(),)

    def close(self) -> None:
        if self._open:
            self._open[1].close()
        self._open = None

    def __getitem__(self, key: int | tuple[Any, ...]) -> Steps:
        task, stream, steps = (*(key if isinstance(key, tuple) else (key,)), slice(None), slice(None))[:3]
        if task not in self._where:
            known = ", ".join(map(str, self.tasks[:8])) + (", ..." if len(self) > 8 else "")
            raise IndexError(f"task {task!r} is not in {self.path}: it has {known or 'none yet'}")
        file = self._file(self._where[task])
        with reading(self._where[task], f"task {task}"):
            columns = open_columns(file, task)
            length = read_length(columns)
            del columns[LENGTH]
        rows = _as_slice(stream, columns["reward"].shape[0], f"stream of task {task}")
        wanted = _as_slice(steps, columns["reward"].shape[1], f"step of task {task}")
        early = max(wanted.start - 1, 0)  # one step more, for prev_action, prev_reward and first
        with reading(self._where[task], f"task {task}"):
            mask = np.arange(early, wanted.stop) < length[rows][:, None]
            static = {name: read_column(columns.pop(name), rows) for name in list(columns) if name.startswith(GIVEN)}
            read = {name: read_column(column, rows, slice(early, wanted.stop)) for name, column in columns.items()}
        static = {name.removeprefix(GIVEN): value for name, value in static.items()}
        seen = stack_steps(**{name: read.pop(name) for name in FIELDS}, mask=mask, extras=read, static=static)
        return seen.window(wanted.start - early, None)

    def require_room(self, tasks: Iterable[int]) -> None:
        """Refuse to read these tasks where they would take more memory together than files of their size hold."""
        found: dict[tuple[Path, int], str] = {}  # (file, address) -> what lies there
        total = 0
        for task in tasks:
            path = self._where[task]
            file = self._file(path)
            with reading(path, f"task {task}"):
                columns = open_columns(file, task)
                total += memory_bytes(columns.values())
                for name, column in columns.items():
                    place, what = (path, h5py.h5o.get_info(column.id).addr), f"{name!r} of task {task}"
                    if (other := found.setdefault(place, what)) != what:
                        raise ValueError(f"{printable(what)} is {printable(other)}")
        with reading(self.path, "it"):
            check_expansion(total, sum(path.stat().st_size for path in {path for path, _ in found}), MAX_READ_BYTES)

    def annotate(self, field: str, fn: Callable[[Steps], Any]) -> None:
        """Add (or replace) the column `field`: `fn` turns the steps of one task (B, T) into an array (B, T, ...).

        The new file takes the old one's place only when it is complete.
        """
        column_name(field)
        if self.partial:
            raise ValueError(f"{self.path} is not finished: run `icrl-agents collect` again before you annotate it")
        with writing(self.path, self.path.with_name(self.path.name + ".tmp"), change=True) as file:
            for task in self.tasks:
                write_column(file[str(task)], field, np.asarray(fn(self[task])))
            self.close()  # some systems do not replace an open file

    def _file(self, path: Path) -> h5py.File:
        if self._open is None or self._open[0] != path:
            self.close()
            if not path.is_dir():  # of which the system has an error of its own
                refuse_special(path)
            with reading(path, "it"):
                self._open = path, h5py.File(path, "r")
        return self._open[1]


def _as_slice(index: Any, size: int, what: str) -> slice:
    if isinstance(index, slice) and index.step in (None, 1):
        start, stop, _ = index.indices(size)
        return slice(start, max(start, stop))
    if isinstance(index, int | np.integer) and -size <= index < size:
        return slice(index % size, index % size + 1)
    raise IndexError(f"{what}: {index!r} is neither a number below {size} nor a slice a:b")


def partial_folder(path: Path) -> Path:
    """Where the finished histories of an unfinished collection are: part files, each a store of some tasks."""
    return path.with_name(path.name + ".partial")
