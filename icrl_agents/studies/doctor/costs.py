"""Estimates of time and memory of `collect` and `train` on this machine, from short measurements."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from icrl_agents.core.families import Family
from icrl_agents.core.process.terminal import counted
from icrl_agents.core.splits import split_tasks
from icrl_agents.core.steps import Steps
from icrl_agents.methods import METHODS
from icrl_agents.sources.collection import lifetimes
from icrl_agents.sources.source import Source
from icrl_agents.studies.doctor.findings import Finding, fail, note, ok
from icrl_agents.training.config import split_settings
from icrl_agents.training.windows import concatenate

STREAMS = 100  # default of `collect`
LARGE = 4 << 30  # bytes of a store that must fit into memory


def check_costs(family: Family, source: Source, method: str, episodes: int) -> Iterable[Finding]:
    """Time and size of a store of default size, and time of a training with default settings."""
    tasks = split_tasks(family.env_id).train.ids
    sample = tasks[:1] if source.one_task else np.resize(tasks, 32)
    began = time.perf_counter()
    steps = lifetimes(family.env_id, source, sample, episodes, 0)
    pace = (time.perf_counter() - began) / steps.mask.sum()  # seconds per step
    size = sum(value.nbytes for value in steps.columns.values()) / steps.mask.sum()  # bytes per step
    total = len(tasks) * STREAMS * episodes * steps.mask.sum() / (len(sample) * episodes)
    text = (
        f"{1 / pace:,.0f} steps/s; {STREAMS} histories of {episodes} episodes on {len(tasks)} tasks take "
        f"{duration(total * pace)} and {total * size / 2**20:,.0f} MB"
    )
    yield (note if total * size > LARGE else ok)("collect", text)
    if missing := [name for name in METHODS[method].learns_from if name not in steps.extras]:
        yield fail("train", f"{method} learns from {missing[0]}, which this source does not record: choose another one")
    else:
        yield ok("train", _training_time(family, method, steps))


def _training_time(family: Family, method: str, steps: Steps) -> str:
    """Time of a training with default settings, from two forward and backward passes on one batch."""
    config, agent_config, _ = split_settings(method, family.env_id, {}, fresh=False)
    model = METHODS[method](family.observation_space, family.action_space, agent_config)
    window = steps.window(0, min(agent_config.span, steps.mask.shape[1]))
    rows = -(-config.micro_batch // len(window.mask))
    batch = concatenate([window] * rows).rows(slice(config.micro_batch))
    batch = model.prepare_batch(batch, np.random.default_rng(0))
    seconds = min(_timed_pass(model, batch) for _ in range(2))
    updates = seconds * config.batch_size / config.micro_batch
    parameters = sum(value.numel() for value in model.parameters())
    return (
        f"{method}, {parameters:,} parameters: {updates:.2f} s an update, {duration(updates * config.updates)} for "
        f"{config.updates} on {counted(torch.get_num_threads(), 'thread')}, without the time of fresh lifetimes"
    )


def _timed_pass(model: Any, batch: Steps) -> float:
    began = time.perf_counter()
    terms = model(model.tensors(batch))
    sum(terms.values()).backward()
    return time.perf_counter() - began


def duration(seconds: float) -> str:
    """Seconds, minutes or hours in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
