"""AD, DPT and IDT learn from the same recorded histories; one figure compares them on held-out goals.

A few hundred updates on a small room: minutes become seconds, and the order of the methods is not that of long runs.
"""

from pathlib import Path

from icrl_agents import collect, evaluate, train

ENV_ID = "icrl/Darkroom3x3-v0"
FOLDER = Path("runs/compare")
STREAMS, EPISODES, SEEDS = 64, 12, 20
SETTINGS = {"width": 32, "layers": 2, "window": 48, "slide": 12, "batch_size": 16, "updates": 250, "eval_every": 0}
OWN = {"ad": {}, "dpt": {}, "idt": {"chunk": 6}}  # a chunk is one episode of this room


def main():
    histories = collect(ENV_ID, "posterior", FOLDER / "histories.h5", streams=STREAMS, episodes=EPISODES)
    curves = []
    for method, own in OWN.items():
        settings = {**SETTINGS, **own}
        agent = train(method, ENV_ID, FOLDER / method, histories=histories, settings=settings, overwrite=True)
        curve = evaluate(agent, ENV_ID, episodes=EPISODES, num_seeds=SEEDS)
        curves.append(curve)
        print(f"{method}: episode 1 {curve.at(1)}, episode {EPISODES} {curve.at(EPISODES)}, of {curve.optimal.mean()}")
    curves[0].plot(FOLDER / "compare.png", others=curves[1:])
    return curves


if __name__ == "__main__":
    main()
