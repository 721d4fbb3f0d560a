"""Acting speed of AD at full context, against running the whole window anew at every step.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_acting.py
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_acting.py icrl/ad-darkroom icrl/cad-darkroom

With names of agents it measures those. Without: 4 layers, width 32, 80 steps of context, as in the published agents;
random weights, since compute does not depend on them. The reference is the plainest correct agent: keep the last 80
steps, run the transformer over all of them.
"""

import math
import statistics
import sys
import time

import gymnasium
import numpy as np
import torch

from icrl_agents import ICAgent
from icrl_agents.core.families import find_family
from icrl_agents.core.rollout import rollout
from icrl_agents.methods.ad import AD, ADConfig

WINDOW = 80
STRETCHES = 9  # in which the speed of an agent is measured
CONFIG = ADConfig(width=32, layers=4, heads=4, inner=128, window=WINDOW, slide=40)


class FullForward:
    """The same model, fed its whole visible window at every step."""

    def __init__(self, agent: ICAgent):
        self.agent = agent

    def reset(self, env, *, seed=None):
        self.agent.reset(env, seed=seed)
        self.worst = 0.0

    @torch.no_grad()
    def act(self, obs):
        agent, context = self.agent, self.agent.context
        agent.method.handle_overflow(context)
        context.open(obs)
        seen = agent.method.tensors(context.steps.window(0, int(context.length[0]) + 1))
        distribution = agent.method.action.head(agent.method.read(seen, torch.as_tensor(context.length)))
        self.logits = distribution.logits
        self.action = distribution.sample(agent.session.generator).numpy()
        agent.session.acted = self.action
        return self.action

    def observe(self, *result):
        self.agent.observe(*result)


class Timed:
    """Counts the time a learner spends in act and observe once its window is full."""

    def __init__(self, learner):
        self.learner, self.times = learner, []

    def reset(self, env, *, seed=None):
        self.learner.reset(env, seed=seed)

    def act(self, obs):
        self.began = time.perf_counter()
        action = self.learner.act(obs)
        self.spent = time.perf_counter() - self.began
        return action

    def observe(self, *result):
        began = time.perf_counter()
        self.learner.observe(*result)
        self.times.append(self.spent + time.perf_counter() - began)


def measure(learner, rows, episodes, env_id="icrl/Darkroom-v0", window=WINDOW):
    """Seconds of each call at full context."""
    env = gymnasium.make_vec(env_id, num_envs=rows)
    timed = Timed(learner)
    rollout(timed, env, episodes, seed=0)
    return timed.times[window:]


def exactness(agent: ICAgent, rows: int = 16, steps: int = 200) -> float:
    """The largest difference of the cached logits from those of a full forward over the visible window."""
    env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=rows)
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0)
    worst, rng = 0.0, np.random.default_rng(0)
    for _ in range(steps):
        with torch.no_grad():
            cached = agent.policy(agent.context, obs).logits
            seen = agent.method.tensors(agent.context.steps.window(0, int(agent.context.length[0]) + 1))
            full = agent.method.action.head(agent.method.hidden(seen)[:, -1, 0]).logits
        worst = max(worst, float((cached - full).abs().max()))
        agent.session.acted = rng.integers(0, 5, rows)
        result = env.step(agent.session.acted)
        agent.observe(*result)
        obs = result[0]
    return worst


def released(name: str) -> None:
    """Speed of an agent in its own environment, in stretches of a window each, after the first is full.

    The fastest stretch is what the agent costs, slides and folds included; others also hold what else the machine did.
    """
    agent = ICAgent.from_pretrained(name, device="cpu")
    env_id, stretch = agent.facts["env_id"], max(agent.config.window, 100)
    episodes = math.ceil((STRETCHES + 1) * stretch / find_family(env_id).horizon)
    shown = []
    for rows in (1, 16):
        times = measure(agent, rows, episodes, env_id, stretch)
        means = sorted(statistics.fmean(times[i * stretch : (i + 1) * stretch]) for i in range(STRETCHES))
        shown.append((means[0], statistics.median(means)))
    one, many = shown
    print(
        f"{name}: 16 envs {16 / many[0]:7,.0f} env-steps/s (median {16 / many[1]:,.0f}); "
        f"one env {1e3 * one[0]:.2f} ms a step (median {1e3 * one[1]:.2f})"
    )


def main(episodes: int = 40) -> None:
    torch.manual_seed(0)
    env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=1)
    agent = ICAgent(AD(env.single_observation_space, env.single_action_space, CONFIG)).eval()
    print(f"largest difference from the full forward: {exactness(agent):.1e}")
    for rows in (1, 16):
        ours, plain = measure(agent, rows, episodes), measure(FullForward(agent), rows, max(6, episodes // 4))
        rates = [rows / statistics.fmean(times) for times in (ours, plain)]
        print(
            f"{rows:2d} envs: {rates[0]:8,.0f} env-steps/s (p50 {1e3 * statistics.median(ours):.2f} ms a call), "
            f"full forward {rates[1]:8,.0f}, ratio {rates[0] / rates[1]:.1f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        released(name)
    if not sys.argv[1:]:
        main()
