"""Planning speed at full context, against running every imagined sequence anew.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_planning.py

The setting of the published measurement: AD with dynamics, 4 layers, width 32, 80 steps of context, 16 Darkrooms, a
beam of 10, 5 actions, depth 8, heard at every step; random weights, since compute does not depend on them. Steps are
averaged over whole episodes, towards whose end plans are shorter.
"""

import statistics
import sys
import time

import gymnasium
import torch

import icrl_agents  # noqa: F401  registers the environments
from icrl_agents.methods import METHODS
from icrl_agents.planning import PLANNERS
from icrl_agents.rollout import rollout

WINDOW, ROWS, HORIZON = 80, 16, 20
SIZES = {"width": 32, "layers": 4, "heads": 4, "inner": 128, "window": WINDOW, "slide": 40, "dynamics": True}


def make_agent(method: str, **changes):
    torch.manual_seed(0)
    env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=1)
    config = METHODS[method].Config(**{**SIZES, **changes})
    return METHODS[method](env.single_observation_space, env.single_action_space, config).eval()


class Timed:
    """Counts the time an agent spends in act and observe once its window is full."""

    def __init__(self, agent):
        self.agent, self.times = agent, []

    def reset(self, env, *, seed=None):
        self.agent.reset(env, seed=seed)

    def act(self, obs):
        self.began = time.perf_counter()
        action = self.agent.act(obs)
        self.spent = time.perf_counter() - self.began
        return action

    def observe(self, *result):
        began = time.perf_counter()
        self.agent.observe(*result)
        self.times.append(self.spent + time.perf_counter() - began)


def rate(agent, episodes: int) -> float:
    """Environment steps a second, over whole episodes, once the window is full."""
    timed = Timed(agent)
    rollout(timed, gymnasium.make_vec("icrl/Darkroom-v0", num_envs=ROWS), WINDOW // HORIZON + episodes, seed=0)
    return ROWS / statistics.fmean(timed.times[WINDOW:])


def main(episodes: int = 2) -> None:
    torch.set_num_threads(1)
    from dataclasses import replace

    agent = make_agent("ad")
    print(f"ad without planning {rate(agent, 10):8,.0f} env-steps/s")
    for name in ("beam", "lookahead"):
        agent.use_plan(replace(PLANNERS[name], when="always"))
        print(f"ad, {name:10s} {rate(agent, episodes):8,.0f} env-steps/s")
    for dynamics in (False, True):
        print(f"idt, dynamics={dynamics}: {rate(make_agent('idt', dynamics=dynamics), 10):8,.0f} env-steps/s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
