"""Part: the histories of one task in one file, and whether several fit a common batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from icrl_agents.core.changing import CHANGED
from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.histories.columns import GIVEN
from icrl_agents.histories.layout import Layout
from icrl_agents.histories.store import HistoryStore

MASK = GIVEN + ACTION_MASK  # optional: without it all actions are legal
# optional column -> its values (B, T, ...) in histories without it, which are of one policy and one task, and took what
# they intended
STAND_INS: dict[str, Callable[[Steps], np.ndarray]] = {
    "intended_action": lambda steps: steps.action,
    "update": lambda steps: np.zeros(steps.mask.shape),
    CHANGED: lambda steps: np.zeros(steps.mask.shape),
}
AGAIN = "collect all tasks in the same way"


class Part(NamedTuple):
    """Histories of one task in one file."""

    task: int
    store: HistoryStore
    layout: Layout

    @property
    def nbytes(self) -> int:
        """Memory in bytes of all of them as `Steps`."""
        return len(self.layout.lengths) * self.layout.row_bytes

    def completed(self, steps: Steps) -> Steps:
        """Stored steps (B, T) with the columns of the layout."""
        columns = self.layout.columns
        extras = {name: value for name, value in steps.extras.items() if name in columns}
        return stood_in(steps._replace(extras=extras), {name: dtype for name, (dtype, _) in columns.items()})


def stood_in(steps: Steps, dtypes: Mapping[str, np.dtype]) -> Steps:
    """Steps (B, T) with the columns of `STAND_INS` among `dtypes` that they lack."""
    added = {
        name: STAND_INS[name](steps).astype(dtypes[name], copy=False)
        for name in STAND_INS
        if name in dtypes and name not in steps.extras
    }
    return steps._replace(extras={**steps.extras, **added})


def share_columns(collections: Sequence[Sequence[Part]]) -> list[Part]:
    """The parts of collections, which may come from different sources, with the columns that all of them have.

    A column of `STAND_INS` that only some have is kept: `Part.completed` fills it in the others.

    Raises:
        ValueError: parts of one of several collections differ in columns.
    """
    given = [parts for parts in collections if parts]
    if len(given) < 2:
        return [part for parts in given for part in parts]
    for parts in given:  # what only some histories of one collection have is the caller's mistake
        check_same_columns(parts)
    columns = [parts[0].layout.columns for parts in given]
    filled = {name: one[name] for one in columns for name in STAND_INS if name in one}
    shared = set.intersection(*map(set, columns)) | {*filled}
    return [part._replace(layout=part.layout.only(shared, filled)) for parts in given for part in parts]


def check_same_columns(parts: Sequence[Part]) -> None:
    """ValueError for histories that differ in columns and so fit no common batch; action masks are optional."""
    first, wanted = parts[0], parts[0].layout.columns
    for part in parts:
        found, which = part.layout.columns, _names(first, part)
        for name in sorted((wanted.keys() ^ found.keys()) - {MASK}):
            raise ValueError(f"{part.store.path}: only one of {which} has '{printable(name)}': {AGAIN}")
        for name in wanted.keys() & found.keys():
            if wanted[name] != found[name]:
                one, other = printable(wanted[name]), printable(found[name])
                raise ValueError(
                    f"{part.store.path}: '{printable(name)}' is {one}, but {other} in task {part.task}: {AGAIN}"
                )
        wanted = {**found, **wanted}  # the first tasks may have no action mask


def _names(first: Part, other: Part) -> str:
    if first.store.path == other.store.path:
        return f"the tasks {first.task} and {other.task}"
    return f"the tasks {first.task} ({first.store.path}) and {other.task}"
