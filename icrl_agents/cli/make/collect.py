"""The command that records learning histories."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from icrl_agents.cli.options import Env, Overwrite, Resume, Seed, Settings, Tasks

LEARNERS = (
    "The learner: q-learning, posterior, thompson, gaussian-thompson, bayes-ucb, gittins, ucb, linucb, epsilon-greedy, "
    "uniform, noise, psrl, ppo, sac. Default: the one that suits the environment."
)


@dataclass(frozen=True)
class Collect:
    """Record the learning histories of a source learner."""

    env: Env
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.h5")]
    task_file: Tasks = None
    source: Annotated[str | None, typer.Option(help=LEARNERS)] = None
    streams: Annotated[int, typer.Option(help="Streams: histories of each task.")] = 100
    episodes: Annotated[int, typer.Option(help="Episodes of each history.")] = 50
    split: Annotated[
        str, typer.Option("--split", "--tasks-split", help="Tasks: train, validation, test, all or a named set.")
    ] = "train"
    processes: Annotated[int, typer.Option(help="Worker processes; more than one pay for ppo.")] = 1
    seed: Seed = 0
    settings: Settings = None
    resume: Resume = False
    overwrite: Overwrite = False

    def run(self) -> None:
        from icrl_agents import collect
        from icrl_agents.cli.settings import parse_pairs
        from icrl_agents.core.process.terminal import counted
        from icrl_agents.core.splits import split_tasks
        from icrl_agents.sources import choose_source, find_source
        from icrl_agents.sources.source import EXPERT
        from icrl_agents.training.request import read_expert

        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite contradict each other: give one of them")
        tasks = split_tasks(self.env).pick(self.split)
        pairs = [pair.strip().removeprefix("source.") for pair in self.settings or ()]  # the names of `train` are good
        expert = next((pair for pair in pairs if pair.partition("=")[0].strip() == EXPERT), None)
        source = self.source
        if source is None:
            source, reason = choose_source(self.env, expert is not None)
            print(f"source {source}: {reason}")
        settings = parse_pairs(pairs, fields(find_source(source).Settings))
        given = settings.pop(EXPERT, None)
        began = time.perf_counter()
        path = collect(
            self.env,
            source,
            self.output.expanduser(),
            tasks=tasks.ids.tolist(),
            streams=self.streams,
            episodes=self.episodes,
            seed=self.seed,
            processes=self.processes,
            settings=settings,
            expert=None if given is None else read_expert(given),
            resume=self.resume,
            overwrite=self.overwrite,
        )
        histories = counted(self.streams * len(tasks), "history", "histories")
        print(f"{path}: {histories} of {counted(self.episodes, 'episode')} in {time.perf_counter() - began:.1f} s")
