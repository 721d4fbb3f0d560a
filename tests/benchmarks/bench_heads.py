"""Heads of real-valued actions on three hidden tasks: Gaussian, mixture and rectified flow, by DPT.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_heads.py --split validation --out runs/heads

Trains one agent a head, task and seed from nothing (source `noise`, labels of the expert) and prints the share of
(expert - random play) in episodes 1, 2, 3 and 8, mean and range over seeds. Called again, it measures what is missing.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from icrl_envs import Capability, Rules, Split, register_rules
from icrl_envs.base import noise
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

from icrl_agents import evaluate, train
from icrl_agents.core.families import find_family, make_tasks
from icrl_agents.core.rollout import rollout
from icrl_agents.core.splits import split_tasks
from icrl_agents.nn.codecs import BOX_HEADS

SHOWN = (1, 2, 3, 8)  # episodes


class TwoWays(Rules):
    """Two equally good actions, m and -m, of which the expert takes one at random. State: noise position. Task: m."""

    task_names, num_tasks, lifetime, stochastic = ("size",), 200, 8, True
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)
    capabilities = frozenset({Capability.EXPERT})

    def __init__(self, horizon: int = 10):
        self.horizon = horizon
        self.sizes = np.linspace(0.3, 0.9, self.num_tasks)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        return {"size": float(self.sizes[task_id])}

    def find_task(self, **task: Any) -> int:
        return int(np.abs(self.sizes - task["size"]).argmin())

    def start(self, task: np.ndarray) -> np.ndarray:
        return np.zeros(len(task), np.int64)

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        return position

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        return state + 1

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return state + 1, -np.abs(np.abs(action[:, 0].astype(float)) - self.sizes[task])

    def observe(self, state: np.ndarray) -> np.ndarray:
        return np.zeros((len(state), 1), np.float32)

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        sign = np.where(noise.uniform(state, 0) < 0.5, -1, 1)
        return (sign * self.sizes[task])[:, None].astype(np.float32)


class TwoWaysEnv(ArrayEnv):
    rules_class = TwoWays


class TwoWaysVectorEnv(ArrayVectorEnv):
    rules_class = TwoWays


class Case(NamedTuple):
    """A family, and the settings of its trainings."""

    env_id: str
    settings: dict[str, Any]


SMALL = {"width": 32, "inner": 64, "batch_size": 48, "micro_batch": 48, "eval_every": 0, "threads": 1}
CASES = {
    "two ways": Case("bench/TwoWays-v0", {"updates": 400, "episodes": 4, "window": 40, "slide": 10}),
    "point robot": Case(
        "icrl/PointRobot-v0", {"updates": 900, "episodes": 4, "window": 80, "slide": 20, "rewards": "fixed"}
    ),
    "pendulum": Case(
        "icrl/PendulumMass-v0",
        {"updates": 600, "episodes": 8, "window": 75, "slide": 25, "source.end": 0.3, "source.spread": 0.6},
    ),
}


class Expert:
    """Takes the environment's expert actions."""

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        self.env = env.unwrapped

    def act(self, obs: Any) -> Any:
        return self.env.expert_action()

    def observe(self, *result: Any) -> None:
        pass


def measured(case: Case, head: str, seed: int, split: str, out: Path) -> dict[str, Any]:
    """Shares (episodes,) of (expert - random play) of one training, from a file if it was measured before."""
    folder = out / f"{case.env_id.split('/')[1]}-{head}-{seed}"
    file = folder / f"{split}.json"
    if file.exists():
        return json.loads(file.read_text())
    began = time.perf_counter()
    settings = {**SMALL, **case.settings, "source": "noise", "head": head, "seed": seed}
    agent = train("dpt", case.env_id, folder, settings=settings, device="cpu", resume=folder.exists(), quiet=True)
    seconds = time.perf_counter() - began
    ids = getattr(split_tasks(case.env_id), split).ids[:200]
    curve = evaluate(agent, case.env_id, episodes=max(SHOWN), tasks=ids, num_seeds=1)
    env, options = make_tasks(case.env_id, ids)
    best = rollout(Expert(), env, 1, seed=0, options=options).mean()
    random = curve.random.mean()
    found = {"seconds": seconds, "shares": ((curve.mean - random) / (best - random)).tolist()}
    file.write_text(json.dumps({**found, "expert": best, "random": random, "returns": curve.mean.tolist()}))
    return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", default="validation")
    parser.add_argument("--out", type=Path, default=Path("runs/heads"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    given = parser.parse_args()
    register_rules(TwoWays, "bench/TwoWays-v0", 10, Split(0.8, 0))
    for name in given.cases:
        family = find_family(CASES[name].env_id)
        print(f"{name}: episodes of {family.horizon} steps, {CASES[name].settings['updates']} updates")
        for head in BOX_HEADS:
            runs = [measured(CASES[name], head, seed, given.split, given.out) for seed in range(given.seeds)]
            shares = np.array([[run["shares"][episode - 1] for episode in SHOWN] for run in runs])  # (seeds, episodes)
            cells = [
                f"{mean:.3f} [{low:.3f}, {high:.3f}]"
                for mean, low, high in zip(shares.mean(0), shares.min(0), shares.max(0), strict=True)
            ]
            print(f"  {head:9s} {'  '.join(cells)}  {np.mean([run['seconds'] for run in runs]):.0f} s", flush=True)


if __name__ == "__main__":
    main()
