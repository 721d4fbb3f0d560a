"""The command that records learning histories."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import (
    Address,
    BackendName,
    Env,
    Overwrite,
    Resources,
    Resume,
    Seed,
    Settings,
    Tasks,
    backend_of,
)

LEARNERS = (
    "The learner: q-learning, posterior, thompson, gaussian-thompson, bayes-ucb, gittins, ucb, linucb, epsilon-greedy, "
    "uniform, psrl, noise, wrong-goal, ppo, sac; or an agent, by its folder or org/name. Default: the one that suits "
    "the environment."
)


@dataclass(frozen=True)
class Collect:
    """Record the learning histories of a source learner."""

    env: Env
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.h5", help="The store of the histories.")]
    task_file: Tasks = None
    source: Annotated[str | None, typer.Option(help=LEARNERS)] = None
    streams: Annotated[int, typer.Option(help="Streams: histories of each task.")] = 100
    episodes: Annotated[int, typer.Option(help="Episodes of each history.")] = 50
    split: Annotated[
        str, typer.Option("--split", "--tasks-split", help="Tasks: train, validation, test, all or a named set.")
    ] = "train"
    processes: Annotated[
        int | None,
        typer.Option(help="Worker processes; they pay for slow sources. Default: 1, on ray two for each CPU."),
    ] = None
    shard_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Histories a file: FILE-00000-of-00012.h5, ... Default: all in one file."),
    ] = None
    backend: BackendName = "local"
    address: Address = None
    resources: Resources = None
    seed: Seed = 0
    settings: Settings = None
    resume: Resume = False
    overwrite: Overwrite = False

    def run(self) -> None:
        from icrl_agents import collect
        from icrl_agents.cli.settings import read_source
        from icrl_agents.core.process.terminal import counted
        from icrl_agents.core.splits import split_tasks

        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: give one of them")
        tasks = split_tasks(self.env).pick(self.split)
        given = read_source(self.env, self.source, self.settings)
        if given.reason:
            print(f"source {given.source}: {given.reason}")
        began = time.perf_counter()
        path = collect(
            self.env,
            given.source,
            self.output.expanduser(),
            tasks=tasks.ids.tolist(),
            streams=self.streams,
            episodes=self.episodes,
            seed=self.seed,
            processes=self.processes,
            shard_size=self.shard_size,
            backend=backend_of(self.backend, self.address, self.resources),
            settings=given.settings,
            expert=given.expert,
            resume=self.resume,
            overwrite=self.overwrite,
        )
        histories = counted(self.streams * len(tasks), "history", "histories")
        print(f"{path}: {histories} of {counted(self.episodes, 'episode')} in {time.perf_counter() - began:.1f} s")
