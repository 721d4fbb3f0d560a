"""Episodes of a data set, their lifetimes, and the episodes of stored histories.

Axis letters: B rows (lifetimes), T environment steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from icrl_agents.core.arrays import stored, to_array
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.histories.columns import FIELDS


class Episode(NamedTuple):
    """One episode of T steps; `task` and `lifetime` are None where the data do not name them."""

    obs: np.ndarray  # (T + 1, ...), with the final observation
    action: np.ndarray  # (T, ...)
    reward: np.ndarray  # (T,) float32
    terminated: np.ndarray  # (T,) bool
    truncated: np.ndarray  # (T,) bool
    task: int | None = None
    lifetime: int | None = None
    extras: Mapping[str, np.ndarray] = MappingProxyType({})  # extra columns (T, ...)
    static: Mapping[str, np.ndarray] = MappingProxyType({})  # values of the lifetime, such as the action mask


class DataSet(NamedTuple):
    """Episodes in memory, in the order of the data, and the spaces that they were recorded in."""

    name: str
    kind: str  # name of the format, recorded as the source of the histories
    env_id: str | None
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    episodes: Sequence[Episode]


def checked(episode: Episode, spaces: tuple[gymnasium.Space, gymnasium.Space], where: str) -> Episode:
    """The episode in the dtypes of the spaces.

    Raises:
        ValueError: a length, shape, dtype or value does not fit.
    """
    steps = len(episode.reward)
    obs = _fitting(episode.obs, spaces[0], steps + 1, f"{where}: observations")
    action = _fitting(episode.action, spaces[1], steps, f"{where}: actions")
    reward = stored(to_array(episode.reward, f"{where}: rewards"), np.float32, f"{where}: rewards")
    flags = [to_array(flag, f"{where}: ends").astype(bool) for flag in (episode.terminated, episode.truncated)]
    if not steps or reward.ndim != 1 or not np.isfinite(reward).all() or any(len(flag) != steps for flag in flags):
        raise ValueError(f"{where}: {steps} rewards, expected one finite number and two flags for each of 1 or more")
    if (flags[0] | flags[1])[:-1].any():
        raise ValueError(f"{where}: it ends before its last step: give every episode by itself")
    return episode._replace(obs=obs, action=action, reward=reward, terminated=flags[0], truncated=flags[1])


def _fitting(value: Any, space: gymnasium.Space, count: int, what: str) -> np.ndarray:
    """Values (count, *shape) in the dtype of the space; ValueError if one is not in it."""
    array = to_array(value, what)
    if array.shape != (count, *(space.shape or ())):
        raise ValueError(f"{what} have shape {array.shape}, expected {(count, *(space.shape or ()))}: is this the env?")
    array = stored(array, space.dtype, what)
    if not batch_space(space, count).contains(array):
        wrong = next((one for one in array if not space.contains(one)), array[:1])
        raise ValueError(f"{what} hold {printable(wrong)}, which is not in {printable(space)}: is this the env?")
    return array


# ---- lifetimes --------------------------------------------------------------------------------------------------


def lifetimes(
    data: Sequence[DataSet], tasks: Sequence[int] | None, episodes_per_lifetime: int | None
) -> dict[int, list[list[Episode]]]:
    """Lifetimes of each task, sorted by task: an episode's task is that of its data set, else its own, else 0, 1, ...

    Args:
        data: the data sets.
        tasks: task id of each data set; None: that of each episode, and the number of the data set where it has none.
        episodes_per_lifetime: consecutive episodes of a task in a lifetime, the last of which may have fewer; None: as
            the episodes name their lifetimes, else all episodes of a task in a data set are one lifetime.
    """
    found: dict[int, dict[tuple[int, int], list[Episode]]] = {}  # by task and lifetime
    counts: dict[int, int] = {}  # episodes of a task so far
    for number, each in enumerate(data):
        for episode in each.episodes:
            own = number if episode.task is None else episode.task
            task = own if tasks is None else tasks[number]
            place = counts.get(task, 0)
            counts[task] = place + 1
            if episodes_per_lifetime is None:
                lifetime = (number, episode.lifetime or 0)  # lifetimes do not go on in another data set
            else:
                lifetime = (0, place // episodes_per_lifetime)
            found.setdefault(task, {}).setdefault(lifetime, []).append(episode)
    return {task: list(found[task].values()) for task in sorted(found)}


def to_steps(rows: Sequence[Sequence[Episode]], where: str) -> Steps:
    """Steps (B, T) of lifetimes, padded with zeros; an episode that another one follows ends at its last step.

    Raises:
        ValueError: the episodes have different extra columns or static values.
    """
    joined = [_joined(episodes) for episodes in rows]
    total = max(len(row["reward"]) for row in joined)
    for row, episodes in zip(joined, rows, strict=True):
        if row.keys() != joined[0].keys() or any(one.static.keys() != rows[0][0].static.keys() for one in episodes):
            raise ValueError(f"{where}: its episodes have different columns: give episodes of one recording")
    mask = np.arange(total) < np.array([len(row["reward"]) for row in joined])[:, None]  # (B, T)
    columns = {name: np.stack([_padded(row[name], total) for row in joined]) for name in joined[0]}
    static = {name: np.stack([np.asarray(row[0].static[name]) for row in rows]) for name in rows[0][0].static}
    fields = {name: columns.pop(name) for name in FIELDS}
    return stack_steps(**fields, mask=mask, extras=columns, static=static)


def _joined(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Columns (T, ...) of a lifetime."""
    truncated = [episode.truncated.copy() for episode in episodes]
    for flags, episode in zip(truncated[:-1], episodes, strict=False):
        flags[-1] |= not episode.terminated[-1]
    names = [episode.extras.keys() for episode in episodes]
    extras = {
        name: [episode.extras[name] for episode in episodes] for name in sorted(set.intersection(*map(set, names)))
    }
    columns = {
        "obs": [episode.obs[:-1] for episode in episodes],
        "action": [episode.action for episode in episodes],
        "reward": [episode.reward for episode in episodes],
        "next_obs": [episode.obs[1:] for episode in episodes],
        "terminated": [episode.terminated for episode in episodes],
        "truncated": truncated,
        **extras,
    }
    return {name: np.concatenate(values) for name, values in columns.items()}


