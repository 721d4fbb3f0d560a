"""Histories: whole lifetimes of learners, recorded off any vector environment and kept in one HDF5 file.

The file: root attributes say what it is (`HistoryInfo`), one group a task id holds columns (streams, T, ...), streams
first, and (streams, ...) what was given. What follows from other columns (prev_action, prev_reward, first, start, mask)
is not stored but derived on reading.
Axis letters: B rows (streams), T environment steps.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import gymnasium
import h5py
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from icrl_agents.core.action_masks import legal_actions
from icrl_agents.core.arrays import stored, to_array
from icrl_agents.core.files.strict_json import MAX_DEPTH, parse_object, refuse_special
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Boundary, Steps, autoreset_mode, stack_steps
from icrl_agents.histories.columns import (
    FIELDS,
    GIVEN,
    LENGTH,
    MAX_READ_BYTES,
    check_expansion,
    memory_bytes,
    open_columns,
    read_column,
    read_length,
    refuse_aliases,
    write_column,
)
from icrl_agents.histories.hdf5 import reading, writing

FORMAT, FORMAT_VERSION = "icrl-agents histories", 1
CHECKSUM = "checksum"  # attribute of stores that have one of their header
MAX_WORDS = 1 << 12  # bytes of a text that the card quotes
MAX_JSON = 1 << 18  # bytes of a space or of settings


class RecordHistory(VectorWrapper):
    """Records every real step of every row, in any autoreset mode: final observations, no NEXT_STEP dummies.

    Where the environment has `expert_action()`, its answer before each step becomes the column `expert_action`; where
    its `action_mask()` says that not all actions are legal, that is `given`.
    A `reset` in mid-episode truncates that episode in the record too. Take `steps()` before a new lifetime begins.
    """

    def __init__(self, env: VectorEnv):
        if isinstance(env, gymnasium.Env):
            raise TypeError(f"{env} is a single environment: use gymnasium.make_vec(id, num_envs=1) or SyncVectorEnv")
        super().__init__(env)
        rows = getattr(env.unwrapped, "envs", [env.unwrapped])  # the single environments of a sync vector env
        self.has_expert = all(hasattr(row.unwrapped, "expert_action") for row in rows)
        self._boundary = Boundary(env.num_envs, autoreset_mode(env), known=True)
        self._given: dict[str, np.ndarray] = {}
        self._clear()

    def _clear(self) -> None:
        self._torn = False  # a step was taken that could not be recorded
        self._steps: list[_Recorded] = []
        self._notes: dict[str, list[np.ndarray]] = {}

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all rows, or those of `options["reset_mask"]` (B,) bool."""
        rows = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        obs, info = super().reset(seed=seed, options=options)
        if self._torn and rows.all():
            self._clear()
        self._truncate(rows & ~self._boundary.ended)
        self._boundary.forget(rows)
        self._obs = self._stored(obs, self.single_observation_space, "obs")
        mask = legal_actions(self.env)
        self._given = {} if mask is None else {"action_mask": mask}
        return obs, info

    def _truncate(self, rows: np.ndarray) -> None:
        """A reset in mid-episode truncates that episode."""
        for row in np.flatnonzero(rows):
            last = next((step for step in reversed(self._steps) if step.active[row]), None)
            if last is not None:
                last.truncated[row] |= not last.terminated[row]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As `env.step`; what it returns is recorded.

        Raises:
            ValueError: what the env returned is not in its spaces, or its final observations are missing. The step was
                taken, so the record has a gap and ends here: reset all rows for a new one.
        """
        self._require_whole()
        self._boundary.require_reset()
        action = self._stored(actions, self.single_action_space, "actions")
        expert = self.expert_action() if self.has_expert else None
        self._torn = True
        try:
            obs, reward, terminated, truncated, info = super().step(actions)
        except Exception:  # the env refused the step
            self._torn = False
            raise
        seen = self._stored(obs, self.single_observation_space, "obs")
        flags = self._flag(terminated, "terminated"), self._flag(truncated, "truncated")
        reward32 = stored(self._batched(reward, "reward"), np.float32, "reward")
        next_obs, active = self._boundary.read(seen, *flags, info, shown=obs)
        if expert is not None:
            self.note(expert_action=expert)
        self._steps.append(_Recorded(self._obs, action, reward32, next_obs, *flags, active))
        self._obs, self._torn = seen, False
        return obs, reward, terminated, truncated, info

    def _require_whole(self) -> None:
        if self._torn:
            raise ValueError(
                "a step could not be recorded, so the record has a gap: reset() all rows to begin a new one"
            )

    def _stored(self, value: Any, space: gymnasium.Space, what: str) -> np.ndarray:
        """A copy of a batch, of the space's type."""
        array = to_array(value, what)
        if space.shape is not None and array.shape != (self.num_envs, *space.shape):
            raise ValueError(f"{what} has shape {array.shape}, expected {(self.num_envs, *space.shape)}: check the env")
        return np.array(array if space.dtype is None else stored(array, space.dtype, what))

    def _batched(self, value: Any, what: str) -> np.ndarray:
        """A copy of one value a row."""
        array = np.array(to_array(value, what))
        if array.shape != (self.num_envs,):
            raise ValueError(f"{what} has shape {array.shape}, expected ({self.num_envs},): check the env")
        return array

    def _flag(self, value: Any, what: str) -> np.ndarray:
        array = self._batched(value, what)
        if array.dtype != bool:
            raise ValueError(f"{what} has dtype {array.dtype}, expected bool: check the env")
        return array

    def expert_action(self) -> np.ndarray:
        """What the environment's expert would do now, (B, ...)."""
        env: Any = self.env.unwrapped
        if not self.has_expert:
            raise ValueError(f"{env} has no expert_action(): choose another source, or add it to the environment")
        return np.array(env.expert_action() if hasattr(env, "expert_action") else env.call("expert_action"))

    def note(self, **columns: Any) -> None:
        """Add a value, or one a row (B, ...), to columns of your own: exactly once for every step, before or after."""
        for name, value in columns.items():
            value = np.array(np.broadcast_to(value, self.num_envs) if np.ndim(value) == 0 else value)
            self._notes.setdefault(_column_name(name), []).append(value)

    def steps(self, episodes: int | None = None) -> Steps:
        """Hand over what was recorded, (B, T), left-packed, and forget it.

        Args:
            episodes: keep only the first so many of each row; rows may have run ahead of the slowest one.

        Raises:
            ValueError: nothing was recorded, or a noted column does not have one value for each step.
        """
        self._require_whole()
        count = len(self._steps)
        if uneven := [name for name, values in self._notes.items() if len(values) != count]:
            raise ValueError(f"column {uneven[0]!r} has not one value for each of {count} steps: note it every step")
        if not count:
            raise ValueError("0 steps were recorded: call reset() and step() first")
        recorded = _Recorded(*(np.stack(values, 1) for values in zip(*self._steps, strict=True)))
        noted = {name: np.stack(values, 1) for name, values in self._notes.items()}
        self._clear()
        active, columns = recorded.active, {**recorded._asdict(), **noted}
        del columns["active"]
        if episodes is not None:
            ended = active & (columns["terminated"] | columns["truncated"])
            active &= np.cumsum(ended, 1) - ended < episodes
        if not active.all():
            active, columns = _pack(active, columns)
        fields = {name: columns.pop(name) for name in FIELDS}
        return stack_steps(**fields, mask=active, extras=columns, static=self._given)


