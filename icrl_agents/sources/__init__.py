"""Registry of sources, the learners that generate histories: `SOURCES` maps a name to a class."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from icrl_agents.core.checks import check_known
from icrl_agents.core.families import find_family, is_family
from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn
from icrl_agents.core.rollout import AGENT, Learner
from icrl_agents.sources.choice import Choice, choose_source, default_source
from icrl_agents.sources.own import OwnLifetimes
from icrl_agents.sources.source import Source

__all__ = ["SOURCES", "Choice", "choose_source", "default_source", "find_source", "make_source", "source_name"]

# Import paths instead of classes: "ppo" imports Stable-Baselines3.
SOURCES: dict[str, str] = {
    "q-learning": "icrl_agents.sources.tables.q_learning:QLearning",
    "psrl": "icrl_agents.sources.tables.psrl:PSRL",
    "posterior": "icrl_agents.sources.posterior:Posterior",
    "thompson": "icrl_agents.sources.bandits.thompson:Thompson",
    "gaussian-thompson": "icrl_agents.sources.bandits.thompson:GaussianThompson",
    "bayes-ucb": "icrl_agents.sources.bandits.bayes_ucb:BayesUCB",
    "gittins": "icrl_agents.sources.bandits.gittins:Gittins",
    "ucb": "icrl_agents.sources.bandits.counts:UCB",
    "linucb": "icrl_agents.sources.bandits.linucb:LinUCB",
    "epsilon-greedy": "icrl_agents.sources.bandits.counts:EpsilonGreedy",
    "uniform": "icrl_agents.sources.uniform:Uniform",
    "noise": "icrl_agents.sources.noise:Noise",
    "wrong-goal": "icrl_agents.sources.wrong_goal:WrongGoal",
    "ppo": "icrl_agents.sources.sb3:PPOSource",
    "sac": "icrl_agents.sources.sb3:SACSource",
}


def find_source(name: str) -> type[Source]:
    """The class of a registered source.

    Raises:
        ValueError: unknown name.
        ImportError: the source needs a package that is not installed; the message says how to install it.
    """
    check_known([name], SOURCES, "source")
    module, cls = SOURCES[name].split(":")
    try:
        return getattr(import_module(module), cls)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("icrl_agents"):
            raise
        raise ImportError(f'source {name!r} needs {error.name}: pip install "icrl-agents[train]"') from None


def source_name(source: Source) -> str | None:
    """The name of a source in `SOURCES`, or that of own lifetimes; None for a learner that is not registered."""
    if isinstance(source, OwnLifetimes):
        return AGENT
    place = f"{type(source).__module__}:{type(source).__name__}"
    return {place: name for name, place in SOURCES.items()}.get(place)


def make_source(name: str | Learner, env_id: str, settings: dict[str, Any] | None = None) -> Source:
    """A source with its presets for an environment, overridden by `settings`; warns if its assumption is wrong.

    Args:
        name: a name in `SOURCES`, or an agent, whose own lifetimes are the histories.
    """
    if not isinstance(name, str):
        if settings:
            raise ValueError(
                f"settings={printable(settings)} are for a named source, an agent has none: leave them out"
            )
        return OwnLifetimes(name)
    source = find_source(name)
    if source.needs_bandit and is_family(env_id) and not find_family(env_id).bandit:
        suits = default_source(env_id)
        warn(f"source {name!r} is for bandits, {env_id} is not one, so it learns little there: use {suits!r}")
    return source.make(env_id, settings)
