"""Returns of an agent whose rewards are in other units than those it was trained with, on held-out tasks.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_reward_units.py AGENT [AGENT ...] [--episodes 30] [--seeds 5]

Returns are in the unit of the environment, means over the last third of the episodes; a share is relative to the same
lifetimes with unchanged rewards.
"""

import argparse

import numpy as np

from icrl_agents import ICAgent, evaluate

UNITS = {"as trained": (1.0, 0.0), "x0.1": (0.1, 0.0), "x10": (10.0, 0.0), "-0.5": (1.0, -0.5), "x3 + 2": (3.0, 2.0)}


class InUnit:
    """An agent that observes rewards scale * reward + offset."""

    def __init__(self, agent: ICAgent, scale: float, offset: float):
        self.agent, self.scale, self.offset, self.facts = agent, scale, offset, agent.facts

    def reset(self, env, *, seed=None):
        self.agent.reset(env, seed=seed)

    def act(self, obs):
        return self.agent.act(obs)

    def observe(self, obs, reward, *rest):
        self.agent.observe(obs, (self.scale * np.asarray(reward) + self.offset).astype(np.float32), *rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agents", nargs="+")
    parser.add_argument("--env", help="default: the one that the agent was trained on")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5, help="lifetimes on each task")
    args = parser.parse_args()
    print(f"{'agent':30} {'rewards':>10} {'return':>8} {'share':>7}")
    for name in args.agents:
        agent, plain = ICAgent.from_pretrained(name), None
        for unit, how in UNITS.items():
            learner, env_id = InUnit(agent, *how), args.env or agent.facts["env_id"]
            curve = evaluate(learner, env_id, episodes=args.episodes, num_seeds=args.seeds, seed=7, name=unit)
            earned = float(curve.mean[-max(1, args.episodes // 3) :].mean())
            plain = earned if plain is None else plain
            print(f"{name[-30:]:30} {unit:>10} {earned:8.2f} {earned / plain:7.3f}", flush=True)


if __name__ == "__main__":
    main()
