"""A zero-training bandit for items that come and go, such as articles or prices: it needs no fitting and no tuning.

Every customer segment has another assortment and its own, unknown chances that an item is bought, or tastes that make
them depend on who is visiting. The agents were trained on up to 20 items; here there are up to 100. Beside them:
Thompson sampling and LinUCB, which know the law of the rewards. At the end one segment loses its best item at noon.

Rewards are 1 or 0, or, with visitors, of the scale of `icrl/ContextualBandit-v0`: what the agents were trained on.
"""

import time

import gymnasium
import numpy as np
from icrl_envs import FAMILIES

from icrl_agents import ICAgent
from icrl_agents.evaluation.evaluate import RandomLearner
from icrl_agents.sources import make_source

WORLDS = {  # an agent, its rival and sets of tasks: 4 to 20 items, exactly 20, and more than in training
    "icrl/BernoulliBandit-v0": (
        "icrl/headless-ad-bernoulli",
        "thompson",
        ("all_new", "num_20", "num_50"),
    ),  # sold or not
    "icrl/ContextualBandit-v0": ("icrl/headless-ad-contextual", "linucb", ("eval", "num_20", "num_100")),  # by visitor
}
TASKS, VISITORS = 64, 300


def serve(learner, env, tasks):
    """One day in every segment: the mean regret, and the microseconds of one decision."""
    obs, info = env.reset(seed=0, options={"task": tasks})
    learner.reset(env, seed=0)  # reads off the env which items there are
    lost, spent = 0.0, 0.0
    for _ in range(VISITORS):
        began = time.perf_counter()
        action = learner.act(obs)
        spent += time.perf_counter() - began
        obs, *result, info = env.step(action)
        began = time.perf_counter()
        learner.observe(obs, *result, info)
        spent += time.perf_counter() - began
        lost += info.get("final_info", info)["regret"].mean()  # expected sales below those of the best item
    return lost, 1e6 * spent / (VISITORS * len(tasks))


def sell_out(agent):
    """The best item is gone at noon: the agent goes on with what it has seen, and with the items that are left."""
    chances, rng = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9]), np.random.default_rng(0)
    agent.reset(num_actions=len(chances), seed=0)
    sold = np.zeros(2)
    for hour, left in enumerate((chances > 0, chances < 0.9)):
        agent.reset(action_set=left, history=agent.context.visible(), seed=hour)
        for _ in range(100):
            item = agent.act(0)
            agent.observe(0, float(rng.random() < chances[item]), False, False)
            sold[hour] += chances[item] / 100
    return sold


def main():
    results = {}
    for env_id, (agent, rival, sets) in WORLDS.items():
        learners = {"random": RandomLearner(), rival: make_source(rival, env_id)}
        learners["headless-ad"] = ICAgent.from_pretrained(agent)
        for name in sets:
            tasks = FAMILIES[env_id].named(name).ids[:TASKS]
            env = gymnasium.make_vec(env_id, num_envs=len(tasks))
            for who, learner in learners.items():
                lost, micros = results[name, who] = serve(learner, env, tasks)
                print(f"{env_id:24} {name:8} {who:12} regret {lost:6.1f}  {micros:6.1f} us a decision")
    morning, afternoon = sell_out(ICAgent.from_pretrained(WORLDS["icrl/BernoulliBandit-v0"][0]))
    print(f"chance of a sale: {morning:.2f} with the item that sells at 0.90, {afternoon:.2f} of 0.60 without it")
    return results


if __name__ == "__main__":
    main()
