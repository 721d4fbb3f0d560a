"""Training speed of AD: supervised actions a second, against the published form with one target a window.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_training.py

4 layers, width 32, windows of 80 steps, 512 windows an update, forward, backward and AdamW step, data made before.
"""

import sys
import time

import gymnasium
import torch

import icrl_agents  # noqa: F401  registers the environments
from icrl_agents.methods.ad import AD, ADConfig
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from icrl_agents.training.config import TrainConfig
from icrl_agents.training.optimizer import make_optimizer

ID, WINDOW, BATCH, MICRO = "icrl/Darkroom-v0", 80, 512, 64


def seconds_per_update(layout: str, updates: int) -> float:
    env = gymnasium.make_vec(ID, num_envs=1)
    config = ADConfig(width=32, layers=4, heads=4, inner=128, window=WINDOW, slide=20, layout=layout)
    method = AD(env.single_observation_space, env.single_action_space, config)
    optimizer = make_optimizer(method, TrainConfig())
    steps = lifetimes(ID, make_source("posterior", ID), torch.arange(BATCH).numpy() % 81, WINDOW // 20, 0)
    best = float("inf")
    for _ in range(updates):
        began = time.perf_counter()
        for part in range(0, BATCH, MICRO):
            loss = method.loss(method.tensors(steps.rows(slice(part, part + MICRO))))["action"] * (MICRO / BATCH)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        best = min(best, time.perf_counter() - began)
    return best


def main(updates: int = 6) -> None:
    torch.set_num_threads(1)
    dense, packed = seconds_per_update("steps", updates), seconds_per_update("packed", updates)
    rates = BATCH * WINDOW / dense, BATCH / packed
    print(f"loss at every step:   {rates[0]:9,.0f} supervised actions/s ({dense:.2f} s an update)")
    print(f"one target a window:  {rates[1]:9,.0f} supervised actions/s ({packed:.2f} s an update)")
    print(f"ratio {rates[0] / rates[1]:.0f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
