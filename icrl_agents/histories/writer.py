"""HistoryWriter: writes a store as part files of finished tasks, which are joined at the end; resumable and atomic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from icrl_agents.core.files.folder_lock import OURS, FolderLock
from icrl_agents.core.files.strict_json import refuse_special
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Steps
from icrl_agents.histories.columns import CHECKSUMS, FIELDS, GIVEN, LENGTH, write_column
from icrl_agents.histories.hdf5 import reading, writing
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.shards import shard_files, shards_of
from icrl_agents.histories.store import HistoryStore, partial_folder


class HistoryWriter:
    """Writes a store part by part; when `add` returns, its part is on the disk and survives a killed process.

    Until `finish` the parts are in `<path>.partial/`, where `HistoryStore(path)` reads them. One writer per path.

    Args:
        path: file of the finished store; with `shard_tasks` the name of its shards, see `shard_files`.
        info: header of the store.
        tasks: ids of all tasks of the finished store, sorted.
        resume: continue an interrupted collection with the same header and tasks.
        overwrite: replace a finished store, or an interrupted one that `resume` does not continue.
        shard_tasks: number of tasks in each shard; None for one file. Both have the same histories.

    Raises:
        FileExistsError: without `overwrite`, `path` exists, or an interrupted collection that `resume` cannot continue.
        IsADirectoryError: `path` is a folder.
        BlockingIOError: another writer uses the path.
    """

    def __init__(
        self,
        path: Path,
        info: HistoryInfo,
        tasks: Sequence[int],
        *,
        resume: bool = True,
        overwrite: bool = False,
        shard_tasks: int | None = None,
    ):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: name a file, such as {path / 'histories.h5'}")
        self.path, self.info, self.tasks = path, info, list(tasks)
        self.folder = partial_folder(path)
        self.header = self.folder / "header.h5"
        self.files = shard_files(path, self.tasks, shard_tasks)
        self.done: set[int] = set()
        self._parts: dict[int, Path] = {}  # task -> part file
        existing = set() if overwrite else set(self._existing())
        if existing and not self._goes_on(existing, resume):
            raise FileExistsError(f"{min(existing)} exists: choose another path, or overwrite it")
        self.finished = bool(existing) and not self.header.exists()
        self._lock = FolderLock(self.folder, "collecting to")
        self._ready = False  # until then the parts may be another collection's
        try:
            self._begin(resume, overwrite)
            self._ready = True
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _existing(self) -> list[Path]:
        return [*([self.path] if self.path.exists() else []), *shards_of(self.path)]

    def _goes_on(self, existing: set[Path], resume: bool) -> bool:
        """Whether finished files are of a writer that was killed: while it replaced them, or when it deleted the parts.

        The header is the first of these to go, so the files are those that the parts were joined to once it is gone.
        """
        if self.header.exists():
            return resume and not self._difference()
        return self.folder.exists() and existing == self.files.keys() and all(map(self._is_mine, existing))

    def _is_mine(self, file: Path) -> bool:
        with HistoryStore(file) as store:
            return store.tasks == self.files[file] and _made_as(store.info) == _made_as(self.info)

    def _begin(self, resume: bool, overwrite: bool) -> None:
        if self.finished:
            self.done = set(self.tasks)
            return
        if self.header.exists():
            different = self._difference()
            if resume and not different:  # the parts on the disk are complete: skip their tasks
                self._note_parts()
                return
            if not overwrite:
                said = f"{self.path} was interrupted{different}"
                raise FileExistsError(f"{said}: --resume continues that, another path or --overwrite starts over")
        self.header.unlink(missing_ok=True)
        for part in self.folder.glob("*.h5*"):  # unreadable without their header
            part.unlink()
        with self._new_file(self.header) as file:
            file["planned"] = np.array(self.tasks, np.int64)

    def _note_parts(self) -> None:
        for part in self.folder.glob("part-*.h5"):
            with HistoryStore(part) as store:
                self._note(part, store.tasks)

    def _difference(self) -> str:
        """First difference between the interrupted collection and this one, for the error message; empty: none."""
        refuse_special(self.header)
        with reading(self.header, "it"), h5py.File(self.header) as file:
            begun = {**_made_as(HistoryInfo.read(file, self.header)), "tasks": file["planned"][:].tolist()}
        mine = {**_made_as(self.info), "tasks": self.tasks}
        for name, value in begun.items():
            if value != mine[name]:
                return f", and was begun with {name} {printable(value)}, not {printable(mine[name])}"
        return ""

    def add(self, histories: Mapping[int, Steps]) -> None:
        """Write the histories (B, T) of one or more tasks as a part file; ValueError for none, or without a step."""
        if empty := [task for task, steps in histories.items() if not steps.mask.size]:
            raise ValueError(f"task {empty[0]} has no steps: record some first")
        part = self.folder / f"part-{min(histories)}.h5"
        with self._new_file(part) as file:
            for task, steps in histories.items():
                _write_task(file.create_group(str(task)), steps)
        self._note(part, histories)

    def _note(self, part: Path, tasks: Iterable[int]) -> None:
        self._parts.update((task, part) for task in tasks)
        self.done.update(tasks)

    def finish(self) -> None:
        """Join the parts into the final file, or into the shards one by one; finished files of another one go first.

        Raises:
            ValueError: a task has no histories yet.
        """
        if missing := sorted(set(self.tasks) - self.done):
            raise ValueError(f"task {missing[0]} has no histories yet: add them before you finish")
        if self.finished:
            return
        # a single file is replaced by its renaming; old shards must not stay among new ones
        for old in {*self._existing()} - ({self.path} & self.files.keys()):
            old.unlink()
        for file, tasks in self.files.items():
            self._join(file, set(tasks))
        self.finished = True

    def _join(self, path: Path, tasks: set[int]) -> None:
        with self._new_file(path) as file:
            for part in sorted({self._parts[task] for task in tasks}):
                with reading(part, "it"), h5py.File(part) as source:
                    for name in [name for name in source if int(name) in tasks]:
                        source.copy(name, file)

    def close(self) -> None:
        """Release the folder; the parts of an unfinished store stay, to be resumed."""
        if self.finished or (self._ready and not self.done) or not self.header.exists():
            self.header.unlink(missing_ok=True)  # first, see `_goes_on`
            for part in self.folder.glob("*"):
                if part.name not in OURS:
                    part.unlink()
        self._lock.release()
        if self.folder.exists():
            with suppress(OSError):  # not empty: it holds parts, or the lock of another process
                self.folder.rmdir()

    @contextmanager
    def _new_file(self, path: Path) -> Iterator[h5py.File]:
        with writing(path, self.folder / "writing.h5.tmp") as file:
            self.info.write(file)
            yield file


def _made_as(info: HistoryInfo) -> dict[str, Any]:
    """Header fields that determine the histories (all but package versions), as plain JSON types."""
    return {name: value for name, value in json.loads(json.dumps(asdict(info))).items() if name != "versions"}


def _write_task(group: h5py.Group, steps: Steps) -> None:
    group.attrs[CHECKSUMS] = 1
    write_column(group, LENGTH, steps.mask.sum(1))
    for name in FIELDS:
        write_column(group, name, getattr(steps, name))
    for name, value in {**steps.extras, **{GIVEN + name: value for name, value in steps.static.items()}}.items():
        write_column(group, name, value)
