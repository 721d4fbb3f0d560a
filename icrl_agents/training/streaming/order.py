"""Order of the windows of a stream: passes over all blocks, in groups that are mixed.

It depends on the seed only, so the place of any window can be computed by its number, also in a resumed run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ORDER, MIX, CUT = 2, 3, 4  # separate the random streams of a seed


class Group(NamedTuple):
    """Blocks whose windows are mixed."""

    number: int  # counted over all passes
    turn: int  # number of the pass
    blocks: np.ndarray  # numbers of the blocks
    counts: np.ndarray  # windows of each of them
    first: int  # number of the first window, counted over all passes

    @property
    def size(self) -> int:
        """Number of windows."""
        return int(self.counts.sum())


class _Pass(NamedTuple):
    blocks: np.ndarray  # (N,) in the order of the pass
    share: np.ndarray  # (N,) group of each, counted within the pass
    begins: np.ndarray  # first window of each group, counted within the pass


class Order:
    """Each pass takes every block once, in an order of its own; consecutive blocks of similar totals form a group.

    Args:
        counts: (N,) windows of each block, all above zero.
        most: maximum number of windows in a group; at least those of the largest block.
        seed: seed of the order.
    """

    def __init__(self, counts: np.ndarray, most: int, seed: int):
        self.counts, self.seed, self.total = counts, seed, int(counts.sum())
        largest = int(counts.max())
        room = max(1, most - largest)  # a group ends with the block that fills it, which may exceed its share
        wanted = 1 if self.total <= most else -(-self.total // room)
        self.groups = max(1, min(wanted, self.total // largest))  # in a pass; none is empty
        self._known: tuple[int, Any] = (-1, None)  # the latest pass

    def group_at(self, window: int) -> Group:
        """The group of the window with this number."""
        turn, place = divmod(window, self.total)
        return self._group(turn, int(np.searchsorted(self._pass(turn).begins, place, "right")) - 1)

    def group(self, number: int) -> Group:
        """The group with this number."""
        return self._group(*divmod(number, self.groups))

    def _group(self, turn: int, place: int) -> Group:
        found = self._pass(turn)
        mine = found.blocks[found.share == place]
        first = turn * self.total + int(found.begins[place])
        return Group(turn * self.groups + place, turn, mine, self.counts[mine], first)

    def _pass(self, turn: int) -> _Pass:
        if self._known[0] != turn:
            blocks = np.random.default_rng([self.seed, ORDER, turn]).permutation(len(self.counts))
            starts = np.cumsum(self.counts[blocks]) - self.counts[blocks]  # (N,) first window of each block
            share = starts * self.groups // self.total
            begins = starts[np.searchsorted(share, np.arange(self.groups))]
            self._known = turn, _Pass(blocks, share, begins)
        return self._known[1]

    def mixed(self, group: Group) -> np.ndarray:
        """Places (size,) of the windows of a group, block by block, in its random order."""
        return np.random.default_rng([self.seed, MIX, group.number]).permutation(group.size)

    def generator(self, turn: int, block: int) -> np.random.Generator:
        """Generator of the windows of a block in a pass."""
        return np.random.default_rng([self.seed, CUT, turn, block])
