"""How fast bandit sources make histories: 10,000 tasks together against tasks one by one, 300 pulls each, one core.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_sources.py
"""

import time

import numpy as np
from icrl_envs import FAMILIES

from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes

SOURCES = {
    "icrl/BernoulliBandit-v0": ("thompson", "ucb", "epsilon-greedy", "uniform"),
    "icrl/ContextualBandit-v0": ("linucb",),
    "icrl/GaussianBandit-v0": ("gaussian-thompson",),
}
TOGETHER, ALONE, ROWS = 10_000, 3, 1000  # tasks; those that are timed one by one; lifetimes at once


def seconds(env_id: str, name: str, tasks: np.ndarray, rows: int) -> float:
    """How long one lifetime on each of the tasks takes, `rows` at a time."""
    source = make_source(name, env_id)
    began = time.perf_counter()
    for start in range(0, len(tasks), rows):
        lifetimes(env_id, source, tasks[start : start + rows], 1, 0)
    return time.perf_counter() - began


def main() -> None:
    """Print one line a source."""
    print(f"{'id':26}{'source':20}{'10,000 tasks':>14}{'one task':>12}{'ratio':>8}")
    for env_id, names in SOURCES.items():
        tasks = FAMILIES[env_id].ids[:TOGETHER]
        for name in names:
            lifetimes(env_id, make_source(name, env_id), tasks[:1], 1, 0)  # draws the tasks
            together = seconds(env_id, name, tasks, ROWS)
            alone = seconds(env_id, name, tasks[:ALONE], 1) / ALONE
            ratio = alone * TOGETHER / together
            print(f"{env_id:26}{name:20}{together:12.1f} s{alone:10.3f} s{ratio:8.0f}", flush=True)


if __name__ == "__main__":
    main()
