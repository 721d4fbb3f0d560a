"""Packages that only some users need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """Import a package of one of the extras.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:  # the package is there, but broken
            raise
        raise ImportError(f'{error.name} is not installed: pip install "icrl-agents[{extra}]"') from None
