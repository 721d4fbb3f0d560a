"""Request: the checked arguments of a training run, as stored in `train.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.families import env_spaces, find_family, tasks_checksum
from icrl_agents.core.files.names import check_utf8
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import versions
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.splits import Splits, split_tasks
from icrl_agents.histories.experts import EXPERT, Expert
from icrl_agents.histories.shards import HistoryShards, Paths, common_name
from icrl_agents.histories.store import HistoryStore
from icrl_agents.sources import choose_source, make_source
from icrl_agents.sources.experts import IMPORT_PATH, as_expert
from icrl_agents.sources.source import Source
from icrl_agents.training.config import TrainConfig, check_read, split_settings
from icrl_agents.training.run_folder import Started, all_settings, command_line, note_files, read_started, stored_files

OWN_EPISODES = 50  # default of `episodes` for sources that learn one task at a time
EXPERT_SETTING = f"source.{EXPERT}"


class Given(NamedTuple):
    """Settings of a call, and the expert among them."""

    settings: dict[str, Any]  # plain values: of the expert its name, of files and folders their absolute paths
    expert: Expert | None

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> Given:
        """Settings of `train`, in which the expert may be a Python object."""
        plain = dict(settings or {})
        # to be found from other folders, and by the machines of a cluster
        if isinstance(labelled := plain.get("labelled"), str) and labelled:
            plain["labelled"] = os.path.realpath(Path(labelled).expanduser())
        for name in {"init", EXPERT_SETTING} & plain.keys():
            plain[name] = _absolute(plain[name])
        expert = read_expert(plain[EXPERT_SETTING]) if EXPERT_SETTING in plain else None
        return cls(plain if expert is None else {**plain, EXPERT_SETTING: expert.name}, expert)


@dataclass(frozen=True)
class Request:
    """Arguments of one training run: method, environment, data, settings and output folder."""

    method: str
    env_id: str
    out: Path
    histories: tuple[Path, ...] | None  # files
    source: Source | None  # generates fresh lifetimes; None with histories
    source_settings: dict[str, Any]  # source settings that override its presets
    config: TrainConfig
    agent_config: Any  # the method's config
    command: str  # command that started the run
    resumed: bool

    @classmethod
    def of(cls, method: str, env_id: str, out: Path, histories: Paths | None, given: Given, resume: bool) -> Request:
        """Check the arguments of `train`, without writing anything.

        Raises:
            ValueError: unknown name or bad value, or settings that differ from those of the run to resume.
            FileNotFoundError: `resume` without a run in `out`.
        """
        command, fresh = command_line(), histories is None and not resume
        settings, expert = given
        started = read_started(out, method, env_id, histories, settings) if resume else None
        if started:
            histories, settings, command = started.histories, started.settings, started.command
        config, agent_config, for_source = split_settings(method, env_id, settings, fresh)
        if not started:  # a started run has all settings, given or not
            check_read(method, agent_config, settings)
        split_tasks(env_id, config.split_seed, config.task_set)  # ValueError for unknown ids and sets
        files = None if histories is None else tuple(stored_files(histories))
        check_utf8(*(files or ()))
        if files and files != (own_histories(out),) and (config.source or for_source):
            raise ValueError(
                f"source={config.source!r} makes fresh lifetimes, {files[0].name} holds its own: leave one of them out"
            )
        source = None if files else _source(env_id, config.source, for_source, expert)
        if not started:
            _check_lifetimes(settings, config.episodes, files or (), source)
        if config.variant:
            _check_variant(env_id, config.variant, fresh=source is not None and not source.one_task)
        if source and source.one_task and "episodes" not in settings:
            config = replace(config, episodes=OWN_EPISODES)
        request = cls(method, env_id, out, files, source, for_source, config, agent_config, command, resume)
        if started:
            request._check_unchanged(started)
        return request

    def _check_unchanged(self, started: Started) -> None:
        """ValueError for an expert or histories that are not those at the start of the run."""
        expert = self.source.expert if self.source else None
        if started.expert and expert and expert.described() != started.expert:
            raise ValueError(
                f"the expert {printable(expert.name)} has other weights or another planner than at the start of "
                f"{self.out}: resume with that one, or start another run"
            )
        if started.contents and self.contents != started.contents:
            names = " and ".join(filter(None, (common_name(self.histories or ()), self.config.labelled)))
            raise ValueError(
                f"{names} changed since {self.out} was started: resume with those of then, or start another run"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, the defaults among them."""
        return all_settings(asdict(self.config), asdict(self.agent_config), self.source_settings)

    def to_json(self) -> dict[str, Any]:
        """The content of `train.json`."""
        return {
            "method": self.method,
            "env_id": self.env_id,
            "histories": note_files(self.histories),
            **({"contents": self.contents} if self.histories else {}),
            "train": asdict(self.config),
            "agent": asdict(self.agent_config),
            "source": self.source_settings,
            **({"expert": self.source.expert.described()} if self.source and self.source.expert else {}),
            **({"family": checksum} if (checksum := tasks_checksum(self.env_id)) else {}),
            "command": self.command,
            "versions": versions(),
        }

    @cached_property
    def contents(self) -> str:
        """Checksum of the histories, and of those with the known steps."""
        found = []
        given: tuple[Sequence[str | Path], ...] = (self.histories or (), [self.config.labelled])
        for files in (files for files in given if any(files)):
            with HistoryShards(*files) as shards:
                found.append(shards.checksum(self.agent_config.of_one_model))
        return " ".join(found)

    def splits(self) -> Splits:
        return split_tasks(self.env_id, self.config.split_seed, self.config.task_set)

    def with_pool(self, pool: int) -> Request:
        """This request with the pool that the stream has, so that a resumed run has the same one."""
        return replace(self, config=replace(self.config, pool=pool))


