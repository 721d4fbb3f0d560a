"""Policies of real-valued actions from recordings without actions, and some steps whose actions are known.

Recordings are histories of any environment whose observation shows the task, such as those of example 10; the known
steps are of these or of others, such as random play. The change between two frames tells the action of an arm; that of
a body depends on its pose, too: give --no-differences. R2 is of actions on validation tasks. (Extras train and latent.)
"""

import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from icrl_agents import HistoryStore, evaluate, train
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.curves import Curve

FOLDER, HELD_OUT, EPISODES = "runs/recordings", None, 3  # HELD_OUT: tasks to measure policies on; None: the test tasks
LAM = {"quantizer": "none", "latent": 8, "updates": 4000, "batch_size": 64, "micro_batch": 64}
CLONE = {"updates": 2000, "batch_size": 64, "micro_batch": 64}


def train_and_measure(recordings, labelled, labels, task_set, differences, joint, seed) -> tuple[dict, dict]:
    folder = Path(f"{FOLDER}-{recordings.stem}-{labels}-{seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = [str(shutil.copy(file, folder / f"{n}.h5")) for n, file in enumerate((recordings, labelled)) if file]
    known = {"labels": labels, "labelled": files[1] if labelled else ""}
    with HistoryStore(recordings) as store:
        splits = split_tasks(env_id := store.info.env_id, task_set=task_set)
        steps = [store[task] for task in store.tasks if task in set(splits.validation.ids)]

    def learn(method, name, **settings):
        settings |= {"task_set": task_set, "seed": seed, "eval_every": 0, "threads": 1}
        options = {"settings": settings, "device": "cpu", "resume": (folder / name).exists()}
        model = train(method, env_id, folder / name, histories=files[0], **options)
        for file in files if hasattr(model, "columns") else ():  # what it finds becomes columns
            with HistoryStore(file) as store:
                store.annotate(model.columns, model, identity=model.weights_sha256)
        return model

    agents, r2, curves = {}, {}, {}
    for stage, more in {"": {}, ", joint stage": {"decoder": True, "updates": joint, **known}}.items():
        learn("lam", f"lam{stage}", differences=differences, **{**LAM, **more})  # the next one replaces its columns
        agents[f"la-bc{stage}"] = learn("la-bc", f"la-bc{stage}", predicts="latents", latent=8, **CLONE, **known)
    learn("vpt", "vpt", differences=differences, **CLONE, **known)
    agents["bc on vpt's actions"] = learn("bc", "vpt-bc", target="vpt_action", **CLONE)
    agents["bc on known actions"] = learn("bc", "bc-known", **CLONE, **known)
    agents["bc on all actions"] = learn("bc", "bc", **CLONE)
    obs = np.concatenate([one.obs[one.mask] for one in steps])
    true = np.concatenate([one.action[one.mask] for one in steps])
    protocol = {"tasks": HELD_OUT or splits.test.ids.tolist(), "episodes": EPISODES, "num_seeds": 1}
    for name, agent in agents.items():
        agent.reset(num_envs=len(obs))
        r2[name] = 1 - ((agent.act(obs) - true) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
        curves[name] = evaluate(agent, env_id, name=name, **protocol)
    return r2, curves


def main(
    recordings: Path,
    labelled: Path | None = None,
    labels: int = 1000,
    task_set: str = "train",
    differences: bool = True,
    joint: int = 400,  # updates of the joint stage, which soon overfits known steps of other histories
    seed: Annotated[list[int], typer.Option()] = (0,),
) -> tuple:
    runs = [train_and_measure(recordings, labelled, labels, task_set, differences, joint, one) for one in seed]
    curves = [Curve.join([of_seed[name] for _, of_seed in runs], name) for name in runs[0][1]]
    for curve in curves:
        r2 = np.mean([of_seed[curve.name] for of_seed, _ in runs])
        success = "" if curve.success is None else f", success {curve.success_rate.at(1, EPISODES)}"
        print(f"{curve.name}: R2 {r2:.2f}, return {curve.at(1, EPISODES)}{success}, random {curve.random.mean():.0f}")
    return runs, curves


if __name__ == "__main__":
    typer.run(main)
