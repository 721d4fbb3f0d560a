"""Request: the checked arguments of a training run, as stored in `train.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

from icrl_agents.core.families import check_same_tasks, find_family, tasks_checksum
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import versions
from icrl_agents.core.splits import Splits, split_tasks
from icrl_agents.histories.store import HistoryStore
from icrl_agents.methods import METHODS
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.source import Source
from icrl_agents.training.config import TrainConfig, split_settings
from icrl_agents.training.provenance import describe_training
from icrl_agents.training.run_folder import absolute, command_line, read_started
from icrl_agents.training.windows import FreshWindows, StoreWindows, Windows, WindowSpec


@dataclass(frozen=True)
class Request:
    """Arguments of one training run: method, environment, data, settings and output folder."""

    method: str
    env_id: str
    out: Path
    histories: Path | None
    source: Source | None  # generates fresh lifetimes; None with histories
    source_settings: dict[str, Any]  # source settings that override its presets
    config: TrainConfig
    agent_config: Any  # the method's config
    command: str  # command that started the run
    resumed: bool

    @classmethod
    def of(
        cls, method: str, env_id: str, out: Path, histories: str | Path | None, settings: dict[str, Any], resume: bool
    ) -> Request:
        """Check the arguments of `train`, without writing anything.

        Raises:
            ValueError: unknown name or bad value, or settings that differ from those of the run to resume.
            FileNotFoundError: `resume` without a run in `out`.
        """
        command, fresh = command_line(), histories is None and not resume
        if resume:
            histories, settings, command = read_started(out, method, env_id, histories, settings)
        config, agent_config, for_source = split_settings(method, env_id, settings, fresh)
        split_tasks(env_id, config.split_seed, config.task_set)  # ValueError for unknown ids and sets
        path = None if histories is None else absolute(histories)
        check_utf8(path or "")
        if path and (config.source or for_source):
            raise ValueError(
                f"source={config.source!r} makes fresh lifetimes, {path.name} holds its own: leave one of them out"
            )
        source = None if path else make_source(config.source or default_source(env_id), env_id, for_source)
        return cls(method, env_id, out, path, source, for_source, config, agent_config, command, resume)

    def to_json(self) -> dict[str, Any]:
        """The content of `train.json`."""
        return {
            "method": self.method,
            "env_id": self.env_id,
            "histories": None if self.histories is None else str(self.histories),
            "train": asdict(self.config),
            "agent": asdict(self.agent_config),
            "source": self.source_settings,
            **({"family": checksum} if (checksum := tasks_checksum(self.env_id)) else {}),
            "command": self.command,
            "versions": versions(),
        }

    def splits(self) -> Splits:
        return split_tasks(self.env_id, self.config.split_seed, self.config.task_set)

    def windows(self) -> Windows:
        """Batches of windows on the training tasks, from the stored histories or from fresh lifetimes."""
        cfg, tasks = self.config, self.splits().train.ids
        aligned = METHODS[self.method].episode_aligned
        spec = WindowSpec(self.agent_config.span, cfg.batch_size, cfg.seed, aligned)
        if self.histories is None:
            assert self.source is not None
            return FreshWindows(self.env_id, self.source, tasks, cfg.episodes, spec)
        with HistoryStore(self.histories) as store:
            if store.info.env_id != self.env_id:
                theirs = printable(store.info.env_id)
                raise ValueError(f"{self.histories} holds {theirs}, not {self.env_id}: give --env {theirs}")
            check_same_tasks(self.env_id, store.info.env_kwargs, f"{self.histories} was recorded")
            return StoreWindows(store, tasks, spec, env_spaces(self.env_id))

    def facts(
        self, data: dict[str, Any], seconds: float, device: torch.device, limits: Sequence[str]
    ) -> dict[str, Any]:
        """Provenance of the weights after `seconds` of training on `data`; see `describe_training`."""
        facts = describe_training(self.env_id, self.config, data, self.command, seconds, device)
        return facts | ({"limits": list(limits)} if limits else {})


def env_spaces(env_id: str) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Observation and action space of a single environment."""
    family = find_family(env_id)
    return family.observation_space, family.action_space
