"""Deciding between many actions at full context, against running the whole context anew at every step.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_action_sets.py

Headless-AD as released (4 layers, width 64; random weights, since compute does not depend on them) in 64 parallel
contextual bandits of 100 arms. Both are timed over the last 20 of 300 pulls; the reference reads prompt and history
through the training-time forward, and scores the last pull only.
"""

import time

import gymnasium
import numpy as np
import torch

from icrl_agents.agents.agent import ICAgent
from icrl_agents.methods.headless_ad import HeadlessAD, HeadlessADConfig

ROWS, ARMS, PULLS, TIMED = 64, 100, 300, 20
CONFIG = HeadlessADConfig(width=64, layers=4, heads=2, inner=128, vector_size=64, window=PULLS)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = gymnasium.make_vec("icrl/ContextualBandit-v0", num_envs=ROWS, num_arms=ARMS)
    agent = ICAgent(HeadlessAD(env.single_observation_space, env.single_action_space, CONFIG)).eval()
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0)
    cached, full, worst = [], [], 0.0
    for pull in range(PULLS):
        began = time.perf_counter()
        policy = agent.policy(agent.context, obs)
        action = policy.sample().numpy()
        cached.append(time.perf_counter() - began)
        if pull >= PULLS - TIMED:
            seen = agent.context.steps.window(0, pull + 1)
            began = time.perf_counter()
            window = agent.method.tensors(seen)
            expected = agent.method.action_distribution(
                agent.method.read(window, torch.full((ROWS,), pull)), window.static
            )
            expected.sample()
            full.append(time.perf_counter() - began)
            worst = max(worst, float((policy.logits - expected.logits).abs().max()))
        agent.session.acted = action
        result = env.step(action)
        agent.observe(*result)
        obs = result[0]
    times = [1e6 * float(np.median(part)) / ROWS for part in (cached[-TIMED:], full)]
    print(f"largest difference of the logits: {worst:.1e}")
    print(f"us a decision: {times[0]:.0f} cached, {times[1]:.0f} full forward, ratio {times[1] / times[0]:.1f}")


if __name__ == "__main__":
    main()
