"""A Meta-World task with hidden goals: an agent learns from others first, then from its own lifetimes.

Round 1 learns from histories of wrong goals. In the next rounds the agent acts, and the expert labels every step that
its own actions lead to (DAgger). All goals are drawn freely, away from the test goals. A second call continues where
the first one stopped. (Needs the extras train and metaworld.)
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import typer

from icrl_agents import collect, train
from icrl_agents.core.splits import split_tasks

FREE = "train_free"  # set of tasks
EXPERTS = {"peg-insert-side": "icrl_envs.metaworld.fast_experts:insert_peg"}  # others: Meta-World's
SETTINGS = {
    **{"task_set": FREE, "head": "flow", "bins": 64, "rewards": "fixed", "width": 64, "inner": 128},
    **{"eval_every": 0, "checkpoint_every": 100, "threads": 1},
}
SHORT = {"window": 200, "slide": 50, "batch_size": 48, "micro_batch": 48, "lr": 2e-3}
LONG = {"window": 400, "slide": 100, "batch_size": 24, "micro_batch": 24, "lr": 1e-3}


class Round(NamedTuple):
    """Histories that are added, and a training on all so far."""

    goals: int  # number of goals, new in each round, with one history each
    episodes: int
    settings: dict


ROUNDS = [
    Round(2000, 4, {**SHORT, "updates": 900}),
    Round(640, 6, {**LONG, "updates": 600}),
    Round(640, 6, {**LONG, "updates": 1000}),
]


def main(task: str = "reach", folder: Path | None = None, seed: int = 0, processes: int = 1) -> None:
    env_id, folder = f"icrl/MetaWorld-{task}-v0", folder or Path("runs", f"ml1-{task}")
    goals, agent, seconds = iter(split_tasks(env_id, task_set=FREE).train.ids.tolist()), None, 0.0
    histories, out = [], Path()
    for number, (count, episodes, settings) in enumerate(ROUNDS, 1):
        how = {"tasks": list(islice(goals, count)), "streams": 1, "episodes": episodes, "seed": seed}
        how["expert"] = EXPERTS.get(task)
        histories.append(folder / f"round-{number}.h5")
        if not histories[-1].exists():
            own = {"source": agent} if agent else {"source": "wrong-goal", "settings": {"right_end": 0.5}}
            collect(env_id, path=histories[-1], processes=processes, **own, **how)
        settings = {**SETTINGS, **settings, "seed": seed, "init": str(out) if agent else ""}
        out = folder / f"round-{number}"
        agent = train("dpt", env_id, out, histories=histories, settings=settings, device="cpu", resume=out.exists())
        seconds += agent.facts["seconds"]
    agent.facts |= {"command": f"python examples/11_meta_world.py --task {task} --seed {seed}", "seconds": seconds}
    agent.save_pretrained(folder / "agent")


if __name__ == "__main__":
    typer.run(main)
