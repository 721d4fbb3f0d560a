"""Q-learning learns all training tasks from nothing, and every step of it is kept in one HDF5 file."""

from pathlib import Path

import numpy as np
from icrl_envs import FAMILIES

from icrl_agents import HistoryStore, collect

ENV_ID = "icrl/Darkroom-v0"
PATH = Path("darkroom-q-learning.h5")
STREAMS = 20  # learners on each task
EPISODES = 50
TASKS = FAMILIES[ENV_ID].split()[0].ids.tolist()  # the published training tasks
SEED = 0


def main() -> np.ndarray:
    """Collect and read back; gives the mean return of every episode."""
    # Killed at any moment and run again, it keeps what is finished and collects the rest; a complete file is replaced.
    collect(ENV_ID, "q-learning", PATH, tasks=TASKS, streams=STREAMS, episodes=EPISODES, seed=SEED, overwrite=True)

    curves = []
    with HistoryStore(PATH) as store:
        print(f"{PATH}: {store.info.source} on {store.info.env_id}; it knows {store.info.assumes}")
        for task in store.tasks:
            steps = store[task, :]  # Steps, arrays (streams, T): obs, action, reward, next_obs, ...
            curves.append(steps.reward.reshape(STREAMS, EPISODES, -1).sum(2).mean(0))
    mean = np.mean(curves, 0)
    for first in range(0, EPISODES, 10):
        span = mean[first : first + 10]
        print(f"episodes {first + 1:2d}-{first + len(span):2d}: mean return {span.mean():5.2f}")
    return mean


if __name__ == "__main__":
    main()
