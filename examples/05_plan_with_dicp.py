"""The same weights with and without planning (DICP): a planner searches in what the agent itself imagines."""

from icrl_agents import ICAgent, evaluate

AGENT, ENV_ID = "icrl/dpt-darkroom", "icrl/Darkroom-v0"
EPISODES, SEEDS = 20, 4
PLANS = {"no planner": None, "lookahead": "lookahead"}


def main():
    curves = {}
    for name, plan in PLANS.items():
        agent = ICAgent.from_pretrained(AGENT, plan=plan)
        curve = curves[name] = evaluate(agent, ENV_ID, episodes=EPISODES, num_seeds=SEEDS)
        half = EPISODES // 2
        print(f"{name:10s}  episode {half}: {curve.at(half)}   episode {EPISODES}: {curve.at(EPISODES)}")
    return curves


if __name__ == "__main__":
    main()
