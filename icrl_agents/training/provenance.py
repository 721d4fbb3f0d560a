"""Provenance of trained weights: data, settings, command, machine and versions, as printed on the card."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from icrl_agents.core.families import define, find_family
from icrl_agents.core.process.packages import versions
from icrl_agents.histories.shards import HistoryShards, common_name
from icrl_agents.histories.store import HistoryStore
from icrl_agents.sources import source_name
from icrl_agents.sources.collection import collect_command
from icrl_agents.sources.source import Source
from icrl_agents.training.config import TrainConfig


def describe_training(
    env_id: str,
    config: TrainConfig,
    data: dict[str, Any],
    command: str,
    seconds: float,
    device: torch.device,
    limits: Sequence[str],
) -> dict[str, Any]:
    """Facts of a trained agent, as plain JSON values.

    Args:
        data: result of `describe_data`.
        command: command that started the run, also for a resumed one.
        seconds: training time, summed over all parts of the run.
        limits: sentences about what the weights cannot do.
    """
    return {
        "env_id": env_id,
        **({"install": group} if (group := find_family(env_id).install) else {}),
        **define(env_id),
        **_seen_from_here(data),
        "split_seed": config.split_seed,
        "train": _seen_from_here(asdict(config)),
        "command": command,
        "seconds": round(seconds, 1),
        "machine": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} PyTorch threads, {device.type}",
        "versions": versions(),
        **({"limits": list(limits)} if limits else {}),
    }


def _seen_from_here(value: Any) -> Any:
    """`value` with paths inside the working folder relative to it, as users type them; other paths stay."""
    if isinstance(value, dict):
        return {name: _seen_from_here(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_seen_from_here(part) for part in value]
    here = Path.cwd().resolve()
    return str(Path(value).relative_to(here)) if isinstance(value, str) and Path(value).is_relative_to(here) else value


def describe_data(config: TrainConfig, source: Source | None, histories: Sequence[Path] | None) -> dict[str, Any]:
    """Facts about the training data: fresh lifetimes of `source`, or recorded `histories` if it is None."""
    if source is None:
        assert histories is not None
        return _describe_store(histories)
    lifetimes = {"fresh_lifetimes": config.updates * config.batch_size, "episodes": config.episodes}
    return {
        "source": source_name(source),
        "assumes": source.assumes,
        "data": {**lifetimes, "settings": source.described()},
    }


def _describe_store(histories: Sequence[Path]) -> dict[str, Any]:
    with HistoryShards(*histories) as shards:
        found = [_describe_collection(stores) for stores in shards.collections]
    data = {"histories": common_name(histories), **({"files": len(histories)} if len(histories) > 1 else {})}
    parts, commands = [one.pop("data") for one in found], [one.pop("collect", None) for one in found]
    data |= parts[0] if len(parts) == 1 else {"collections": parts}
    source, assumes = (dict.fromkeys(one[name] for one in found) for name in ("source", "assumes"))
    facts = {"source": ", ".join(source), "assumes": " ".join(assumes), "data": data}
    return facts | ({"collect": "\n".join(commands)} if all(commands) else {})


def _describe_collection(stores: Sequence[HistoryStore]) -> dict[str, Any]:
    info, name = stores[0].info, common_name([store.path for store in stores])
    data = {"streams": info.streams, "episodes": info.episodes, "settings": dict(info.settings)}
    command = collect_command(info, sorted({task for store in stores for task in store.tasks}), name)
    return {"source": info.source, "assumes": info.assumes, "data": data} | ({"collect": command} if command else {})
