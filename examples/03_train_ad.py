"""Train a small agent by Algorithm Distillation, load it again, and measure it on tasks it has never seen."""

from pathlib import Path

from icrl_agents import ICAgent, evaluate, train
from icrl_agents.evaluation.curves import Curve

ENV_ID = "icrl/Darkroom-v0"
FOLDER = Path("runs/example-ad")
SETTINGS = {  # fields of TrainConfig and of the method's own config; the rest keep their defaults
    "width": 32,
    "inner": 64,
    "lr": 3e-3,
    "updates": 250,
    "eval_every": 0,
    "threads": 1,
    "seed": 0,
}
EPISODES = 12
SEEDS = 5  # lifetimes on each held-out task


def main() -> Curve:
    """Train, save, load and evaluate; gives the returns on the held-out tasks."""
    # Without histories=... fresh ones are made on the way, by the source that suits the environment.
    train("ad", ENV_ID, FOLDER, settings=SETTINGS, device="cpu", overwrite=True)

    agent = ICAgent.from_pretrained(FOLDER)
    curve = evaluate(agent, ENV_ID, "test", episodes=EPISODES, num_seeds=SEEDS)
    print(f"{len(curve.tasks)} held-out tasks, random play {curve.random.mean():.2f}, best {curve.optimal.mean():.2f}")
    for episode, mean in enumerate(curve.mean, start=1):
        print(f"episode {episode:2d}: mean return {mean:5.2f}")
    return curve


if __name__ == "__main__":
    main()
