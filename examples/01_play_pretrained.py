"""A downloaded agent learns a Darkroom it has never seen: the loop that every other use is made of.

Until it finds the goal it earns nothing, and when that happens is luck: on the held-out tasks in episode 3 as a median,
in two lifetimes of three by episode 4, in 95 of 100 by episode 12. Other seeds show other lifetimes.
"""

import gymnasium
from icrl_envs import FAMILIES

from icrl_agents import ICAgent

AGENT = "icrl/ad-darkroom"  # comes with the package; a folder or a Hub repo id works as well
ENV_ID = "icrl/Darkroom-v0"
TASK = 3  # of the held-out tasks
EPISODES = 12
SEED = 2


def main() -> list[float]:
    """Play one lifetime; gives the return of each episode."""
    _, held_out = FAMILIES[ENV_ID].split()  # the published split; the agent was trained on the first part
    env = gymnasium.make(ENV_ID, **held_out[TASK])
    agent = ICAgent.from_pretrained(AGENT)
    agent.reset(env, seed=SEED)  # a NEW TASK: forget everything
    print(f"{AGENT} ({agent.source}) on {held_out[TASK]}, one of {len(held_out)} held-out tasks")

    returns = []
    for episode in range(EPISODES):
        obs, info = env.reset(seed=SEED if episode == 0 else None)  # a new episode of the SAME task
        total, done = 0.0, False
        while not done:
            action = agent.act(obs)
            obs, reward, terminated, truncated, info = env.step(action)
            agent.observe(obs, reward, terminated, truncated, info)  # in the order in which step() returns
            total += reward
            done = terminated or truncated
        returns.append(total)
        print(f"episode {episode + 1:2d}: return {total:4.1f} of {info['optimal_return']:.1f}")
    first = next((number for number, total in enumerate(returns, start=1) if total), None)
    late = returns[-3:]
    found = f"first reward in episode {first}" if first else "it has found no reward yet: give it more episodes"
    print(f"{found}; mean return of the last {len(late)} episodes {sum(late) / len(late):.1f}")
    return returns


if __name__ == "__main__":
    main()
