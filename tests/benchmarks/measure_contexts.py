"""Difference of action log-probabilities after a context is saved and loaded in another process, for released agents.

    OMP_NUM_THREADS=1 python tests/benchmarks/measure_contexts.py [AGENT...]

Each agent takes 400 steps of random observations and rewards in 3 rows, with windows that are full and slide; its
context is saved, and the next 200 actions are compared with those of a process that loads it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icrl_agents import ICAgent, list_pretrained

BEFORE, AFTER, ROWS, EPISODE = 400, 200, 3, 20


def play(agent: ICAgent, start: int, count: int) -> np.ndarray:
    """Log-probabilities (count, ROWS) of the actions taken at steps `start` on, of a stream fixed by the step."""
    space = agent.observation_space
    found = []
    for step in range(start, start + count):
        space.seed(step)
        rng = np.random.default_rng(step)
        obs, after = (np.stack([space.sample() for _ in range(ROWS)]) for _ in range(2))
        with torch.inference_mode():
            policy = agent.method.policy(agent.context.select(np.arange(ROWS)), obs)
            action = agent.act(obs)
            found.append(log_prob(agent, policy, action))
        ended = np.full(ROWS, step % EPISODE == EPISODE - 1)
        info = {"final_obs": after, "_final_obs": ended} if ended.any() else {}
        agent.observe(after, rng.integers(0, 2, ROWS).astype(np.float32), np.zeros(ROWS, bool), ended, info)
    return np.array(found)


def log_prob(agent: ICAgent, policy: Any, action: np.ndarray) -> np.ndarray:
    chosen = agent.method.action.tensor(action, agent.device)
    return policy.log_prob(chosen).numpy()


def continued(name: str, folder: str) -> None:
    agent = ICAgent.from_pretrained(name, device="cpu")
    agent.load_context(folder)
    np.save(Path(folder) / "found.npy", play(agent, BEFORE, AFTER))


def difference(name: str) -> float:
    agent = ICAgent.from_pretrained(name, device="cpu")
    agent.reset(num_envs=ROWS, seed=0, autoreset_mode="SameStep")
    play(agent, 0, BEFORE)
    with tempfile.TemporaryDirectory() as folder:
        agent.save_context(folder)
        subprocess.run([sys.executable, __file__, "--continue", name, folder], check=True)
        theirs = np.load(Path(folder) / "found.npy")
    return float(np.abs(play(agent, BEFORE, AFTER) - theirs).max())


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--continue"]:
        continued(*sys.argv[2:])
    else:
        for each in sys.argv[1:] or list_pretrained():
            print(f"{each:40s} {difference(each):.1e}", flush=True)
