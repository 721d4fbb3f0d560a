"""Demonstrations without actions: a Decision Transformer is shown videos of a room whose goal it does not see.

A latent action model (from example 13, which has to run first) names what happens in the videos. The transformer reads
and predicts these names; 32 steps whose actions are known say what they mean. It is measured on 100 rooms that nothing
has seen, after 0, 1 and 3 videos of an expert; several --seed are measured together. (Extras train and latent.)
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from icrl_agents import HistoryStore, collect, evaluate, train
from icrl_agents.agents.annotator import Annotator
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.sources.demonstrations import Demonstrations

ENV_ID = "icrl/PixelGrid-v0"  # only the reward reveals the goal, and no token is made of rewards
FOLDER, VIDEOS = "runs/prompts", "runs/videos"  # of this example and of example 13
EPISODES = 5  # for each room that is measured
TASKS, HELD_OUT = None, None  # rooms to learn from and to measure on; None: those of the split
EXPERT = {"streams": 1, "episodes": 16, "settings": {"start": 0.0, "end": 0.0}}
SHOWN = (0, 1, 3)  # videos before a lifetime
SETTINGS = {"demos": 3, "prompt": 60, "window": 20, "slide": 5, "horizon": 20, "latent": 16, "codes": 16}
SETTINGS |= {"updates": 1000, "batch_size": 32, "micro_batch": 8, "eval_every": 0, "threads": 1}


def measure(labels: int, seed: int) -> dict[str, Curve]:
    """Train an agent with one seed, or load what an earlier call trained; its curves on held-out rooms."""
    model = Annotator.from_pretrained(Path(f"{VIDEOS}-{seed}/lam"), device="cpu")
    folder = Path(f"{FOLDER}-{seed}")
    histories, out = folder / "expert.h5", folder / f"labels-{labels}"
    if not histories.exists():
        collect(ENV_ID, "noise", histories, tasks=TASKS or split_tasks(ENV_ID).train.ids, seed=seed, **EXPERT)
    with HistoryStore(histories) as store:
        store.annotate(model.columns, model, identity=model.weights_sha256)
    settings = {**SETTINGS, "labels": labels, "seed": seed}
    options = {"settings": settings, "device": "cpu", "resume": out.exists()}
    agent = train("prompted-dt", ENV_ID, out, histories=histories, **options)
    agent.facts["command"] = f"python examples/14_prompt_with_videos.py --labels {labels} --seed {seed}"
    agent.save_pretrained(out)

    def videos(count):
        """Episodes of an expert from which actions and rewards are removed, with what the model finds in the images."""

        def show(tasks, seed):
            steps = Demonstrations(ENV_ID, count)(tasks, seed)
            gone = {name: np.zeros_like(getattr(steps, name)) for name in ("action", "prev_action", "reward")}
            blind = steps._replace(**gone, prev_reward=gone["reward"], extras={})
            return blind._replace(extras=model(blind))

        return show if count else 0

    protocol = {"tasks": HELD_OUT or split_tasks(ENV_ID).test.ids.tolist(), "episodes": EPISODES, "num_seeds": 1}
    shown = {f"{count} videos": videos(count) for count in SHOWN}
    return {name: evaluate(agent, ENV_ID, name=name, demos=demos, **protocol) for name, demos in shown.items()}


def main(labels: int = 32, seed: Annotated[list[int], typer.Option()] = (0,)) -> list:
    runs = [measure(labels, one) for one in seed]
    curves = [Curve.join([run[name] for run in runs], name) for name in runs[0]]
    reached = {curve.name: curve.at(1, EPISODES) for curve in curves}
    found = {"seeds": list(seed), "reached": {name: share._asdict() for name, share in reached.items()}}
    Path(f"{FOLDER}-labels-{labels}.json").write_text(json.dumps(found, indent=1))
    for curve in curves:
        print(f"{curve.name}: {reached[curve.name]} of the goals reached, random play {curve.random.mean():.2f}")
    return curves


if __name__ == "__main__":
    typer.run(main)
