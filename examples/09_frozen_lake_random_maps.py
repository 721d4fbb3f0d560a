"""Gymnasium's FrozenLake on random 4x4 maps: where the holes are has to be found out by falling in.

An agent sees the number of its cell and nothing of the map. It learns from an expert that knows the training maps, by
value iteration over FrozenLake's own model. Held-out maps it solves in context, within ten episodes.

    python examples/09_frozen_lake_random_maps.py
"""

import functools
import itertools
import time
import tomllib
from pathlib import Path

import numpy as np
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map
from icrl_envs import find_family, register_family

from icrl_agents import evaluate, train

ENV_ID, FOLDER = "FrozenLake-v1", Path("runs/frozen-lake")
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
SIZE, MAPS, EPISODES, LIVES = 4, 2500, 10, 2  # LIVES: lifetimes on each held-out map


def draw(rng):
    """A task: arguments of `gymnasium.make`."""
    return {"desc": generate_random_map(SIZE, p=0.8, seed=int(rng.integers(2**31))), "is_slippery": False}


@functools.cache
def solve(desc, discount=0.95):
    """Optimal action in each cell (S,), by value iteration; the discount prefers short ways."""
    model = FrozenLakeEnv(desc=list(desc), is_slippery=False).P
    chances, reward = np.zeros((SIZE**2, 4, SIZE**2)), np.zeros((SIZE**2, 4))
    for cell, action in itertools.product(range(SIZE**2), range(4)):
        for chance, following, gain, ends in model[cell][action]:
            chances[cell, action, following] += chance * (not ends)
            reward[cell, action] += chance * gain
    values = np.zeros(SIZE**2)
    for _ in range(100):
        quality = reward + discount * chances @ values
        values = quality.max(1)
    return quality.argmax(1)


def expert(obs, tasks):
    """Optimal actions (B,) in the cells (B,) of the maps."""
    return np.array([solve(tuple(task["desc"]))[cell] for cell, task in zip(obs, tasks, strict=True)])


def best_walk(train_maps, test_maps):
    """Share of the test maps that a fixed walk solves, the best one of 6 steps on the training maps."""
    steps = range(2 * SIZE - 2)
    choices = itertools.combinations(steps, SIZE - 1)  # which of the steps go down; the others go right
    walks = [np.cumsum([SIZE if step in downs else 1 for step in steps]) for downs in choices]  # cells

    def solved(walk, maps):
        return np.mean(["H" not in {"".join(task["desc"])[cell] for cell in walk} for task in maps])

    return solved(max(walks, key=lambda walk: solved(walk, train_maps)), test_maps)


def main():
    began = time.time()
    register_family(ENV_ID, draw, num_tasks=MAPS, horizon=30, lifetime=EPISODES, split=(0.95, 0))
    agent = train("dpt", ENV_ID, FOLDER, settings={**SETTINGS, "source.expert": expert}, device="cpu", overwrite=True)
    curve = evaluate(agent, ENV_ID, num_seeds=LIVES)
    for episode in (1, 2, 5, EPISODES):  # every map has a way: the optimum is 1
        print(f"episode {episode:2d}: the goal is reached in {curve.at(episode)} of {len(curve.tasks)} held-out maps")
    walk = best_walk(*map(list, find_family(ENV_ID).tasks.split()))
    print(f"best fixed walk {walk:.2f}, random play {curve.random.mean():.2f}")
    print(f"{(time.time() - began) / 60:.1f} minutes")
    return curve, walk


if __name__ == "__main__":
    main()
