"""In-context reinforcement learning agents you can download.

Importing this registers the `icrl/*` environments; torch is imported when an agent is first made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import icrl_envs  # noqa: F401  registers the environments

if TYPE_CHECKING:
    from icrl_agents.agent import ICAgent
    from icrl_agents.collection import collect
    from icrl_agents.curves import Curve
    from icrl_agents.evaluation import evaluate
    from icrl_agents.history import HistoryStore, RecordHistory
    from icrl_agents.hub import list_pretrained
    from icrl_agents.methods import METHODS
    from icrl_agents.sources import SOURCES
    from icrl_agents.steps import Steps
    from icrl_agents.training import train

__version__ = "0.1.0"

_HOMES = {
    "ICAgent": "agent",
    "METHODS": "methods",
    "SOURCES": "sources",
    "Curve": "curves",
    "evaluate": "evaluation",
    "HistoryStore": "history",
    "RecordHistory": "history",
    "Steps": "steps",
    "collect": "collection",
    "list_pretrained": "hub",
    "train": "training",
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
