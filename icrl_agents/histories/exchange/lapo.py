"""Chunks of LAPO's data (Schmidt and Jiang, 2024): npz files of consecutive steps of an expert in a game of Procgen.

Axis letter: N steps of a chunk.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import gymnasium
import numpy as np

from icrl_agents.core.families import find_family, is_family
from icrl_agents.core.files.strict_json import refuse_special
from icrl_agents.core.printable import printable
from icrl_agents.histories.columns import MAX_TASK_BYTES, check_expansion
from icrl_agents.histories.exchange.episodes import DataSet, Episode, checked

SUFFIX = ".npz"
OBS, ACTION, DONE, REWARD = "obs", "ta", "done", "rewards"  # arrays of a chunk that are read
MAX_HEADER = 1 << 12  # bytes of an array's header, which is parsed as Python
COMPARED = 64  # ends at which images are compared
ANY_LEVEL = "any_level"  # set of tasks whose episodes are on any level, in families of Procgen


def chunks_of(data: str | os.PathLike[str]) -> list[Path]:
    """Chunks among `data`: an npz file, or those in a folder in the order of their numbers; [] for other data."""
    path = Path(data).expanduser()
    if path.is_dir():
        return sorted(path.glob(f"*{SUFFIX}"), key=lambda one: (len(one.stem), one.stem))  # 2 before 10
    return [path] if path.suffix == SUFFIX else []


def chunk_tasks(chunks: Sequence[Path], env_id: str, tasks: Sequence[int] | None) -> list[int]:
    """Task id of each chunk: `tasks`, else those of the family's set "any_level", else 0, 1, ...

    Raises:
        ValueError: another number of tasks than of chunks, or one task for several.
    """
    if tasks is None:
        sets = find_family(env_id).sets if is_family(env_id) else {}
        first = sets[ANY_LEVEL].start if ANY_LEVEL in sets else 0
        return list(range(first, first + len(chunks)))
    if len(tasks) != len(chunks) or len(set(tasks)) < len(tasks):
        raise ValueError(
            f"{len(chunks)} chunks and {len(set(tasks))} different tasks: give a task of its own for each, or none"
        )
    return list(tasks)


class Survey(NamedTuple):
    """What is known of a chunk before it is read."""

    episodes: int  # number of episodes at most
    checksums: list[int]  # CRC-32 of the arrays that are read, as the file lists them


def survey(path: Path) -> Survey:
    """Survey of a chunk, of which only the flags are read."""
    with _reading(path) as archive:
        done = _flags(_array(archive, DONE), path)
        checksums = [_member(archive, name).CRC for name in (OBS, ACTION, DONE, REWARD)]
    return Survey(int(done[:-1].sum()) + 1, checksums)


def read_lapo(path: Path, env_id: str, spaces: tuple[gymnasium.Space, gymnasium.Space]) -> DataSet:
    """Episodes of one chunk, all of it in memory.

    `done` marks the last step of an episode, or the first of the next one where the images jump before the marked
    steps. The final observation of an episode is not in the file. The last observation stands for it, and the step is
    kept for its reward; an episode that goes on in another file is truncated at its last observation. The first one may
    lack its beginning, and no file says whether an episode ran out of time.

    Raises:
        ValueError: no such file, a truncated one, or values outside the spaces.
    """
    with _reading(path) as archive:
        columns = {name: _array(archive, name) for name in (OBS, ACTION, REWARD)}
        done = _flags(_array(archive, DONE), path)
        if wrong := {name: len(value) for name, value in columns.items() if len(value) != len(done)}:
            raise ValueError(f"{len(done)} flags {DONE}, but {printable(wrong)}")
    ends = _last_steps(done, columns[OBS])
    found = [checked(one, spaces, f"{path}, episode {number}") for number, one in enumerate(_episodes(columns, ends))]
    if not found:
        raise ValueError(f"{path} has no whole episode of two steps: is it a chunk of LAPO's data?")
    return DataSet(path.name, "lapo", env_id, *spaces, found)


def _flags(done: np.ndarray, path: Path) -> np.ndarray:
    """Flags (N,) bool, N at least 1."""
    if done.ndim != 1 or not len(done) or not np.isin(done, (0, 1)).all():
        raise ValueError(f"{DONE} is {printable(done.dtype)} {done.shape}, expected one flag for each step")
    return done.astype(bool)


def _last_steps(done: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Flags (N,) of the last steps of episodes: `done`, or one step earlier where that marks first steps."""
    marked = np.flatnonzero(done[1:-1])[:COMPARED] + 1
    before, at, after = (obs[marked + shift].astype(np.int16) for shift in (-1, 0, 1))
    if len(marked) and np.abs(at - before).mean() > np.abs(after - at).mean():
        return np.append(done[1:], False)
    return done


def _episodes(columns: dict[str, np.ndarray], ends: np.ndarray) -> Iterator[Episode]:
    obs, action, reward = columns[OBS], columns[ACTION], columns[REWARD]
    for begin, end in pairwise(sorted({0, *(np.flatnonzero(ends) + 1).tolist(), len(ends)})):
        whole = bool(ends[end - 1])
        stop = end if whole else end - 1  # the last step of a cut episode leads to an unknown observation
        if stop > begin:
            last = np.arange(begin, stop) == stop - 1
            seen = np.concatenate([obs[begin:stop], obs[end - 1 : end]])
            yield Episode(seen, action[begin:stop], reward[begin:stop], last & whole, last & (not whole))


# ---- reading npz, without pickles and in bounded memory ---------------------------------------------------------


class _Archive(NamedTuple):
    file: zipfile.ZipFile
    nbytes: int  # size of the file


@contextmanager
def _reading(path: Path) -> Iterator[_Archive]:
    """Open a chunk; one ValueError for a file that is damaged, system errors stay."""
    refuse_special(path)
    try:
        with zipfile.ZipFile(path) as file:
            yield _Archive(file, path.stat().st_size)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from None
    except Exception as error:  # zipfile and zlib raise errors of many kinds on damaged files
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    why = printable(error, 200) or type(error).__name__
    return ValueError(f"{path} is damaged, or no chunk of LAPO's data ({why}): get it again")


def _member(archive: _Archive, name: str) -> zipfile.ZipInfo:
    try:
        return archive.file.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no {name}") from None


def _array(archive: _Archive, name: str) -> np.ndarray:
    """An array of numbers; its size is compared with that of the file before it is read."""
    member = _member(archive, name)
    check_expansion(member.file_size, archive.nbytes, MAX_TASK_BYTES)
    with archive.file.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        if dtype.kind not in "biuf" or fortran:
            raise ValueError(f"{name} is {printable(dtype)} {printable(shape)}, expected numbers, row by row")
        content = stream.read()  # no more than the member's size, whatever the shape says
    return np.frombuffer(content, dtype).reshape(shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, order and dtype of an array in NumPy's format."""
    form = np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    if (version := form.read_magic(stream)) not in readers:
        raise ValueError(f"an array in version {version} of its format")
    return readers[version](stream, max_header_size=MAX_HEADER)
