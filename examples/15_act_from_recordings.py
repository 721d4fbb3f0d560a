"""Policies of real-valued actions from recordings without actions, and some steps whose actions are known.

Recordings are histories of any environment whose observation shows the task: of a half-cheetah (example 10 makes them),
of an arm of Meta-World, or your own. The known steps are drawn from them, or from other histories (--labelled), such as
random play. Actions are compared on validation tasks, policies on held-out ones. (Needs the extras train and latent.)
"""

import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from icrl_agents import HistoryStore, evaluate, train
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.curves import Curve

FOLDER, HELD_OUT, EPISODES = "runs/recordings", None, 3  # tasks to measure policies on, None: the test tasks
LAM = {"quantizer": "none", "latent": 8, "updates": 4000, "batch_size": 64, "micro_batch": 64}
CLONE = {"updates": 4000, "batch_size": 64, "micro_batch": 64}
FEW = {"updates": 1000, "batch_size": 64, "micro_batch": 64}  # of what learns from the known steps alone


def measure(recordings: Path, labelled: Path | None, labels: int, task_set: str, seed: int) -> tuple[dict, list]:
    """Train all with one seed, or load what an earlier call trained: R2 of actions, and curves."""
    (folder := Path(f"{FOLDER}-{recordings.stem}-{labels}-{seed}").resolve()).mkdir(parents=True, exist_ok=True)
    given = {"recordings.h5": recordings, "labelled.h5": labelled}
    files = [shutil.copy(file, folder / name) for name, file in given.items() if file]
    known = {"labels": labels, "labelled": str(files[1]) if labelled else ""}
    with HistoryStore(recordings) as store:
        splits = split_tasks(env_id := store.info.env_id, task_set=task_set)

    def learn(method, name, **settings):
        settings |= {"task_set": task_set, "seed": seed, "eval_every": 0, "threads": 1}
        how = {"settings": settings, "device": "cpu", "resume": (folder / name).exists()}
        model = train(method, env_id, folder / name, histories=files[0], **how)
        for file in files if hasattr(model, "columns") else ():  # what it finds becomes columns
            with HistoryStore(file) as store:
                store.annotate(model.columns, model, identity=model.weights_sha256)
        return model

    agents, r2 = {}, {}
    for stage, joint in (("", {}), (", joint stage", {"decoder": True, **known})):
        learn("lam", f"lam{stage}", **LAM, **joint)  # whose columns those of the next one replace
        agents[f"la-bc{stage}"] = learn("la-bc", f"la-bc{stage}", predicts="latents", latent=8, **CLONE, **known)
    learn("vpt", "vpt", **FEW, **known)
    agents["bc on vpt's actions"] = learn("bc", "vpt-bc", target="vpt_action", **CLONE)
    agents["bc on known actions"] = learn("bc", "bc-known", **FEW, **known)
    agents["bc on all actions"] = learn("bc", "bc", **CLONE)
    with HistoryStore(files[0]) as store:
        steps = [store[task] for task in store.tasks if task in set(splits.validation.ids)]
    obs, true = (np.concatenate([getattr(each, name)[each.mask] for each in steps]) for name in ("obs", "action"))
    for name, agent in agents.items():
        agent.reset(num_envs=len(obs))
        r2[name] = 1 - ((agent.act(obs) - true) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
    how = {"tasks": HELD_OUT or splits.test.ids.tolist(), "episodes": EPISODES, "num_seeds": 1}
    return r2, [evaluate(agent, env_id, name=name, **how) for name, agent in agents.items()]


def main(
    recordings: Path,
    labelled: Path | None = None,
    labels: int = 1000,
    task_set: str = "train",
    seed: Annotated[list[int], typer.Option()] = (0,),
) -> tuple:
    r2, of_seeds = zip(*(measure(recordings, labelled, labels, task_set, one) for one in seed), strict=True)
    curves = [Curve.join(trainings, trainings[0].name) for trainings in zip(*of_seeds, strict=True)]
    for curve in curves:
        explained = np.mean([one[curve.name] for one in r2])
        success = "" if curve.success is None else f", success {curve.success_rate.at(1, EPISODES)}"
        print(f"{curve.name}: R2 {explained:.2f}, return {curve.at(1, EPISODES)}{success}")
    print(f"random play: return {curves[0].random.mean():.0f}")
    return r2, curves


if __name__ == "__main__":
    typer.run(main)
