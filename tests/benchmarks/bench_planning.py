"""Planning speed at full context.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_planning.py

The setting of the published measurement (4.2 env-steps/s): AD with dynamics, 4 layers, width 32, 80 steps of context,
16 Darkrooms, a beam of 10, 5 actions, depth 8, heard at every step; averaged over whole episodes, towards whose end
plans are shorter. A first agent has random weights, since the compute of a search does not depend on them. Whether a
plan can be followed does: the second agent is trained for a minute first. The references read the whole window anew:
for every imagined token, as the public code does, and for every step without a planner.
"""

import statistics
import sys
import tempfile
import time

import gymnasium
import torch
from bench_acting import FullForward, Timed

from icrl_agents import train
from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning import imagination
from icrl_agents.agents.planning.search import make_planner
from icrl_agents.core.rollout import rollout
from icrl_agents.methods import METHODS

WINDOW, ROWS, HORIZON = 80, 16, 20
WIDE = {"depth": 8, "width": 10, "branches": 5, "when": "always", "trust": 0.0}
SIZES = {"width": 32, "layers": 4, "heads": 4, "inner": 128, "window": WINDOW, "slide": 40, "dynamics": True}


def make_agent(method: str, **changes):
    torch.manual_seed(0)
    env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=1)
    config = METHODS[method].Config(**{**SIZES, **changes})
    return ICAgent(METHODS[method](env.single_observation_space, env.single_action_space, config)).eval()


class Anew:
    """What `Fork` does without a cache: every branch is a whole sequence, which is read from its first token."""

    agent = None  # whose running context is the prefix

    def __init__(self, own):
        self.own = own  # (B, W, L, D) every branch's tokens, the prefix included

    @classmethod
    def of(cls, cache):
        steps = cls.agent.context.steps.window(0, int(cls.agent.context.length.max()) + 1)
        tokens = cls.agent.method.tokens(cls.agent.method.tensors(steps)).flatten(1, 2)
        return cls(tokens[:, None])  # up to the open step's percept

    def grow(self, body, parent, x):
        own = self.own[torch.arange(len(parent))[:, None], parent]
        whole = torch.cat([own, x[:, :, None]], 2)  # (B, V, L + 1, D)
        return Anew(whole), body(whole.flatten(0, 1))[:, -1].unflatten(0, x.shape[:2])


def anew(agent) -> tuple[float, float]:
    """Environment steps a second of one search at full context, with and without a cache."""
    timed, found = Timed(agent), []
    agent.use_plan(None)
    env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=ROWS)
    rollout(timed, env, WINDOW // HORIZON - 1, seed=0)
    obs, _ = env.reset(seed=0)
    for fork in (Anew, imagination.Fork):
        Anew.agent, before, imagination.Fork = agent, imagination.Fork, fork
        agent.reset(env, history=agent.visible(agent.context))
        began = time.perf_counter()
        agent.act(obs, plan=make_planner("beam", WIDE))
        found.append(ROWS / (time.perf_counter() - began))
        imagination.Fork = before
    return found[0], found[1]


def rate(agent, episodes: int) -> float:
    """Environment steps a second, over whole episodes, once the window is full."""
    timed = Timed(agent)
    rollout(timed, gymnasium.make_vec("icrl/Darkroom-v0", num_envs=ROWS), WINDOW // HORIZON + episodes, seed=0)
    return ROWS / statistics.fmean(timed.times[WINDOW:])


def trained():
    """An agent whose imagination mostly comes true."""
    settings = {**SIZES, "episodes": 6, "updates": 400, "eval_every": 0, "threads": 1, "source.slips": 0.3}
    with tempfile.TemporaryDirectory() as folder:
        return train("ad", "icrl/Darkroom-v0", folder, settings=settings, overwrite=True, quiet=True)


def main(episodes: int = 2) -> None:
    torch.set_num_threads(1)
    agent = make_agent("ad")
    print(f"ad without planning          {rate(agent, 10):8,.0f} env-steps/s")
    for name in ("beam", "lookahead"):
        agent.use_plan(name, {**WIDE, "follow": 1})
        print(f"ad, {name:10s} at every step {rate(agent, episodes):8,.0f} env-steps/s")
    print("one search of 8 steps, reading all anew {:6,.1f} env-steps/s, from the cache {:6,.1f}".format(*anew(agent)))
    agent = trained()
    for follow in (1, 4, 8):
        agent.use_plan("lookahead", {**WIDE, "follow": follow})
        print(f"trained ad, follow={follow}         {rate(agent, 4 * episodes):8,.0f} env-steps/s")
    for dynamics in (False, True):
        idt = make_agent("idt", dynamics=dynamics)
        print(f"idt, dynamics={dynamics!s:5}, no plan  {rate(idt, 10):8,.0f} env-steps/s")
        print(f"  reading the window anew    {rate(FullForward(idt), 1):8,.0f} env-steps/s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