class _Recorded(NamedTuple):
    """One step of all rows, (B, ...) each; of a whole record (B, T, ...)."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray  # the final one at an episode's end
    terminated: np.ndarray
    truncated: np.ndarray
    active: np.ndarray  # bool: the step was real


def _pack(active: np.ndarray, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Move every row's live steps to the left, over zeros."""
    order = np.argsort(~active, axis=1, kind="stable")[:, : active.sum(1).max()]
    rows = np.arange(len(active))[:, None]
    active, columns = active[rows, order], {name: value[rows, order] for name, value in columns.items()}
    for value in columns.values():
        value[~active] = 0
    return active, columns


def _column_name(name: str) -> str:
    if name in {*Steps._fields, "length"} or not name.isidentifier():
        raise ValueError(f"{name!r} cannot name a column: use an identifier that is no field of Steps, nor 'length'")
    return name


@dataclass(frozen=True)
class HistoryInfo:
    """What a store says of itself."""

    env_id: str
    env_kwargs: dict[str, Any]  # those the id was registered with
    observation_space: dict[str, Any]  # as `codecs.space_to_json` writes it
    action_space: dict[str, Any]
    source: str  # name of the learner in SOURCES
    settings: dict[str, Any]  # the learner's
    assumes: str  # what the learner must know
    seed: int
    streams: int  # histories of each task
    episodes: int  # of each history
    versions: dict[str, str]  # of the packages it was made with

    def write(self, file: h5py.File) -> None:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        words = {
            name: value if isinstance(value, str | int) else json.dumps(value, sort_keys=True)
            for name, value in asdict(self).items()
        }
        for name, value in {**words, CHECKSUM: _checksum(words)}.items():
            file.attrs[name] = value

    @classmethod
    def read(cls, file: h5py.File, path: Path) -> Self:
        with reading(path, "its header"):
            if "format" not in file.attrs or _attribute(file, "format", "str") != FORMAT:
                raise ValueError("HDF5, but no store of histories")
            number = _attribute(file, "format_version", "int")
        if number > FORMAT_VERSION:
            raise ValueError(f"{path} has format_version {number}, known are 1..{FORMAT_VERSION}: update icrl-agents")
        with reading(path, "its header"):
            kinds = {field.name: str(field.type) for field in fields(cls)}
            words = {name: _attribute(file, name, kind) for name, kind in kinds.items()}
            if CHECKSUM in file.attrs and _attribute(file, CHECKSUM, "int") != _checksum(words):
                raise ValueError("it does not fit its checksum")
            plain = {
                name: parse_object(words[name].encode(), MAX_DEPTH // 2) for name in kinds if "dict" in kinds[name]
            }
            return cls(**{**words, **plain})


def _attribute(file: h5py.File, name: str, kind: str) -> Any:
    """A single number or text; a text of JSON is one for `parse_object`, as it will be in a checkpoint's config."""
    found = file.attrs.get_id(name)
    if found.shape != () or found.dtype.kind not in ("iu" if kind == "int" else "O"):
        raise ValueError(f"{name} is of dtype {printable(found.dtype)} and shape {printable(found.shape)}")
    value = file.attrs[name]
    if kind == "int":
        return int(value)
    most = MAX_WORDS if kind == "str" else MAX_JSON
    if not isinstance(value, str) or len(value.encode()) > most:
        raise ValueError(f"{name} is no text of at most {most} bytes")
    return value


def _checksum(words: Mapping[str, Any]) -> int:
    """Of the header's texts: HDF5 keeps them apart from the attributes, whose checksums do not cover them."""
    return zlib.crc32(json.dumps(words, sort_keys=True).encode())


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
        from icrl_agents.core.spaces import space_from_json

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
        _column_name(field)
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
