"""Latent actions of videos: a model sees only images of a room, and finds codes for what the agent did.

It never reads an action. Afterwards each code is compared with the true actions of levels that it has not seen.
(Needs the extras train and latent.)
"""

from pathlib import Path

import numpy as np

from icrl_agents import HistoryStore, collect, train
from icrl_agents.core.splits import split_tasks

ENV_ID, FOLDER = "icrl/PixelGridGoal-v0", Path("runs/latent-actions")
TASKS, HELD_OUT = None, None  # levels to learn from and to measure on; None: those of the split
NOISE = {"start": 0.3, "end": 0.3}  # random actions: an expert that never errs leaves too little to find out
EPISODES = 6
SETTINGS = {"updates": 1500, "seed": 0, "threads": 1}


def purity(codes, actions):
    """Share of steps whose action is the most frequent one of their code: codes and actions (N,)."""
    table = np.zeros((codes.max() + 1, actions.max() + 1))
    np.add.at(table, (codes, actions), 1)
    return table.max(1).sum() / len(codes)


def main():
    splits, stores = split_tasks(ENV_ID), []
    for name, tasks in (("videos", TASKS or splits.train.ids), ("held-out", HELD_OUT or splits.test.ids)):
        how = {"tasks": tasks, "streams": 1, "episodes": EPISODES, "settings": NOISE}
        stores.append(HistoryStore(collect(ENV_ID, "noise", FOLDER / f"{name}.h5", overwrite=True, **how)))
    model = train("lam", ENV_ID, FOLDER / "lam", histories=stores[0].path, settings=SETTINGS, overwrite=True)
    codes, actions, measured = [], [], []
    for store in stores:
        store.annotate(model.columns, model)
    for task in (held_out := stores[1]).tasks:
        steps = held_out[task]
        moved = steps.mask & (steps.obs != steps.next_obs).any((2, 3, 4))  # a blocked move looks like none
        codes.append(steps.extras["latent_action_code"][moved][:, 0])
        actions.append(steps.action[moved])
        measured.append(model.measure(steps))
    error, copied = (np.mean([one[name] for one in measured]) for name in ("reconstruction", "copy"))
    found = purity(np.concatenate(codes), np.concatenate(actions))
    print(f"purity of the codes {found:.3f}; error of the next image {error:.2g}, of the current one {copied:.2g}")
    return found, error, copied


if __name__ == "__main__":
    main()
