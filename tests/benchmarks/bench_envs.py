"""How fast environments step: the native vector env against Gymnasium's sync vector env, random actions, one core.

python tests/benchmarks/bench_envs.py [env id ...]
"""

import sys
import time

import gymnasium
import numpy as np
from icrl_envs import FAMILIES

NATIVE, SYNC = (4096, 500), (64, 50)  # environments, steps


def steps_per_second(env: gymnasium.vector.VectorEnv, steps: int, repeats: int = 5) -> float:
    """Give the best rate of several runs; actions are drawn before, infos are made."""
    actions = np.random.default_rng(0).integers(0, env.single_action_space.n, (steps, env.num_envs))
    env.reset(seed=0)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        seconds.append(time.perf_counter() - start)
    return steps * env.num_envs / min(seconds)


def main() -> None:
    """Print one line an id."""
    print(f"{'id':28}{'native steps/s':>16}{'sync steps/s':>16}{'ratio':>8}")
    for env_id in sys.argv[1:] or FAMILIES:
        native = steps_per_second(gymnasium.make_vec(env_id, NATIVE[0]), NATIVE[1])
        sync = steps_per_second(gymnasium.make_vec(env_id, SYNC[0], vectorization_mode="sync"), SYNC[1])
        print(f"{env_id:28}{native:16,.0f}{sync:16,.0f}{native / sync:8.0f}", flush=True)


if __name__ == "__main__":
    main()
