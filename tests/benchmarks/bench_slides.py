"""The slowest `act` of a batch against the median one: windows slide, and must not stall a server.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_slides.py [ROWS] [ACTS] [AGENT ...]

All rows begin together, so their windows are full at the same time. The outcomes are random; the env takes no time.
"""

import statistics
import sys
import time

import numpy as np

from icrl_agents import ICAgent

AGENTS = (
    "ad-bernoulli",
    "headless-ad-bernoulli",
    "ad-darkroom",
    "marked-ad-darkroom",
    "idt-darkroom",
    "cad-darkroom",
)


def acts(agent: ICAgent, rows: int, count: int) -> list[float]:
    """Seconds of each `act`."""
    rng, flags, spent = np.random.default_rng(0), np.zeros(rows, bool), []
    obs = np.stack([agent.observation_space.sample()] * rows)
    agent.reset(num_envs=rows, seed=0, autoreset_mode="Disabled")
    for _ in range(count):
        began = time.perf_counter()
        agent.act(obs)
        spent.append(time.perf_counter() - began)
        agent.observe(obs, (rng.random(rows) < 0.3).astype(np.float32), flags, flags, {})
    return spent


def main(rows: int = 64, count: int = 700, *names: str) -> None:
    for name in names or AGENTS:
        spent = acts(ICAgent.from_pretrained(f"icrl/{name}", device="cpu"), rows, count)
        median, worst = statistics.median(spent), max(spent)
        late = sorted(spent)[-len(spent) // 100]
        print(
            f"{name:24} {rows} rows: median {1e3 * median:6.1f} ms, 99% {1e3 * late:6.1f} ms, worst "
            f"{1e3 * worst:7.1f} ms, worst/median {worst / median:5.1f}, mean {1e3 * statistics.fmean(spent):6.1f} ms"
        )


if __name__ == "__main__":
    main(*(int(word) if word.isdigit() else word for word in sys.argv[1:]))
