"""AD and IDT learn from the same recorded histories; one figure compares them, and their source, on an unseen goal.

The smallest room and small agents, less than a minute on a core that is free. In the last four episodes AD earns nine
tenths of the optimum with each of three seeds, IDT two thirds, three quarters or a quarter, random play one tenth. The
agents of longer trainings in the larger room, which come with the package, both reach the optimum.

The histories hold all kinds of actions everywhere (slips): without, agents learn the seven training goals by heart and
never go elsewhere. DPT does so in any case: it imitates experts who know one of those goals.
"""

from pathlib import Path

from icrl_agents import collect, evaluate, train
from icrl_agents.sources import make_source

ENV_ID = "icrl/Darkroom3x3-v0"
FOLDER = Path("runs/compare")
STREAMS, EPISODES, SEEDS = 256, 12, 20
SOURCE = {"slips": 1.0, "sharpness": 0.0}  # up to all actions are others than the source meant; search all cells
SETTINGS = {
    "width": 48,
    "layers": 3,
    "dropout": 0.1,
    "window": 72,  # a whole history
    "slide": 24,
    "rewards": "fixed",  # as they are: the rewards of this room have one unit
    "batch_size": 16,
    "updates": 250,
    "lr": 3e-3,
    "eval_every": 0,
    "threads": 1,
    "seed": 0,
}
OWN = {"ad": {}, "idt": {"chunk": 6}}  # a chunk is one episode of this room


def main():
    collection = {"streams": STREAMS, "episodes": EPISODES, "seed": SETTINGS["seed"], "settings": SOURCE}
    histories = collect(ENV_ID, "posterior", FOLDER / "histories.h5", **collection, overwrite=True)
    learners = [make_source("posterior", ENV_ID)]  # as it acts without slips
    for method, own in OWN.items():
        settings = {**SETTINGS, **own}
        learners.append(train(method, ENV_ID, FOLDER / method, histories=histories, settings=settings, overwrite=True))
    curves = [evaluate(learner, ENV_ID, episodes=EPISODES, num_seeds=SEEDS) for learner in learners]
    for curve in curves:  # named after their learners
        print(f"{curve.name}: episode 1 {curve.at(1)}, episodes 9-{EPISODES} {curve.at(9, EPISODES)}")
    print(f"random play {curves[0].random.mean():.2f}, best possible {curves[0].optimal.mean():.2f}")
    curves[-1].plot(FOLDER / "compare.png", others=curves[:-1])
    return curves


if __name__ == "__main__":
    main()
