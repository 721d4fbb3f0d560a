"""HistoryShards: several stores as one data set, which may be larger than memory; the names of its files."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Steps
from icrl_agents.histories.columns import FIELDS
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.parts import Part, share_columns
from icrl_agents.histories.store import HistoryStore

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?P<suffix>\.[^.]+)?")
SAME = ("env_id", "env_kwargs", "observation_space", "action_space")  # fields of HistoryInfo that all files share
DRAWN = ("source", "settings", "seed")  # fields that tell apart two histories of a task
COLLECTION = (*DRAWN, "streams", "episodes")  # fields that tell two collections apart
SAMPLE = 100  # steps of a history that its checksum is of
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class HistoryShards(AbstractContextManager):
    """Reads several stores as one: `shards[task, stream, a:b]` as in `HistoryStore`; one file is open at a time.

    Args:
        given: files, folders (all their *.h5), patterns such as "data/*.h5", names that `collect` wrote shards of, or
            open stores. Only headers and lists of tasks are read.

    Raises:
        FileNotFoundError: nothing has that name, or a shard is missing.
        ValueError: a file is damaged, or of another environment than the first one, or two files hold the same
            histories.
    """

    def __init__(self, *given: str | os.PathLike[str] | HistoryStore):
        self.stores: list[HistoryStore] = []
        for one in given:
            for store in [one] if isinstance(one, HistoryStore) else map(HistoryStore, find_files(one)):
                store.close()  # it opens itself when it is read; not more files at once than the system allows
                self.stores.append(store)
        self._reading = self.stores[0]
        self._index: tuple[frozenset[int], list[Part]] = frozenset(), []  # the latest
        _check_fit(self.stores)

    @property
    def name(self) -> str:
        """The file, or the first one and the number of the others, for messages."""
        more = len(self.stores) - 1
        return f"{self.stores[0].path}{f' (and {more} more)' if more else ''}"

    @property
    def info(self) -> HistoryInfo:
        """Header of the first file; the others have the same environment."""
        return self.stores[0].info

    @property
    def collections(self) -> list[list[HistoryStore]]:
        """The files by the collection that they are of, which has a source and a seed of its own."""
        return _grouped(self.stores, COLLECTION)

    @property
    def spaces(self) -> tuple[gymnasium.Space, gymnasium.Space]:
        """Observation space and action space."""
        return self.stores[0].spaces

    @property
    def tasks(self) -> list[int]:
        """Ids of the stored tasks, sorted."""
        return sorted({task for store in self.stores for task in store.tasks})

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._reading.close()

    def __getitem__(self, key: int | tuple[Any, ...]) -> Steps:
        task = key[0] if isinstance(key, tuple) else key
        stores = [store for store in self.stores if task in store.tasks] or self.stores[:1]
        if len(stores) > 1:
            raise IndexError(f"task {task} is in {stores[0].path} and in {stores[1].path}: open one of them")
        return self._turn_to(stores[0])[key]

    def index(self, tasks: Iterable[int]) -> list[Part]:
        """The histories of these tasks, by task, then by file; those that no file has are left out.

        Those of several collections have the same columns, see `share_columns`.

        Raises:
            ValueError: a file is damaged, or differs in columns from others of its collection.
        """
        wanted = frozenset(tasks)
        if self._index[0] == wanted:
            return self._index[1]
        parts = share_columns(
            [[part for store in stores for part in self._parts(store, wanted)] for stores in self.collections]
        )
        order = {id(store): number for number, store in enumerate(self.stores)}
        parts.sort(key=lambda part: (part.task, order[id(part.store)]))
        self._index = wanted, parts
        return parts

    def without(self, column: str, tasks: Iterable[int]) -> Path | None:
        """The first file that lacks a column in histories of these tasks; None if there is none."""
        wanted = frozenset(tasks)
        for store in self.stores:
            if any(column not in part.layout.columns for part in self._parts(store, wanted)):
                return store.path
        return None

    def checksum(self, annotated: Sequence[str] = ()) -> str:
        """A text that tells these histories from others of the same names.

        It covers all headers, tasks and lengths, the beginning of the first history in every file, and which model
        wrote the `annotated` columns; other columns may be added or replaced.
        """
        found = hashlib.sha256()
        for store in self.stores:
            self._turn_to(store)
            by = [store.annotated_by(name) for name in annotated]
            found.update(json.dumps([asdict(store.info), store.tasks, by], sort_keys=True).encode())
            for layout in store.layouts(store.tasks):
                found.update(layout.lengths.tobytes())
            if store.tasks:
                begin = store[store.tasks[0], :1, :SAMPLE]
                for name in FIELDS:
                    found.update(getattr(begin, name).tobytes())
        return found.hexdigest()

    def read(self, part: Part, rows: slice = slice(None)) -> Steps:
        """Streams `rows` of a part, (B, T)."""
        return part.completed(self._turn_to(part.store)[part.task, rows])

    def _parts(self, store: HistoryStore, wanted: Container[int]) -> list[Part]:
        tasks = [task for task in store.tasks if task in wanted]
        layouts = self._turn_to(store).layouts(tasks)
        return [Part(task, store, layout) for task, layout in zip(tasks, layouts, strict=True)]

    def _turn_to(self, store: HistoryStore) -> HistoryStore:
        if store is not self._reading:
            self._reading.close()
            self._reading = store
        return store


def _grouped(stores: list[HistoryStore], names: tuple[str, ...]) -> list[list[HistoryStore]]:
    """The stores whose headers agree in the fields `names`, in order."""
    found: dict[str, list[HistoryStore]] = {}
    for store in stores:
        key = json.dumps([getattr(store.info, name) for name in names], sort_keys=True)
        found.setdefault(key, []).append(store)
    return list(found.values())


def check_one_model(stores: Sequence[HistoryStore], columns: Sequence[str]) -> None:
    """Refuse (ValueError) files whose columns were written by different models, as far as the files tell."""
    for name in columns:
        found = {by: store.path for store in stores if (by := store.annotated_by(name))}
        if len(found) > 1:
            one, other = list(found.values())[:2]
            raise ValueError(f"{one} and {other} have {name} of different models: annotate both with the same one")


def _check_fit(stores: list[HistoryStore]) -> None:
    """Refuse (ValueError) files of several environments, and histories that are in two files."""
    first = stores[0]
    for other in stores[1:]:
        for name in SAME:
            one, two = getattr(first.info, name), getattr(other.info, name)
            if one != two:
                said = f"{other.path} has {name} {printable(two, 60)}, {first.path} {printable(one, 60)}"
                raise ValueError(f"{said}: give histories of one environment")
    for group in _grouped(stores, DRAWN):
        seen: dict[int, HistoryStore] = {}
        for store in group:
            for task in store.tasks:
                if (other := seen.setdefault(task, store)) is not store:
                    said = f"{store.path} and {other.path} both have task {task} of seed {store.info.seed}"
                    raise ValueError(f"{said}: leave one out, or collect it with another seed")


# ---- the names of files ----------------------------------------------------------------------------------------------


def shard_files(path: Path, tasks: Sequence[int], size: int | None) -> dict[Path, list[int]]:
    """Files of a collection -> their tasks: `path`, or shards `<stem>-00000-of-00012.h5` of `size` tasks each."""
    if size is None:
        return {path: list(tasks)}
    pieces = [list(tasks[i : i + size]) for i in range(0, len(tasks), size)]
    names = (f"{path.stem}-{number:05d}-of-{len(pieces):05d}{path.suffix}" for number in range(len(pieces)))
    return {path.with_name(name): piece for name, piece in zip(names, pieces, strict=True)}


def shards_of(path: Path) -> list[Path]:
    """Existing shards of the name `path`, sorted."""
    near = path.parent.glob(f"{glob.escape(path.stem)}-*-of-*{glob.escape(path.suffix)}")
    return sorted(file for file in near if (match := SHARD.fullmatch(file.name)) and match["stem"] == path.stem)


def common_name(files: Sequence[Path]) -> str:
    """The name of a file, the name that `collect` gave its shards, or those of the first file and the last one."""
    matches = [SHARD.fullmatch(file.name) for file in files]
    names = {match["stem"] + (match["suffix"] or "") if match and len(files) > 1 else "" for match in matches}
    if len(names) == 1 and (name := names.pop()):
        return name
    return files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"


def listed(given: Paths) -> list[str | os.PathLike[str]]:
    """The paths in a list of them, or the single one."""
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def find_files(given: Paths) -> list[Path]:
    """Files that a path, a folder, a pattern or a name of shards stands for, or several of these; each once, in order.

    Raises:
        FileNotFoundError: a folder or pattern has no file, or a shard is missing.
    """
    paths = [Path(one).expanduser() for one in listed(given)]
    files = list(dict.fromkeys(file for path in paths for file in _expand(path)))
    if not files:
        raise FileNotFoundError("no files of histories were given: name one, or a folder of them")
    if files != paths[:1]:  # one shard may be read on purpose
        _check_complete(files)
    return files


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("*.h5"))
    elif os.path.lexists(path):
        return [path]
    elif glob.has_magic(str(path)):
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    else:
        return shards_of(path) or [path]
    if not found:
        raise FileNotFoundError(f"{path} has no *.h5: make histories with `icrl-agents collect`")
    return found


def _check_complete(files: list[Path]) -> None:
    """FileNotFoundError that names the first missing shard of a set that `files` has others of."""
    matches = {file: match for file in files if (match := SHARD.fullmatch(file.name))}
    sets = Counter((file.parent, match["stem"], match["count"], match["suffix"]) for file, match in matches.items())
    for (folder, stem, count, suffix), found in sets.items():
        if found == int(count):
            continue
        names = (folder / f"{stem}-{number:05d}-of-{count}{suffix or ''}" for number in range(int(count)))
        missing = next((name for name in names if name not in matches), None)
        if missing:
            have = f"{found} of {int(count)} shards are there"
            raise FileNotFoundError(f"{missing} is missing, {have}: collect with --resume, or copy it")
