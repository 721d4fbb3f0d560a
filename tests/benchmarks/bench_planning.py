"""Planning speed at full context.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_planning.py

The setting of the published measurement (4.2 env-steps/s): AD with dynamics, 4 layers, width 32, 80 steps of context,
16 Darkrooms, a beam of 10, 5 actions, depth 8, heard at every step; averaged over whole episodes, towards whose end
plans are shorter. A first agent has random weights, since the compute of a search does not depend on them. Whether a
plan can be followed does: the second agent is trained for a minute first.
"""

import statistics
import sys
import tempfile

import gymnasium
import torch
from bench_acting import Timed

from icrl_agents import train
from icrl_agents.methods import METHODS
from icrl_agents.rollout import rollout

WINDOW, ROWS, HORIZON = 80, 16, 20
SIZES = {"width": 32, "layers": 4, "heads": 4, "inner": 128, "window": WINDOW, "slide": 40, "dynamics": True}


def make_agent(method: str, **changes):
    torch.manual_seed(0)
    env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=1)
    config = METHODS[method].Config(**{**SIZES, **changes})
    return METHODS[method](env.single_observation_space, env.single_action_space, config).eval()


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
    wide = {"depth": 8, "width": 10, "branches": 5, "when": "always", "trust": 0.0}
    for name in ("beam", "lookahead"):
        agent.use_plan(name, {**wide, "follow": 1})
        print(f"ad, {name:10s} at every step {rate(agent, episodes):8,.0f} env-steps/s")
    agent = trained()
    for follow in (1, 4, 8):
        agent.use_plan("lookahead", {**wide, "follow": follow})
        print(f"trained ad, follow={follow}         {rate(agent, 4 * episodes):8,.0f} env-steps/s")
    for dynamics in (False, True):
        found = rate(make_agent("idt", dynamics=dynamics), 10)
        print(f"idt, dynamics={dynamics!s:5}, no plan  {found:8,.0f} env-steps/s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
