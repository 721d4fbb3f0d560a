"""The choice between histories in memory and a stream of them."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np

from icrl_agents.histories.shards import HistoryShards
from icrl_agents.training.streaming.blocks import MB, total_bytes
from icrl_agents.training.streaming.stream import StreamedWindows
from icrl_agents.training.windows import StoreWindows, WindowSpec

IN_MEMORY, POOL = 1 / 2, 1 / 4  # shares of the memory that all histories may take, and that a pool takes


def recorded_windows(
    shards: HistoryShards,
    tasks: Sequence[int] | np.ndarray,
    spec: WindowSpec,
    spaces: tuple[gymnasium.Space, gymnasium.Space],
    pool: int,
    memory: float,
) -> StoreWindows | StreamedWindows:
    """Windows of recorded histories.

    Args:
        pool: memory in MB of the windows of a stream; 0: no stream if all histories fit into half of `memory`, else a
            pool of a quarter.
        memory: memory in bytes that this process may use.
    """
    if not pool and not fits(shards, tasks, memory):
        pool = max(1, int(memory * POOL) // MB)
    if pool:
        return StreamedWindows(shards, tasks, spec, spaces, pool)
    return StoreWindows(shards, tasks, spec, spaces)


def fits(shards: HistoryShards, tasks: Sequence[int] | np.ndarray, memory: float) -> bool:
    """Whether all histories of `tasks` may be held in memory."""
    return total_bytes(shards.index(int(task) for task in tasks)) <= memory * IN_MEMORY
