"""Collect histories: fresh lifetimes in memory, or a store on disk whose collection can be interrupted and resumed.

A collection consists of blocks of tasks, each with its own seed. Finished blocks become part files next to the
store, which are merged at the end. A history depends on its own block only, so neither the number of processes nor an
interruption changes it, nor the machines that compute it: workers return their block, and only this process writes.
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from icrl_agents.core.changing import ChangingTasks, draw_changes, make_changing_tasks, with_changes
from icrl_agents.core.checks import flag, whole
from icrl_agents.core.families import (
    Registration,
    TaskRows,
    check_tasks,
    find_family,
    is_family,
    make_tasks,
    sendable,
    tasks_checksum,
)
from icrl_agents.core.printable import printable
from icrl_agents.core.process.interrupts import continuing
from icrl_agents.core.process.jobs.backends import Backend, open_workers
from icrl_agents.core.process.packages import version_of
from icrl_agents.core.process.terminal import progress_bar
from icrl_agents.core.rollout import AGENT, CONFIG, PLAN, WEIGHTS, Learner
from icrl_agents.core.splits import TRAIN, split_tasks, training_tasks
from icrl_agents.core.steps import Steps
from icrl_agents.histories.experts import EXPERT, Expert, WithExpert
from icrl_agents.histories.info import HistoryInfo, warn_uncoded
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.histories.writer import HistoryWriter
from icrl_agents.sources import SOURCES, Source, choose_source, find_source, make_source, source_name
from icrl_agents.sources.experts import as_expert
from icrl_agents.sources.own import OwnLifetimes

# what a header has among the settings of a source, and a command does not
NOT_NAMED = {AGENT, WEIGHTS, CONFIG, f"{EXPERT}.{WEIGHTS}", f"{EXPERT}.{CONFIG}"}
EXPERT_PLAN = f"{EXPERT}.{PLAN}"
CHANGES = 3  # separates the random stream of changing tasks from those of environments and source
ROWS = 1024  # target number of lifetimes rolled out in parallel

Progress = Callable[[int, int], None]  # called with (finished histories, all histories)


def seed_of(seed: int, part: int) -> int:
    """A seed for one `part` of what has `seed`, whose random numbers are those of no other part."""
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0] >> 1)


def lifetimes(
    env_id: str, source: Source, task_ids: np.ndarray, episodes: int, seed: int, pool: np.ndarray | None = None
) -> Steps:
    """Roll out `source` for one lifetime on each of the tasks `task_ids` (B,), in parallel; returns Steps (B, T).

    `pool` holds the ids of the tasks that lifetimes may change to, None: those of the others.

    Raises:
        ValueError: the source learns one task at a time, and there are several; or tasks cannot change.
    """
    check_together(source, task_ids)
    rows, options = _task_rows(env_id, source, np.asarray(task_ids), episodes, seed, pool)
    if source.expert is not None:
        family = find_family(env_id)
        rows = WithExpert(rows, source.expert, [family.task_kwargs(int(task)) for task in task_ids])
    env = RecordHistory(rows)
    source.run(env, episodes, seed, options)
    env.close()
    steps = env.steps(episodes)
    return with_changes(steps, rows) if isinstance(rows, ChangingTasks) else steps


def _task_rows(
    env_id: str, source: Source, tasks: np.ndarray, episodes: int, seed: int, pool: np.ndarray | None
) -> TaskRows:
    """Rows on the tasks (B,); some change theirs if the source asks for it. ValueError if the tasks cannot change."""
    share, late = source.settings.changes, source.settings.late
    if not share and not late:
        return make_tasks(env_id, tasks)
    if source.one_task:
        name = source_name(source) or type(source).__name__
        raise ValueError(f"the rows of source {name!r} share one learner, whose task stays: leave changes and late out")
    if share and source.expert is not None:
        raise ValueError(f"changes={share} with a given expert, which keeps to one task: leave one of them out")
    rng = np.random.default_rng([seed, CHANGES])
    return make_changing_tasks(env_id, **draw_changes(tasks, share, episodes, rng, pool, late))


def check_together(source: Source, task_ids: np.ndarray) -> None:
    """Refuse several tasks (ValueError) for a source whose rows share one learner."""
    if source.one_task and len(np.unique(task_ids)) > 1:
        name = source_name(source) or type(source).__name__
        command = f"icrl-agents collect --env ... --source {name} -o histories.h5"
        way = f"collect its histories first ({command}), then train with --histories histories.h5"
        raise ValueError(f"source {name!r} learns one task at a time: {way}")


def collect(
    env_id: str,
    source: str | Learner | None,
    path: str | os.PathLike[str],
    *,
    tasks: Sequence[int] | None = None,
    streams: int = 100,
    episodes: int = 50,
    seed: int = 0,
    processes: int | None = None,
    backend: str | Backend = "local",
    shard_size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    expert: Any = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Collect a `HistoryStore` at `path`. Called again after an interruption, it collects only what is missing.

    Args:
        source: a name in `SOURCES`; an agent, whose own lifetimes are recorded; None: the source that suits the
            environment (`choose_source`).
        tasks: task ids; default the training tasks of the published split, without the validation tasks.
        streams: number of histories of each task.
        episodes: number of episodes in each history.
        processes: number of worker processes; several speed up sources that train networks. On a cluster, blocks at a
            time, by default two for each of its CPUs; that many are in memory at most.
        backend: "local", "ray" or a `Backend`. The histories are the same on each of them.
        shard_size: histories in each of several files `<stem>-00000-of-00012.h5`, rounded to whole tasks; `path` is
            then their common name, which `train` and `HistoryShards` read. None: one file, of the same histories.
        settings: source settings that override its presets for this environment.
        expert: replaces the environment's expert, see `as_expert`: source "noise" acts on it, and its actions are the
            column `expert_action` of any source.
        resume: continue an interrupted collection of the same settings; False makes that an error.
        overwrite: replace a finished store, which stays in place until the new one is complete; restart an
            interrupted collection that cannot be resumed.
        progress: called after each block; default a progress bar if standard error is a terminal.

    Raises:
        FileExistsError: a finished store exists, or an interrupted collection with other settings.
        IsADirectoryError, BlockingIOError: `path` is a folder, or another process is collecting to it.
        ValueError: an argument is not allowed; the message names the allowed values.
        ChildProcessError: a worker died; what is done is kept.
    """
    ids = sorted(check_tasks(env_id, split_tasks(env_id).train.ids.tolist() if tasks is None else tasks))
    resume, overwrite = flag("resume", resume), flag("overwrite", overwrite)
    streams, episodes = whole("streams", streams, 1), whole("episodes", episodes, 1)
    seed, backend = whole("seed", seed, 0, 2**63 - 1), Backend.of(backend)
    processes = None if processes is None else whole("processes", processes, 1)
    learner = make_source(source or choose_source(env_id, expert is not None).name, env_id, dict(settings or {}))
    learner.expert, name = None if expert is None else as_expert(expert), str(source_name(learner))
    info = _describe(env_id, name, learner, seed, streams, episodes)
    given = Objects(learner.expert, learner.agent if isinstance(learner, OwnLifetimes) else None)
    families = _check_sendable(env_id, given) if backend.elsewhere(processes) else []
    blocks = _blocks(learner, info, ids, given)
    shard = None if shard_size is None else max(1, whole("shard_size", shard_size, 1) // streams)
    with (  # workers first: nothing is written if there are none
        open_workers(backend, processes, families) as workers,
        HistoryWriter(Path(path), info, ids, resume=resume, overwrite=overwrite, shard_tasks=shard) as writer,
        continuing(lambda: f"--resume continues with {len(writer.done)} of {len(ids)} tasks done"),
        _report(progress, f"{name} on {env_id}", len(ids) * streams) as report,
    ):
        missing = [block for block in blocks if not writer.done.issuperset(block.tasks)]
        report(len(writer.done) * streams, len(ids) * streams)
        for histories in workers.as_finished(run_block, missing):
            writer.add(histories)
            report(len(writer.done) * streams, len(ids) * streams)
        writer.finish()
    return Path(path)


def _blocks(source: Source, info: HistoryInfo, ids: list[int], given: Objects) -> list[Block]:
    """Blocks of the tasks `ids`, of about `ROWS` lifetimes each; ValueError if their tasks are to change and cannot."""
    rows = find_family(info.env_id).max_rows or ROWS
    size = 1 if source.one_task else max(1, rows // info.streams)
    pool = tuple(ids) if source.settings.changes or source.settings.late else ()
    if pool:  # as the lifetimes would, but before anything is written
        _task_rows(info.env_id, source, np.array(ids[:1]), info.episodes, info.seed, np.array(ids)).env.close()
    return [Block(info, tuple(ids[i : i + size]), given, pool) for i in range(0, len(ids), size)]


def _check_sendable(env_id: str, given: Objects) -> list[Registration]:
    """The families that workers must get; ValueError for one, an expert or an agent that they cannot get."""
    for what, one in given._asdict().items():
        try:
            pickle.dumps(one)
        except Exception as error:
            why = printable(f"{type(error).__name__}: {error}", 160)
            name = getattr(one, "name", type(one).__name__)
            way = "define it at the top of a module, or collect in one process"
            raise ValueError(f"{what} {name} cannot be sent to workers ({why}): {way}") from None
    return sendable([env_id])


def _describe(env_id: str, name: str, source: Source, seed: int, streams: int, episodes: int) -> HistoryInfo:
    from icrl_agents.core.spaces import space_to_json

    family = find_family(env_id)
    warn_uncoded(family.observation_space, family.action_space)
    return HistoryInfo(
        env_id=env_id,
        env_kwargs=_env_kwargs(env_id),
        observation_space=space_to_json(family.observation_space),
        action_space=space_to_json(family.action_space),
        source=name,
        settings=source.described(),
        assumes=source.assumes,
        seed=seed,
        streams=streams,
        episodes=episodes,
        versions={name: version_of(name) for name in ("icrl-agents", "gymnasium", "numpy", "h5py", *source.packages)},
    )


def _env_kwargs(env_id: str) -> dict[str, Any]:
    """Arguments registered with the id, as text where JSON cannot hold them, and the checksum of a user's tasks."""
    kwargs = json.loads(json.dumps(dict(gymnasium.spec(env_id).kwargs), default=str))
    checksum = tasks_checksum(env_id)
    return kwargs if checksum is None else {**kwargs, "family": {"checksum": checksum}}


class Objects(NamedTuple):
    """What a caller gives as Python objects."""

    expert: Expert | None
    agent: Learner | None


class Block(NamedTuple):
    """Unit of collection: tasks whose histories are computed, saved or lost together."""

    info: HistoryInfo
    tasks: tuple[int, ...]
    given: Objects
    pool: tuple[int, ...] = ()  # all tasks of the collection, if lifetimes may change theirs


def run_block(block: Block) -> dict[int, Steps]:
    info, tasks, given, _ = block
    settings = {name: value for name, value in info.settings.items() if name.partition(".")[0] != EXPERT}
    agent = given.agent
    source = find_source(info.source).make(info.env_id, settings) if agent is None else OwnLifetimes(agent)
    source.expert = given.expert
    source.hypotheses = None if source.hypotheses is None else training_tasks(info.env_id, tasks)
    seed = int(np.random.SeedSequence([info.seed, tasks[0]]).generate_state(1)[0])
    pool = np.array(block.pool) if block.pool else None
    steps = lifetimes(info.env_id, source, np.repeat(tasks, info.streams), info.episodes, seed, pool)
    # (tasks * streams, T) -> (streams, T) of each task
    return {task: steps.rows(slice(i * info.streams, (i + 1) * info.streams)) for i, task in enumerate(tasks)}


@contextmanager
def _report(progress: Progress | None, title: str, total: int) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with progress_bar(title, total, "histories") as bar:
        yield lambda done, _: bar(done)


def collect_command(info: HistoryInfo, tasks: Sequence[int], name: str) -> str | None:
    """Shell command that collects the same store; None if there is none.

    `tasks` must be a split or named set, a given expert or agent must have a name that a command can load and no
    planner, and a family of a user is defined in no file or module that is known here.
    """
    settings = {name: value for name, value in info.settings.items() if name not in NOT_NAMED}
    source = str(info.settings.get(AGENT, info.source))
    object_given = any(str(name).startswith("<") for name in (source, settings.get(EXPERT, "")))
    if (
        info.source not in (*SOURCES, AGENT)
        or not is_family(info.env_id)
        or object_given
        or not {PLAN, EXPERT_PLAN}.isdisjoint(info.settings)
        or tasks_checksum(info.env_id)
    ):
        return None
    splits = split_tasks(info.env_id)
    sets = {name: splits.pick(name) for name in splits.names()}
    split = next((name for name, found in sets.items() if set(found.ids.tolist()) == set(tasks)), None)
    if split is None:
        return None
    try:
        usual = asdict(make_source(info.source, info.env_id).settings) if info.source in SOURCES else {}
    except ImportError:  # without the source's package its presets are unknown: the command names all settings
        usual = {}
    words = ["icrl-agents", "collect", "--env", info.env_id, "--source", source, "--streams", str(info.streams)]
    words += ["--episodes", str(info.episodes), "--seed", str(info.seed)]
    words += [] if split == TRAIN else ["--split", split]
    for setting, value in settings.items():
        if value != usual.get(setting):
            words += ["--set", f"{setting}={json.dumps(value)}"]
    return shlex.join([*words, "-o", name])
