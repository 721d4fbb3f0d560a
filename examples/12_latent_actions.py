"""Latent actions of videos: a model sees only images of a room, and finds codes for what the agent did.

It reads no actions, or with --labels those of a few steps. Afterwards each code is compared with the true actions of
levels that it has not seen. (Needs the extras train and latent.)
"""

from pathlib import Path

import numpy as np
import typer

from icrl_agents import HistoryStore, collect, train
from icrl_agents.core.families import find_family
from icrl_agents.core.splits import split_tasks

FOLDER = Path("runs/latent-actions")
TASKS, HELD_OUT = None, None  # levels to learn from and to measure on; None: those of the split
NOISE = {"start": 0.3, "end": 0.3}  # random actions: an expert that never errs leaves too little to find out
EPISODES = 6
SETTINGS = {"updates": 1500, "threads": 1}


def purity(codes, actions):
    """Share of steps whose action is the most frequent one of their code: codes and actions (N,)."""
    table = np.zeros((codes.max() + 1, actions.max() + 1))
    np.add.at(table, (codes, actions), 1)
    return table.max(1).sum() / len(codes)


def main(env: str = "icrl/PixelGridGoal-v0", labels: int = 0, seed: int = 0) -> tuple[float, float, float]:
    splits, stores, folder = split_tasks(env), [], FOLDER / env.removeprefix("icrl/")
    for name, tasks in (("videos", TASKS or splits.train.ids), ("held-out", HELD_OUT or splits.test.ids)):
        collection = {"tasks": tasks, "streams": 1, "episodes": EPISODES, "settings": NOISE}
        stores.append(HistoryStore(collect(env, "noise", folder / f"{name}.h5", overwrite=True, **collection)))
    settings = {**SETTINGS, "seed": seed, "labels": labels, "decoder": labels > 0}
    out = folder / f"lam-{labels}-seed{seed}"
    model = train("lam", env, out, histories=stores[0].path, settings=settings, overwrite=True)
    codes, actions, measured, cell_at = [], [], [], find_family(env).cell_at
    for store in stores:
        store.annotate(model.columns, model)
    for task in (held_out := stores[1]).tasks:
        steps = held_out[task]
        before, after = (cell_at(obs[0]) for obs in (steps.obs, steps.next_obs))
        moved = steps.mask & (before != after)  # a blocked move looks like none
        codes.append(steps.extras["latent_action_code"][moved][:, 0])
        actions.append(steps.action[moved])
        measured.append(model.measure(steps))
    error, copied = (np.mean([one[name] for one in measured]) for name in ("reconstruction", "copy"))
    found = purity(np.concatenate(codes), np.concatenate(actions))
    print(f"purity of the codes {found:.3f}; error of the next image {error:.2g}, of the current one {copied:.2g}")
    return found, error, copied


if __name__ == "__main__":
    typer.run(main)
