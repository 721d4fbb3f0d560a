"""Data of a training: the histories that are collected before it starts, the windows of them, and the batches.

Axis letters: B rows, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from icrl_agents.core.action_masks import check_legal
from icrl_agents.core.families import check_same_tasks, env_spaces, find_family
from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn
from icrl_agents.core.steps import MissingColumnError, Steps
from icrl_agents.histories.experts import EXPERT
from icrl_agents.histories.shards import HistoryShards, check_one_model
from icrl_agents.histories.store import HistoryStore, partial_folder
from icrl_agents.hub.unfinished import NOTE
from icrl_agents.methods import MODELS
from icrl_agents.methods.base.coded import CodedModel
from icrl_agents.methods.base.trainable import Trainable
from icrl_agents.sources import source_name
from icrl_agents.sources.collection import collect
from icrl_agents.training.augment import hide_rewards, postpone_rewards, renumber_actions
from icrl_agents.training.config import ORDERED, TrainConfig, check_order
from icrl_agents.training.labels import LabelledSteps, LabelledWindows, known_rows, reweighted
from icrl_agents.training.request import Request, own_histories
from icrl_agents.training.streaming.choice import recorded_windows
from icrl_agents.training.windows import FreshWindows, Windows, WindowSpec

PREPARING = 1  # separates the random stream of `prepare_batch` from that of the windows

# ---- histories that are collected first -------------------------------------------------------------------------


def collect_own(request: Request, quiet: bool, overwrite: bool) -> None:
    """Collect the histories of a source that learns one task at a time; finished ones of this request stay.

    Raises:
        FileExistsError: an earlier run has collected others, and not `overwrite`.
    """
    path = own_histories(request.out)
    if request.source is None or not request.source.one_task or _has_collected(request, path):
        return
    collect(
        request.env_id,
        str(source_name(request.source)),
        path,
        tasks=request.splits().train.ids.tolist(),
        streams=request.config.streams,
        episodes=request.config.episodes,
        seed=request.config.seed,
        settings={name: value for name, value in request.source_settings.items() if name != EXPERT},
        expert=request.source.expert,
        overwrite=overwrite,
        progress=(lambda done, total: None) if quiet else None,
    )


def _has_collected(request: Request, path: Path) -> bool:
    """Whether a finished store holds what `collect_own` would collect."""
    if request.source is None or not path.is_file() or partial_folder(path).exists():
        return False
    with HistoryStore(path) as store:
        info, cfg = store.info, request.config
        found = (info.env_id, info.source, info.settings, info.seed, info.streams, info.episodes, store.tasks)
    source, tasks = request.source, sorted(request.splits().train.ids.tolist())
    wanted = (request.env_id, source_name(source), source.described(), cfg.seed, cfg.streams, cfg.episodes, tasks)
    return found == wanted


def with_collected(request: Request) -> Request:
    """The request with the histories that `collect_own` has collected."""
    if request.source is None or not request.source.one_task:
        return request
    return replace(request, histories=(own_histories(request.out),), source=None)


def collecting(out: Path) -> bool:
    """Whether the run in `out` was interrupted while it collected histories, so that it has not begun to train."""
    path = own_histories(out)
    return not (out / NOTE).exists() and (path.exists() or partial_folder(path).exists())


# ---- windows ----------------------------------------------------------------------------------------------------


def open_windows(request: Request, memory: float = math.inf) -> Windows:
    """Batches of windows on the training tasks, from the stored histories or from fresh lifetimes.

    Args:
        memory: bytes that this process may use; a resumed run holds what it held before.
    """
    cfg, model = request.config, MODELS[request.method]
    spec = WindowSpec(request.agent_config.span, cfg.batch_size, cfg.seed, model.episode_aligned, model.needs_tasks)
    if model.episode_aligned and (horizon := find_family(request.env_id).horizon) > spec.window:
        warn(
            f"{request.method} begins its windows with an episode, and those of {request.env_id} have up to {horizon} "
            f"steps: it learns from the first {spec.window} of each only, so give longer windows"
        )
    return _fresh(request, spec) if request.histories is None else _recorded(request, spec, memory)


def _fresh(request: Request, spec: WindowSpec) -> Windows:
    cfg, tasks = request.config, request.splits().train.ids
    assert request.source is not None
    if cfg.labels:
        raise ValueError(f"labels={cfg.labels} are steps of recorded histories: give --histories")
    if cfg.pool:
        raise ValueError(f"pool={cfg.pool} streams recorded histories: give --histories, or leave it out")
    return FreshWindows(cfg.variant or request.env_id, request.source, tasks, cfg.episodes, spec)


def _recorded(request: Request, spec: WindowSpec, memory: float) -> Windows:
    cfg, tasks, spaces = request.config, request.splits().train.ids, env_spaces(request.env_id)
    one_model = request.agent_config.of_one_model
    with _shards(request, *(request.histories or ())) as shards:
        for store in shards.stores:
            made = {f"source.{name}": store.info.settings.get(name, 0) for name in ORDERED}
            check_order(request.agent_config, made)
        check_one_model(shards.stores, one_model)
        room = math.inf if request.resumed else memory
        known = known_rows(MODELS[request.method].labelled_share, cfg.batch_size) if cfg.labels else 0
        unknown = spec._replace(batch_size=cfg.batch_size - known)
        others = recorded_windows(shards, tasks, unknown, spaces, cfg.pool, room) if unknown.batch_size else None
        if not known:
            assert others is not None
            return others
        with _shards(request, cfg.labelled) if cfg.labelled else shards as labelled:
            check_one_model([*shards.stores, *labelled.stores], one_model)
            steps = LabelledSteps(labelled, tasks, cfg.labels, spec, spaces)
        return LabelledWindows(others, steps, cfg.batch_size, spec.window)


def training_batch(
    method: Trainable, windows: Windows, config: TrainConfig, number: int, *, whole: bool = False
) -> Steps:
    """Global batch (B, T) of update `number`, changed as the settings and the method ask for.

    Args:
        whole: leave the windows as long as they are, where the settings shorten them at first.
    """
    progress, rng = number / config.updates, np.random.default_rng([config.seed, number, PREPARING])
    batch = windows.batch(number)
    check_legal(batch)
    if not whole and (most := config.most_steps(progress)) is not None:
        batch = reweighted(batch.window(0, most))
    if config.renumber and isinstance(method, CodedModel):
        batch = renumber_actions(batch, method.action.options, rng)
    if config.blind:
        batch = hide_rewards(batch, rng, config.blind, config.blind_after)
    if config.postpone:
        batch = postpone_rewards(batch, rng, config.postpone, config.blind_after)
    return method.draw_noise(method.prepare_batch(batch, rng, progress), rng)


@contextmanager
def naming_file(request: Request) -> Iterator[None]:
    """Name the first file of histories that lacks the column of a `MissingColumnError`, as a ValueError."""
    try:
        yield
    except MissingColumnError as error:
        tasks, who = request.splits().train.ids.tolist(), "these histories lack"
        for file in filter(None, (*map(str, request.histories or ()), request.config.labelled)):
            with _shards(request, file) as shards:
                if path := shards.without(error.column, tasks):
                    who = f"{path} lacks"
                    break
        raise ValueError(error.text(who)) from None


def _shards(request: Request, *files: str | Path) -> HistoryShards:
    """Histories of this environment; ValueError for others, and for those that are still being collected."""
    shards = HistoryShards(*files)
    if half := next((store.path for store in shards.stores if store.partial), None):
        raise ValueError(f"{half} is not finished: run `icrl-agents collect` again before you train on it")
    if shards.info.env_id != request.env_id:
        theirs = printable(shards.info.env_id)
        raise ValueError(f"{shards.name} holds {theirs}, not {request.env_id}: give --env {theirs}")
    check_same_tasks(request.env_id, shards.info.env_kwargs, f"{shards.name} was recorded")
    return shards
