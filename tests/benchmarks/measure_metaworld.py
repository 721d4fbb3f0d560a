"""Speed of collecting Meta-World lifetimes, against a plain loop over Meta-World's own environment and expert.

    python -m tests.benchmarks.measure_metaworld --lifetimes 256 --episodes 5 --processes 2

Steps per second of the clock, and per second of processor time of all processes; start and imports included.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from icrl_agents.core.splits import split_tasks
from icrl_agents.sources.collection import collect

NAME = "reach"
ENV_ID = f"icrl/MetaWorld-{NAME}-v0"
HORIZON = 100


def plain(tasks: list[int], episodes: int) -> None:
    """The loop that a user of Meta-World writes."""
    from icrl_envs.metaworld.tasks import goal_of
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    env, policy = ALL_V3_ENVIRONMENTS[f"{NAME}-v3"](), ENV_POLICY_MAP[f"{NAME}-v3"]()
    env._set_task_called, env._partially_observable = True, False
    del env.sawyer_observation_space
    for task in tasks:
        env._last_rand_vec = goal_of(NAME, task)
        for _ in range(episodes):
            obs, _ = env.reset()
            for _ in range(HORIZON):
                obs = env.step(np.clip(policy.get_action(obs), -1, 1))[0]


def ours(tasks: list[int], episodes: int, processes: int) -> None:
    """Lifetimes of the noisy expert, as `icrl-agents collect` records them."""
    with tempfile.TemporaryDirectory() as folder:
        collect(ENV_ID, "noise", Path(folder) / "a.h5", tasks=tasks, streams=1, episodes=episodes, processes=processes)


def processor() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(name: str, steps: int, run: Callable[[], None]) -> float:
    """Steps per second of the clock."""
    clock, cpu = time.perf_counter(), processor()
    run()
    clock, cpu = time.perf_counter() - clock, processor() - cpu
    print(f"{name:24s} {steps / clock:7.0f} steps/s   {steps / cpu:7.0f} per processor second", flush=True)
    return steps / clock


def main() -> None:
    """Measure, and print a line each."""
    words = argparse.ArgumentParser()
    for option, usual in (("--lifetimes", 256), ("--episodes", 5), ("--processes", 2)):
        words.add_argument(option, type=int, default=usual)
    given = words.parse_args()
    tasks = split_tasks(ENV_ID, task_set="train_free").train.ids[: given.lifetimes].tolist()
    steps = given.lifetimes * given.episodes * HORIZON
    base = measure("plain loop, one process", steps, lambda: plain(tasks, given.episodes))
    for processes in dict.fromkeys((1, given.processes)):
        speed = measure(f"collect, {processes} processes", steps, lambda n=processes: ours(tasks, given.episodes, n))
        print(f"{speed / base:.2f}x")


if __name__ == "__main__":
    main()
