"""An agent from videos and 32 known actions: by latent actions, by an inverse model, and by the 32 steps alone.

The videos are images of 810 rooms; an expert with 30% random actions walks to a goal that they show. A latent action
model finds codes for what it does (example 12), a policy imitates the codes, and 32 steps whose actions are known say
what the codes mean; in the joint stage they shape the codes, too. All are measured on 100 rooms that nothing has seen;
several --seed are several trainings of everything, measured together. (Needs the extras train and latent.)
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents import HistoryStore, collect, evaluate, train
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.curves import Curve

ENV_ID, FOLDER = "icrl/PixelGridGoal-v0", "runs/videos"
TASKS, HELD_OUT = None, None  # rooms to learn from and to measure on; None: those of the split
VIDEOS = {"streams": 1, "episodes": 24, "settings": {"start": 0.3, "end": 0.3}}
EPISODES = 5  # for each room that is measured
LAM = {"updates": 3000, "batch_size": 8, "micro_batch": 8}  # small batches find purer codes, sooner
ACTING = {"choice": "sample", "acting_temperature": 0.5}  # an agent errs less than the expert in the videos
POLICY = {"updates": 2000, "batch_size": 128, "micro_batch": 128, **ACTING}
CLONE = {**POLICY, "updates": 800}  # actions are learned sooner than codes
FEW = {"updates": 300, "batch_size": 32, "micro_batch": 32}  # of what learns from the known steps alone


def measure(labels: int, seed: int) -> dict[str, Curve]:
    """Train all agents with one seed, or load those that an earlier call trained; their curves on held-out rooms."""
    command = f"python examples/13_act_from_videos.py --labels {labels} --seed {seed}"
    folder = Path(f"{FOLDER}-{seed}")
    videos, budget = folder / "videos.h5", folder / f"labels-{labels}"
    if not videos.exists():
        collect(ENV_ID, "noise", videos, tasks=TASKS or split_tasks(ENV_ID).train.ids, seed=seed, **VIDEOS)

    def learn(method, out, **settings):
        settings |= {"seed": seed, "eval_every": 0, "threads": 1}
        model = train(method, ENV_ID, out, histories=videos, settings=settings, device="cpu", resume=out.exists())
        model.facts["command"] = command
        model.facts.pop("collect", None)  # this script does it
        model.save_pretrained(out)
        return model

    def label(model):
        with HistoryStore(videos) as store:
            store.annotate(model.columns, model, identity=model.weights_sha256)

    label(learn("lam", folder / "lam", **LAM))
    label(learn("vpt", budget / "vpt", labels=labels, **FEW))
    agents = {
        "la-bc": learn("la-bc", budget / "la-bc", labels=labels, **POLICY),
        "la-bc, mean latent action": learn("la-bc", budget / "la-bc-mean", labels=labels, predicts="latents", **POLICY),
        "bc on the labels": learn("bc", budget / "bc", labels=labels, **FEW, **ACTING),
        "bc on vpt's actions": learn("bc", budget / "vpt-bc", target="vpt_action", **CLONE),
        "bc on all actions": learn("bc", folder / "bc", **CLONE),
    }
    label(learn("lam", budget / "lam", labels=labels, decoder=True, **LAM))  # known actions shape its codes, too
    agents["la-bc after the joint stage"] = learn("la-bc", budget / "la-bc-joint", labels=labels, **POLICY)
    protocol = {"tasks": HELD_OUT or split_tasks(ENV_ID).test.ids.tolist(), "episodes": EPISODES, "num_seeds": 1}
    return {name: evaluate(agent, ENV_ID, name=name, **protocol) for name, agent in agents.items()}


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
