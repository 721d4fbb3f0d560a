"""Packages that only some users need."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module, metadata
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


@cache
def versions() -> dict[str, str]:
    """What a result depends on besides the settings."""
    names = ("icrl-agents", "torch", "numpy", "gymnasium", "accelerate")
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "uninstalled"
    return found
