"""Minari data sets (Younis et al., 2024): a folder of episodes with JSON metadata.

Episodes of ours carry, as metadata, `task` and `lifetime` (the row of the task), `static/NAME` for values of the
lifetime such as the action mask, and extra columns as `infos/histories/NAME`, indexed like the observations.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from icrl_agents.core.files.folder_lock import FolderLock
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import need
from icrl_agents.core.spaces import space_to_json
from icrl_agents.histories.exchange.episodes import DataSet, Episode, checked, episodes_of
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.store import HistoryStore

COLUMNS, STATIC = "histories", "static"  # group of infos with extra columns, prefix of metadata with static values
ENV_ID = "env_id"  # metadata of a data set: the id alone, for an env without a specification in JSON


def read_minari(dataset: str | Path) -> DataSet:
    """Episodes of a Minari data set on this machine; nothing is downloaded, and no environment is made.

    An episode's task and lifetime are the whole numbers `task` and `lifetime` of its metadata, where it has them.

    Args:
        dataset: folder of the data set, or its id such as "D4RL/pen/human-v2" below Minari's folder of data sets.

    Raises:
        FileNotFoundError: the data set is not on this machine.
        ValueError: spaces that histories cannot hold, or data that are damaged or outside the spaces.
        ImportError: Minari is not installed.
    """
    need("minari", "minari")
    folder = _folder(dataset)
    with _minaris_errors(folder, "read"):
        storage = _open(folder)
    spaces = storage.observation_space, storage.action_space
    for space in spaces:
        _check_space(space, folder)
    with _minaris_errors(folder, "read"):
        numbers = range(storage.total_episodes)
        raw = list(zip(storage.get_episodes(numbers), storage.get_episode_metadata(numbers), strict=True))
    episodes = [
        checked(_episode(data, metadata), spaces, f"{dataset}, episode {number}")
        for number, (data, metadata) in enumerate(raw)
    ]
    if not episodes:
        raise ValueError(f"{dataset} has no episodes: give a data set with some")
    return DataSet(str(dataset), "minari", _env_id(storage.read_raw_metadata(folder)), *spaces, episodes)


def export_minari(path: str | Path, dataset_id: str, root: str | Path | None = None) -> Path:
    """Write the histories of a store as a Minari data set, one Minari episode for each of theirs.

    `read_minari` reads the same values. Pixels are stored as they are, not as JPEG.

    Args:
        path: file of a `HistoryStore`; of an unfinished one, the finished tasks are written.
        dataset_id: id of the data set, such as "my/darkroom-v0".
        root: folder of data sets; None: Minari's own, `MINARI_DATASETS_PATH` or `~/.minari/datasets`.

    Returns:
        The folder of the data set, `root/dataset_id`, which is complete or not there.

    Raises:
        FileExistsError: the data set exists.
        BlockingIOError: another process is exporting to it.
        ValueError: a malformed id, or a store whose spaces or steps Minari cannot hold.
        ImportError: Minari is not installed.
    """
    target = _root(root).absolute() / _checked_id(dataset_id)
    _refuse_existing(target, dataset_id)
    place = target.with_name(f".{target.name}.exporting")  # hidden, so Minari does not list it
    temporary = place / target.name
    with HistoryStore(path) as store:
        _check_spaces(store)
        if not any(layout.lengths.any() for layout in store.layouts(store.tasks)):
            raise ValueError(f"{store.path} has no steps: record some first")
        with FolderLock(place, "exporting in"):
            _refuse_existing(target, dataset_id)  # written by the previous owner
            shutil.rmtree(temporary, ignore_errors=True)  # left over by an export that was killed
            try:
                temporary.mkdir()
                with _minaris_errors(temporary, "write"):
                    _write(store, temporary / "data", dataset_id)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):  # left over by an export that was killed
        place.rmdir()
    return target


def _refuse_existing(target: Path, dataset_id: str) -> None:
    if target.exists():
        raise FileExistsError(f"{target} exists: give the next version as the id, such as {dataset_id[:-1]}1")


# ---- reading ----------------------------------------------------------------------------------------------------


def _folder(dataset: str | Path) -> Path:
    """Folder `data` of a data set given by its folder or its id."""
    for folder in (Path(dataset).expanduser(), _root(None) / str(dataset)):
        for found in (folder / "data", folder):
            if (found / "metadata.json").is_file():
                return found
    raise FileNotFoundError(
        f"no Minari data set '{printable(str(dataset))}': give its folder, or its id after `minari download` of it"
    )


def _root(root: str | Path | None) -> Path:
    if root is not None:
        return Path(root).expanduser()
    need("minari", "minari")
    from minari.storage.datasets_root_dir import get_dataset_path

    return Path(get_dataset_path())


@contextmanager
def _minaris_errors(path: Path, verb: str) -> Iterator[None]:
    """One ValueError for what Minari raises on data that it cannot read or write; system errors stay."""
    try:
        yield
    except (AssertionError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = printable(error, 200) or type(error).__name__
        raise ValueError(f"{path}: Minari cannot {verb} it ({why}): is it whole, and made by Minari?") from None


def _open(folder: Path) -> Any:
    """Storage of a data set; without spaces in its metadata Minari would make its environment, which runs code."""
    from minari.dataset.minari_storage import MinariStorage

    metadata = MinariStorage.read_raw_metadata(folder)
    if missing := {"observation_space", "action_space"} - metadata.keys():
        raise ValueError(f"its metadata have no {min(missing)}")
    return MinariStorage.read(folder)


def _check_space(space: gymnasium.Space, folder: Path) -> None:
    """Refuse (ValueError) a space that histories cannot hold."""
    try:
        space_to_json(space)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    if space.shape is None:
        raise ValueError(f"{folder}: {printable(space)} is no space of arrays: flatten it before you record")


def _episode(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Episode:
    steps = len(data["rewards"])
    extras = ((data["infos"] or {}).get(COLUMNS) or {}).items()
    return Episode(
        obs=data["observations"],
        action=data["actions"],
        reward=data["rewards"],
        terminated=data["terminations"],
        truncated=data["truncations"],
        task=_number(metadata.get("task"), "task"),
        lifetime=_number(metadata.get("lifetime"), "lifetime"),
        extras={name: np.asarray(value)[:steps] for name, value in extras},
        static={name: np.asarray(value) for name, value in (metadata.get(STATIC) or {}).items()},
    )


def _number(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise ValueError(f"an episode has the {name} '{printable(value)}', expected a number from 0: rename that metadata")


def _env_id(metadata: Mapping[str, Any]) -> str | None:
    """Environment id in the metadata of a data set, unless it has none."""
    try:
        found = json.loads(metadata["env_spec"])["id"] if "env_spec" in metadata else metadata.get(ENV_ID)
    except (TypeError, ValueError, LookupError):
        return None
    return found if isinstance(found, str) else None


# ---- writing ----------------------------------------------------------------------------------------------------


def _checked_id(dataset_id: str) -> str:
    need("minari", "minari")
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError):  # TypeError: no version
        raise ValueError(f"'{printable(dataset_id)}' is no id of a data set: give one such as my/darkroom-v0") from None
    return dataset_id


def _check_spaces(store: HistoryStore) -> None:
    """Refuse (ValueError) a store whose spaces Minari does not read back."""
    from minari.serialization import deserialize_space, serialize_space

    for space in store.spaces:
        try:
            same = deserialize_space(serialize_space(space)) == space
        except (TypeError, ValueError, NotImplementedError, AssertionError, LookupError):
            same = False
        if not same:
            raise ValueError(
                f"{store.path}: Minari does not store {printable(space)}: use Box, Discrete or MultiDiscrete"
            )


def _write(store: HistoryStore, folder: Path, dataset_id: str) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    obs, action = store.spaces
    storage = MinariStorage.new(folder, obs, action, _spec(store.info), jpeg_encoding=False)
    storage.update_metadata({"dataset_id": dataset_id, "minari_version": minari.__version__, **_about(store.info)})
    metadata: list[dict[str, Any]] = []

    def buffers() -> Iterator[Any]:
        for episode in chain.from_iterable(episodes_of(store[task], task) for task in store.tasks):
            metadata.append(_metadata(episode))
            yield EpisodeBuffer(
                observations=episode.obs,
                actions=episode.action,
                rewards=episode.reward,
                terminations=episode.terminated,
                truncations=episode.truncated,
                infos={COLUMNS: {name: _with_final(value) for name, value in episode.extras.items()}},
            )

    storage.update_episodes(buffers())
    storage.update_episode_metadata(metadata)


def _metadata(episode: Episode) -> dict[str, Any]:
    static = {f"{STATIC}/{name}": value for name, value in episode.static.items()}
    return {"task": episode.task, "lifetime": episode.lifetime, **static}


def _with_final(value: np.ndarray) -> np.ndarray:
    """A column (T, ...) as infos (T + 1, ...), zero at the final observation."""
    return np.concatenate([value, np.zeros_like(value[:1])])


def _about(info: HistoryInfo) -> dict[str, Any]:
    return {"algorithm_name": info.source, ENV_ID: info.env_id, "description": f"Learning histories of {info.source}"}


def _spec(info: HistoryInfo) -> Any:
    """Specification of the environment; None where it is not registered, or cannot be written as JSON."""
    spec = gymnasium.registry.get(info.env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return spec if spec is not None and spec.to_json() else None
    except (TypeError, ValueError):
        return None
