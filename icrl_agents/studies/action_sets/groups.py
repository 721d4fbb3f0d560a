"""Group agents by hyperparameters: entries of a report, each with its training seeds and a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from icrl_agents.core.splits import TRAIN
from icrl_agents.methods import METHODS, method_name
from icrl_agents.training.config import TrainConfig

# settings that name the variants of a method
ABLATED = ("task_set", "renumber", "votes", "vectors", "drawn", "objective", "prompt", "illegal", "similarity")
# settings that may differ between the training seeds of one entry
FREE = {"seed", "init", "precision", "threads", "micro_batch", "eval_every", "eval_episodes", "checkpoint_every"}


class Entry(NamedTuple):
    """Agents that differ in the training seed only."""

    name: str
    agents: tuple[str, ...]  # folders or names
    hyperparameters: dict[str, Any]


def hyperparameters(agent: Any) -> dict[str, Any]:
    """What agents must share to be training seeds of one entry."""
    train, method = _part(agent.facts, "train"), method_name(type(agent.method))
    known = {"method": method, **asdict(agent.config), **train, "source": agent.facts.get("source")}
    of_source = {f"source.{name}": v for name, v in _part(_part(agent.facts, "data"), "settings").items()}
    begun = {"begun": "with an agent"} if known.get("init") else {}
    return complete({name: value for name, value in known.items() if name not in FREE} | begun | of_source)


def complete(found: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of settings that are newer than the stored hyperparameters."""
    method = METHODS.get(found["method"])
    now = {**asdict(method.Config()), **(asdict(TrainConfig()) if "lr" in found else {})} if method else {}
    added = {name: value for name, value in now.items() if name not in FREE and name not in found}
    return {**found, **added}


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested dict of facts, {} if it is missing or of another type, as in foreign checkpoints."""
    return part if isinstance(part := facts.get(name), dict) else {}


def find_entries(agents: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Group agents (by path) into entries, named by the method and the differences from its first agent.

    Raises:
        ValueError: two agents have the same name and training seed.
    """
    found: dict[str, Entry] = {}
    seeds: dict[tuple[str, Any], str] = {}
    hyper = [hyperparameters(agent) for agent in agents.values()]
    for (path, agent), mine, name in zip(agents.items(), hyper, names_of(hyper), strict=True):
        entry = found.setdefault(name, Entry(name, (), mine))
        if isinstance(seed := _part(agent.facts, "train").get("seed"), int):
            twin = seeds.setdefault((name, seed), path)
            if twin != path:
                raise ValueError(f"{path} and {twin} are both {name!r} of training seed {seed}: give one of them")
        found[name] = entry._replace(agents=(*entry.agents, path))
    return tuple(found.values())


def names_of(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of agents by their hyperparameters; equal hyperparameters give equal names.

    A name is the method and the differences from its first agent: the settings in `ABLATED` if these are enough to
    distinguish the agents, else all.
    """
    firsts: dict[str, Mapping[str, Any]] = {}
    long, short = [], []
    for mine in found:
        first = firsts.setdefault(mine["method"], mine)
        if "task_set" in mine:
            first = {**first, "task_set": TRAIN}  # any other task set is part of the name
        changed = [name for name in {**first, **mine} if mine.get(name) != first.get(name)]
        long.append(_named(mine, changed))
        short.append(_named(mine, [name for name in changed if name in ABLATED] or changed))
    groups = {name: [mine for mine, other in zip(found, short, strict=True) if other == name] for name in short}
    clear = {name for name, group in groups.items() if all(mine == group[0] for mine in group)}
    return [brief if brief in clear else whole for brief, whole in zip(short, long, strict=True)]


def _named(mine: Mapping[str, Any], told: Sequence[str]) -> str:
    return mine["method"] + (f" ({', '.join(f'{name}={mine.get(name)}' for name in told)})" if told else "")