def own_histories(out: Path) -> Path:
    """File for the histories that a training collects first, next to its run folder."""
    folder = os.path.realpath(out)
    return Path(f"{folder}-histories.h5")


def _absolute(agent: Any) -> Any:
    """The absolute path of an agent's folder, links resolved; an id, or an object, as it is."""
    # os.path returns False where Path raises: too long names, unknown users
    if isinstance(agent, str) and os.path.isdir(folder := os.path.expanduser(agent)):  # noqa: PTH111, PTH112
        return os.path.realpath(folder)
    return agent


def read_expert(given: Any) -> Expert:
    """The expert of what a caller gives; a text that is no import path names an agent (`ICAgent.from_pretrained`)."""
    if isinstance(given, str) and given.startswith("<"):
        raise ValueError(
            f"the expert {printable(given)} was a Python object: give it again, as settings['{EXPERT_SETTING}']"
        )
    if isinstance(given, str) and not IMPORT_PATH.fullmatch(given):
        return as_expert(ICAgent.from_pretrained(given), given)
    return as_expert(given)


def _source(env_id: str, name: str, settings: dict[str, Any], expert: Expert | None) -> Source:
    """The source of fresh lifetimes; "" chooses one."""
    if expert is None and EXPERT in settings:  # of a resumed run
        expert = read_expert(settings[EXPERT])
    knobs = {name: value for name, value in settings.items() if name != EXPERT}
    source = make_source(name or choose_source(env_id, expert is not None).name, env_id, knobs)
    source.expert = expert
    return source


def _check_lifetimes(given: Mapping[str, Any], episodes: int, recorded: Sequence[Path], source: Source | None) -> None:
    """ValueError for `given` settings of lifetimes that are not made."""
    for path in recorded if "episodes" in given else ():
        with HistoryStore(path) as store:
            theirs = store.info.episodes
        if episodes != theirs:
            raise ValueError(f"episodes={episodes}, but {path.name} holds lifetimes of {theirs} episodes: leave it out")
    if "streams" in given and not (source and source.one_task):
        raise ValueError(
            f"streams={given['streams']} is for sources that learn one task at a time (ppo, sac): leave it out"
        )


def _check_variant(env_id: str, variant: str, fresh: bool) -> None:
    """ValueError unless `variant` has the spaces and tasks of `env_id`, and the training makes fresh lifetimes."""
    if not fresh:
        raise ValueError(f"variant={variant!r} is for fresh lifetimes, and these are recorded: leave it out")
    ours, theirs = find_family(env_id), find_family(variant)
    if any(space_to_json(a) != space_to_json(b) for a, b in zip(env_spaces(env_id), env_spaces(variant), strict=True)):
        raise ValueError(f"variant={variant!r} has other spaces than {env_id}: choose one with the same")
    if [ours.task_kwargs(i) for i in range(ours.num_tasks)] != [theirs.task_kwargs(i) for i in range(theirs.num_tasks)]:
        raise ValueError(f"variant={variant!r} has other tasks than {env_id}: choose one with the same")
