"""D4RL files (Fu et al., 2020): HDF5 with one long array of transitions for each column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from icrl_agents.core.families import find_family
from icrl_agents.core.files.strict_json import refuse_special
from icrl_agents.histories.columns import MAX_TASK_BYTES, check_expansion, linked, memory_bytes
from icrl_agents.histories.exchange.episodes import DataSet, Episode, checked
from icrl_agents.histories.hdf5 import reading

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")


def read_d4rl(path: Path, env_id: str) -> DataSet:
    """Episodes of a D4RL file, with the spaces of the family `env_id`.

    `terminals` end an episode by termination, `timeouts` by truncation; without `timeouts`, a transition whose
    `next_observations` is not the next observation does. The end of the file truncates the last episode.

    Without `next_observations` the final observation of an episode is not in the file. A truncated episode then loses
    its last step, whose observation becomes the final one. A terminated episode keeps the step, which may hold all of
    its reward, and its last observation stands for the final one.

    Raises:
        ValueError: no D4RL file, transitions out of order, or values outside the spaces.
    """
    family = find_family(env_id)
    spaces = family.observation_space, family.action_space
    columns = _shaped(_read(path), spaces, path)
    found = _episodes(columns, path)
    episodes = [checked(one, spaces, f"{path}, episode {number}") for number, one in enumerate(found)]
    if not episodes:
        raise ValueError(f"{path} has no whole episode of two steps: is it a D4RL file?")
    return DataSet(path.name, "d4rl", env_id, *spaces, episodes)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Columns of the file, bounded in memory, without links to other files."""
    refuse_special(path)
    with reading(path, "it"), h5py.File(path) as file:
        names = [name for name in (*REQUIRED, *OPTIONAL) if name in file]
        columns = {name: linked(file, name, h5py.Dataset) for name in names}
        if missing := set(REQUIRED) - set(names):
            raise ValueError(f"no {min(missing)}, a D4RL file has {', '.join(REQUIRED)}")
        if any(column.external is not None or column.is_virtual for column in columns.values()):
            raise ValueError("its data lie in another file")
        if any(column.dtype.kind not in "biuf" or not column.shape for column in columns.values()):
            raise ValueError("a column holds no numbers, or a single one")
        check_expansion(memory_bytes(columns.values()), file.id.get_filesize(), MAX_TASK_BYTES)
        return {name: column[()] for name, column in columns.items()}


def _shaped(columns: Mapping[str, np.ndarray], spaces: Any, path: Path) -> dict[str, np.ndarray]:
    """Columns (N, ...) in the shapes of the spaces, up to axes of size 1: some files have rewards of shape (N, 1)."""
    obs, action = (space.shape or () for space in spaces)
    inner: dict[str, tuple[int, ...]] = {"observations": obs, "next_observations": obs, "actions": action}
    steps = len(columns["observations"])
    found = {}
    for name, value in columns.items():
        wanted = (steps, *inner.get(name, ()))
        if not steps or _longer(value.shape) != _longer(wanted):  # of as many numbers they may be transposed
            raise ValueError(
                f"{path}: {name} have shape {value.shape}, expected {wanted}: is --env the env of the data?"
            )
        found[name] = value.reshape(wanted)
    return found


def _longer(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _episodes(columns: Mapping[str, np.ndarray], path: Path) -> Iterator[Episode]:
    obs, action, reward = columns["observations"], columns["actions"], columns["rewards"]
    following = columns.get("next_observations")
    terminated = columns["terminals"].astype(bool)  # (N,)
    truncated = _truncations(columns, terminated, path)
    for begin, end in pairwise([0, *(np.flatnonzero(terminated | truncated) + 1).tolist()]):
        final = obs[end - 1 : end] if following is None else following[end - 1 : end]  # (1, ...)
        lost = following is None and not terminated[end - 1]  # the last step, as its observation is the final one
        if (stop := end - lost) > begin:
            over = truncated[begin:stop].copy()
            over[-1] |= lost
            seen = np.concatenate([obs[begin:stop], final])
            yield Episode(seen, action[begin:stop], reward[begin:stop], terminated[begin:stop], over)


def _truncations(columns: Mapping[str, np.ndarray], terminated: np.ndarray, path: Path) -> np.ndarray:
    """Whether an episode is truncated after each transition (N,) bool; the last transition ends one."""
    obs, following = columns["observations"], columns.get("next_observations")
    jumps = np.zeros(len(obs), bool)
    if following is not None:
        jumps[:-1] = (following[:-1] != obs[1:]).reshape(len(obs) - 1, -1).any(1)
    if "timeouts" not in columns:
        truncated = jumps & ~terminated
    else:
        truncated = columns["timeouts"].astype(bool)
        if (lost := np.flatnonzero(jumps & ~terminated & ~truncated)).size:
            raise ValueError(
                f"{path}: next_observations {lost[0]} is not observation {lost[0] + 1}, and no episode ends there: "
                "its transitions are not in order"
            )
    truncated[-1] |= not terminated[-1]
    return truncated
