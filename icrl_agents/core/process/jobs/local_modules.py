"""The modules of a user that are installed nowhere, so that workers on other machines need a copy."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

OURS = {"icrl_agents", "icrl_envs"}  # installed on every machine
MAIN = {"__main__", "__mp_main__"}  # Ray sends what is defined here by value
INSTALLED = {"site-packages", "dist-packages"}


def local_modules() -> list[str]:
    """Paths (files and package folders) of the imported top-level modules that lie outside installed packages."""
    standard = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    found = set()
    for name in {name.partition(".")[0] for name in list(sys.modules)} - OURS - MAIN:
        path = _place(name)
        if path and not INSTALLED & set(path.parts) and not any(path.is_relative_to(place) for place in standard):
            found.add(str(path))
    return sorted(found)


def _place(name: str) -> Path | None:
    """The source of a top-level module: a folder for a package, a file for another; None without one."""
    module = sys.modules.get(name)
    folders = list(getattr(module, "__path__", ()))
    file = getattr(module, "__file__", None)
    place = Path(folders[0] if folders else file or "").resolve()
    return place if (folders and place.is_dir()) or (place.suffix == ".py" and place.is_file()) else None