def _padded(value: np.ndarray, total: int) -> np.ndarray:
    return np.concatenate([value, np.zeros((total - len(value), *value.shape[1:]), value.dtype)])


# ---- episodes of histories --------------------------------------------------------------------------------------


def episodes_of(steps: Steps, task: int) -> Iterator[Episode]:
    """Episodes of all lifetimes (B, T) of a task; a row is a lifetime.

    Raises:
        ValueError: a `next_obs` in an episode is not the next `obs`, which an episode cannot hold.
    """
    for row, length in enumerate(steps.mask.sum(1).tolist()):
        ends = np.flatnonzero(steps.ended[row, :length]) + 1
        for begin, end in pairwise(sorted({0, length, *ends.tolist()})):
            yield _cut(steps, task, row, slice(begin, end))


def _cut(steps: Steps, task: int, row: int, span: slice) -> Episode:
    obs, next_obs = steps.obs[row, span], steps.next_obs[row, span]
    if not np.array_equal(obs[1:], next_obs[:-1]):
        raise ValueError(
            f"task {task}, stream {row}: a next_obs is not the obs of the next step: no episode holds both"
        )
    return Episode(
        obs=np.concatenate([obs, next_obs[-1:]]),
        action=steps.action[row, span],
        reward=steps.reward[row, span],
        terminated=steps.terminated[row, span],
        truncated=steps.truncated[row, span],
        task=task,
        lifetime=row,
        extras={name: value[row, span] for name, value in steps.extras.items()},
        static={name: value[row] for name, value in steps.static.items()},
    )


def longest(rows: Iterable[Sequence[Episode]]) -> int:
    """Largest number of episodes in a lifetime."""
    return max(len(episodes) for episodes in rows)
