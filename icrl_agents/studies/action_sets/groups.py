"""Which agents are training seeds of one entry of a report, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from icrl_agents.core.splits import TRAIN
from icrl_agents.methods import METHODS, method_name
from icrl_agents.training.config import TrainConfig

# what variants are named after, if they differ in it
ABLATED = ("task_set", "renumber", "votes", "vectors", "drawn", "objective", "prompt", "illegal", "similarity")
# what changes no training, or differs between the seeds of one
FREE = {"seed", "init", "precision", "threads", "micro_batch", "eval_every", "eval_episodes", "checkpoint_every"}


class Entry(NamedTuple):
    """Agents that differ in nothing but the training seed."""

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
    """Hyperparameters, completed by the defaults of settings that did not exist when they were noted."""
    method = METHODS.get(found["method"])
    now = {**asdict(method.Config()), **(asdict(TrainConfig()) if "lr" in found else {})} if method else {}
    added = {name: value for name, value in now.items() if name not in FREE and name not in found}
    return {**found, **added}


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of facts that may be foreign."""
    return part if isinstance(part := facts.get(name), dict) else {}


def find_entries(agents: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Sort agents into entries, which are named after the method and what sets them apart from its first agent.

    Raises:
        ValueError: two agents are one training.
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
    """What agents with these hyperparameters are called; those that have the same ones are called the same.

    After their method and what sets them apart from its first agent: if that can be told by an ablation alone, by
    that, else by all that differs.
    """
    firsts: dict[str, Mapping[str, Any]] = {}
    long, short = [], []
    for mine in found:
        first = firsts.setdefault(mine["method"], mine)
        if "task_set" in mine:
            first = {**first, "task_set": TRAIN}  # another one is always told
        changed = [name for name in {**first, **mine} if mine.get(name) != first.get(name)]
        long.append(_named(mine, changed))
        short.append(_named(mine, [name for name in changed if name in ABLATED] or changed))
    groups = {name: [mine for mine, other in zip(found, short, strict=True) if other == name] for name in short}
    clear = {name for name, group in groups.items() if all(mine == group[0] for mine in group)}
    return [brief if brief in clear else whole for brief, whole in zip(short, long, strict=True)]


def _named(mine: Mapping[str, Any], told: Sequence[str]) -> str:
    return mine["method"] + (f" ({', '.join(f'{name}={mine.get(name)}' for name in told)})" if told else "")
