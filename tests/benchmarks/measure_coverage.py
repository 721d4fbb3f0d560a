"""How much of the dark room histories show before their first reward: the search that an agent can learn from them.

    icrl-agents collect --env icrl/Darkroom-v0 --source ppo --streams 20 -o ppo20.h5
    python tests/benchmarks/measure_coverage.py ppo20.h5

A history that never has a reward counts with all of its episodes.
"""

import sys

import numpy as np

from icrl_agents import HistoryStore


def coverage(path: str) -> str:
    """The first episode with a reward, and the cells that are entered before it, over all histories of a store."""
    first, entered, never = [], [], 0
    with HistoryStore(path) as store:
        for task in store.tasks:
            steps = store[task]
            episode = np.cumsum(steps.first, 1) - 1  # (B, T)
            for row in range(len(episode)):
                paid = episode[row][steps.mask[row] & (steps.reward[row] > 0)]
                found = int(paid[0]) if len(paid) else int(episode[row].max()) + 1
                never += not len(paid)
                seen = steps.obs[row][steps.mask[row] & (episode[row] < max(1, found))]
                first.append(found + 1)
                entered.append(len(np.unique(seen, axis=0)))
    late = np.mean(np.array(first) > 10)
    return (
        f"{path}, {len(first)} histories: first reward in episode {np.median(first):g} (median), after the tenth in "
        f"{late:.1%}, never in {never / len(first):.1%}; {np.mean(entered):.1f} cells are entered before it"
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(coverage(name))
