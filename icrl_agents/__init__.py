"""In-context reinforcement learning agents you can download.

Importing this registers the `icrl/*` environments; torch is imported when an agent is first made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import icrl_envs  # noqa: F401  registers the environments

from icrl_agents.core import __version__ as __version__

if TYPE_CHECKING:
    from icrl_agents.agents.agent import ICAgent
    from icrl_agents.core.steps import Steps
    from icrl_agents.evaluation.curves import Curve
    from icrl_agents.evaluation.evaluate import evaluate
    from icrl_agents.histories.recorder import RecordHistory
    from icrl_agents.histories.store import HistoryStore
    from icrl_agents.hub.remote import list_pretrained
    from icrl_agents.methods import METHODS
    from icrl_agents.sources import SOURCES
    from icrl_agents.sources.collection import collect
    from icrl_agents.training.loop import train


_HOMES = {
    "ICAgent": "agents.agent",
    "METHODS": "methods",
    "SOURCES": "sources",
    "Curve": "evaluation.curves",
    "evaluate": "evaluation.evaluate",
    "HistoryStore": "histories.store",
    "RecordHistory": "histories.recorder",
    "Steps": "core.steps",
    "collect": "sources.collection",
    "list_pretrained": "hub.remote",
    "train": "training.loop",
}

__all__ = [
    "METHODS",
    "SOURCES",
    "Curve",
    "HistoryStore",
    "ICAgent",
    "RecordHistory",
    "Steps",
    "collect",
    "evaluate",
    "list_pretrained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
