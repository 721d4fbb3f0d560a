"""Import data sets of other libraries as a store of histories."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import gymnasium

from icrl_agents.core.arrays import digest
from icrl_agents.core.checks import check_value, flag, whole
from icrl_agents.core.families import find_family, is_family
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import version_of
from icrl_agents.core.spaces import space_to_json
from icrl_agents.histories.exchange.d4rl import read_d4rl
from icrl_agents.histories.exchange.episodes import DataSet, lifetimes, longest, to_steps
from icrl_agents.histories.exchange.lapo import chunk_tasks, chunks_of, read_lapo, survey
from icrl_agents.histories.exchange.minari import read_minari
from icrl_agents.histories.info import HistoryInfo, warn_uncoded
from icrl_agents.histories.writer import HistoryWriter

ASSUMES = "what the policies assumed that made the data."


def import_histories(
    data: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    env_id: str | None = None,
    tasks: Sequence[int] | None = None,
    episodes_per_lifetime: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a `HistoryStore` of Minari data sets and D4RL files, read into memory, or of LAPO's chunks, one at a time.

    A training on it needs a family with these task ids, registered under the environment id of the store.

    Args:
        data: Minari data sets (folders or ids) and D4RL files (HDF5); or LAPO's chunks (npz) and folders of them.
        path: file of the store.
        env_id: environment id of the store; None: that of the data. D4RL files and LAPO's chunks need it.
        tasks: task id of each data set or chunk; None: the metadata `task` of a Minari episode; of chunks the tasks
            "any_level" of a family that has them; else 0, 1, ... in the order of `data`.
        episodes_per_lifetime: consecutive episodes of a task that are a lifetime; None: the metadata `lifetime` of
            Minari episodes, else all episodes of a task in a data set.
        overwrite: replace a finished store.

    Raises:
        FileNotFoundError, FileExistsError: a data set is not there, or the store is.
        ValueError: the data do not fit each other, the family, or the formats of `read_minari`, `read_d4rl` and
            `read_lapo`.
        ImportError: Minari is not installed.
    """
    check_value("episodes_per_lifetime", "int | None", episodes_per_lifetime, (1, 10**9))
    overwrite = flag("overwrite", overwrite)
    tasks = None if tasks is None else [whole("tasks", task, 0) for task in tasks]
    if chunks := [chunk for each in data for chunk in chunks_of(each)]:
        if not all(map(chunks_of, data)):
            raise ValueError(f"{len(data)} data, some of them chunks (npz) and some not: import them into two stores")
        _import_chunks(chunks, Path(path), env_id, tasks, episodes_per_lifetime, overwrite)
        return Path(path)
    if not data or (tasks is not None and len(tasks) != len(data)):
        raise ValueError(f"{len(data)} data sets and {len(tasks or ())} tasks: give one or more, and one task for each")
    sets = [_read(each, env_id) for each in data]
    env_id = _common_env(sets, env_id)
    rows = lifetimes(sets, tasks, episodes_per_lifetime)
    _check_family(env_id, sets[0], rows)
    histories = {task: to_steps(found, f"task {task}") for task, found in rows.items()}
    streams, episodes = max(map(len, rows.values())), max(map(longest, rows.values()))
    checksum = digest({f"{task} {name}": one for task, each in histories.items() for name, one in each.columns.items()})
    info = _info(env_id, sets[0], [each.name for each in sets], checksum, streams, episodes)
    with HistoryWriter(Path(path), info, sorted(rows), overwrite=overwrite) as writer:
        for task, steps in histories.items():
            writer.add({task: steps})
        writer.finish()
    return Path(path)


def _read(data: str | os.PathLike[str], env_id: str | None) -> DataSet:
    path = Path(data).expanduser()
    if not path.is_file():
        return read_minari(os.fspath(data))
    if env_id is None:
        raise ValueError(f"{path} is a file, so a D4RL one, which names no environment: give --env (env_id=...)")
    return read_d4rl(path, env_id)


