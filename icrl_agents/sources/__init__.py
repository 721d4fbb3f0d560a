"""The learners that make histories; `SOURCES` is the registry that collecting, the commands and tests go through."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from icrl_agents.config import check_known
from icrl_agents.sources.source import Source

# Names of classes, not classes: some of them import a whole framework.
SOURCES: dict[str, str] = {
    "q-learning": "icrl_agents.sources.q_learning:QLearning",
    "posterior": "icrl_agents.sources.posterior:Posterior",
    "noise": "icrl_agents.sources.noise:Noise",
    "ppo": "icrl_agents.sources.sb3:PPOSource",
}


def find_source(name: str) -> type[Source]:
    """The class of a source.

    Raises:
        ValueError: there is no source of that name.
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


def make_source(name: str, env_id: str, settings: dict[str, Any] | None = None) -> Source:
    """A source as it is used for an environment, but for the given settings."""
    return find_source(name).make(env_id, settings)


def default_source(env_id: str) -> str:
    """The name of the source that suits an environment: posterior where its rules define a belief."""
    from icrl_envs import FAMILIES

    check_known([env_id], FAMILIES, "environment with a task set")
    return "posterior" if hasattr(FAMILIES[env_id].rules, "belief") else "q-learning"
