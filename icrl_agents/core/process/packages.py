"""Optional dependencies: imports with an install hint, and the versions of installed packages."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module, metadata
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """Import a module that the optional dependency group `extra` installs.

    Raises:
        ImportError: the module is missing; the message holds the pip command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:  # installed, but one of its own imports fails
            raise
        raise ImportError(f'{error.name} is not installed: pip install "icrl-agents[{extra}]"') from None


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence results."""
    names = ("icrl-agents", "torch", "numpy", "gymnasium", "accelerate")
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: version_of(name, "uninstalled") for name in names}}


def version_of(package: str, missing: str = "not installed") -> str:
    """Version of a package; `missing` without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return missing
