"""A Meta-World task with hidden goals: an agent learns from others first, then from its own lifetimes.

Round 1 learns from histories of wrong goals. In the next rounds the agent acts, and the expert labels every step that
its own actions lead to (DAgger). All goals are drawn freely, away from the test goals; with --published they are the
few of the benchmark. A second call continues where the first one stopped. (Needs the extras train and metaworld.)
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import typer

from icrl_agents import collect, train
from icrl_agents.core.splits import split_tasks

FAST = "icrl_envs.metaworld.fast_experts"
EXPERTS = {"peg-insert-side": f"{FAST}:insert_peg", "sweep": f"{FAST}:sweep_cube"}  # others: Meta-World's
SETTINGS = {
    **{"head": "flow", "bins": 64, "rewards": "fixed", "width": 64, "inner": 128},
    **{"eval_every": 0, "checkpoint_every": 100, "threads": 1},
}
SHORT = {"window": 200, "slide": 50, "batch_size": 48, "micro_batch": 48, "lr": 2e-3}
LONG = {"window": 400, "slide": 100, "batch_size": 24, "micro_batch": 24, "lr": 1e-3}


class Round(NamedTuple):
    """Histories that are added, and a training on all so far."""

    histories: int  # one for each of as many new goals, or several for each of the published ones
    episodes: int
    settings: dict


ROUNDS = [
    Round(2000, 4, {**SHORT, "updates": 900}),
    Round(640, 6, {**LONG, "updates": 600}),
    Round(640, 6, {**LONG, "updates": 1000}),
]


def main(
    task: str = "reach", folder: Path | None = None, seed: int = 0, processes: int = 1, published: bool = False
) -> None:
    env_id, task_set = f"icrl/MetaWorld-{task}-v0", "train" if published else "train_free"
    folder = folder or Path("runs", f"ml1-{task}{'-published' if published else ''}")
    goals = split_tasks(env_id, task_set=task_set).train.ids.tolist()
    fresh, agent, seconds = iter(goals), None, 0.0
    histories, out = [], Path()
    for number, (count, episodes, settings) in enumerate(ROUNDS, 1):
        collection = {"episodes": episodes, "seed": seed, "expert": EXPERTS.get(task)}
        if published:
            collection |= {"tasks": goals, "streams": max(1, count // len(goals))}
        else:
            collection |= {"tasks": list(islice(fresh, count)), "streams": 1}
        histories.append(folder / f"round-{number}.h5")
        if not histories[-1].exists():
            own = {"source": agent} if agent else {"source": "wrong-goal", "settings": {"right_end": 0.5}}
            collect(env_id, path=histories[-1], processes=processes, **own, **collection)
        init = str(out) if agent else ""
        settings = {**SETTINGS, **settings, "task_set": task_set, "seed": seed, "init": init}
        out = folder / f"round-{number}"
        agent = train("dpt", env_id, out, histories=histories, settings=settings, device="cpu", resume=out.exists())
        seconds += agent.facts["seconds"]
    command = f"python examples/11_meta_world.py --task {task} --seed {seed}{' --published' if published else ''}"
    agent.facts |= {"command": command, "seconds": seconds}
    agent.save_pretrained(folder / "agent")


if __name__ == "__main__":
    typer.run(main)