def _common_env(sets: Sequence[DataSet], env_id: str | None) -> str:
    """Environment id of the store; ValueError if the data sets have different spaces, or none names an id."""
    first = sets[0]
    for other in sets[1:]:
        if (other.observation_space, other.action_space) != (first.observation_space, first.action_space):
            raise ValueError(f"{first.name} and {other.name} have different spaces: import them into different stores")
    found = sorted({each.env_id for each in sets if each.env_id} if env_id is None else {env_id})
    if len(found) != 1:
        raise ValueError(f"the data name {len(found)} environments {printable(found)}: give --env (env_id=...)")
    return found[0]


def _check_family(env_id: str, data: DataSet, rows: Mapping[int, object]) -> None:
    """Refuse (ValueError) data that a registered family cannot have made."""
    if not is_family(env_id):
        return
    family = find_family(env_id)
    for theirs, ours in ((data.observation_space, family.observation_space), (data.action_space, family.action_space)):
        if theirs != ours:
            raise ValueError(f"{data.name} has the space {printable(theirs)}, {env_id} has {printable(ours)}")
    if (wrong := max(rows)) >= family.set_tasks:
        raise ValueError(f"task {wrong} is not one of {env_id}, its ids are 0..{family.set_tasks - 1}: give --tasks")


def _import_chunks(
    chunks: Sequence[Path],
    path: Path,
    env_id: str | None,
    tasks: Sequence[int] | None,
    episodes_per_lifetime: int | None,
    overwrite: bool,
) -> None:
    """Write each chunk as a task, one in memory at a time; what was interrupted goes on."""
    if env_id is None:
        raise ValueError(f"{chunks[0]} is a chunk of LAPO's, which names no environment: give --env (env_id=...)")
    family, ids = find_family(env_id), chunk_tasks(chunks, env_id, tasks)
    data = DataSet("chunks", "lapo", env_id, family.observation_space, family.action_space, [])
    _check_family(env_id, data, dict.fromkeys(ids))
    found = [survey(chunk) for chunk in chunks]
    episodes = [each.episodes for each in found]
    most = max(episodes) if episodes_per_lifetime is None else min(max(episodes), episodes_per_lifetime)
    contents = json.dumps([ids, [each.checksums for each in found]])
    checksum = hashlib.sha256(contents.encode()).hexdigest()
    info = _info(env_id, data, [chunk.name for chunk in chunks], checksum, -(-max(episodes) // most), most)
    with HistoryWriter(path, info, sorted(ids), overwrite=overwrite) as writer:
        for task, chunk in zip(ids, chunks, strict=True):
            if task not in writer.done:
                read = read_lapo(chunk, env_id, (family.observation_space, family.action_space))
                rows = lifetimes([read], [task], episodes_per_lifetime)[task]
                writer.add({task: to_steps(rows, str(chunk))})
        writer.finish()


def _info(env_id: str, data: DataSet, names: Sequence[str], checksum: str, streams: int, episodes: int) -> HistoryInfo:
    """Header; the `checksum` tells data from others of the same names, whose import is another collection."""
    warn_uncoded(data.observation_space, data.action_space)
    spec = gymnasium.registry.get(env_id)
    return HistoryInfo(
        env_id=env_id,
        env_kwargs=_plain(spec.kwargs) if spec is not None else {},
        observation_space=space_to_json(data.observation_space),
        action_space=space_to_json(data.action_space),
        source=data.kind,
        settings={"data": [printable(name, 200) for name in names[:100]], "checksum": checksum},
        assumes=ASSUMES,
        seed=0,
        streams=streams,
        episodes=episodes,
        versions={name: version_of(name) for name in ("icrl-agents", "gymnasium", "numpy", "h5py", "minari")},
    )


def _plain(kwargs: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in kwargs.items() if isinstance(value, bool | int | float | str)}
