"""A long life of an agent with latents: what it holds and how long a step takes, from the first fold to the end.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_memory.py [STEPS]

One Darkroom, `icrl/cad-darkroom`, 100,000 steps by default. Beside it: the whole history read anew by a plain
transformer of the same size, which is what a memory without an end would cost.
"""

import statistics
import sys
import time

import gymnasium
import torch

from icrl_agents import ICAgent

SHOWN = (1_000, 5_000, 10_000, 20_000, 50_000, 100_000)
SPAN = 1_000  # steps over which a latency is taken


def held(agent: ICAgent) -> int:
    """Bytes of one row's memory and window."""
    context = agent.context
    arrays = [*context.steps.columns.values(), context.length, context.memory.folds]
    tensors = [context.memory.latents, context.memory.cache.keys, context.memory.cache.values]
    return sum(array.nbytes for array in (*arrays, *tensors))


def live(agent: ICAgent, count: int) -> None:
    env = gymnasium.make("icrl/Darkroom-v0", goal=(7, 2))
    agent.reset(seed=0)
    obs, _ = env.reset(seed=0)
    times, earned = [], 0.0
    for step in range(1, count + 1):
        began = time.perf_counter()
        action = agent.act(obs)
        obs, reward, terminated, truncated, info = env.step(action)
        agent.observe(obs, reward, terminated, truncated, info)
        times.append(time.perf_counter() - began)
        earned += float(reward)
        if terminated or truncated:
            obs, info = env.reset()
        if step in SHOWN:
            last = times[-SPAN:]
            print(
                f"step {step:7,}: {held(agent):,} bytes, {1e6 * statistics.fmean(last):6.0f} us a step "
                f"(median {1e6 * statistics.median(last):.0f}), {int(agent.context.memory.folds[0]):,} folds, "
                f"{earned * 20 / step:.2f} an episode so far",
                flush=True,
            )


@torch.inference_mode()
def reread(agent: ICAgent, length: int) -> float:
    """Seconds for one action by reading `length` tokens anew."""
    x = torch.randn(1, length, agent.config.width)
    agent.method.body(x)
    began = time.perf_counter()
    agent.method.body(x)
    return time.perf_counter() - began


def main(count: int = 100_000) -> None:
    torch.set_num_threads(1)
    agent = ICAgent.from_pretrained("icrl/cad-darkroom")
    live(agent, count)
    for length in (1_000, 5_000):
        print(f"reading {length:,} steps anew: {1e6 * reread(agent, length):,.0f} us a step")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
