"""Location of the folders that ship with the package: released agents and recipes."""

from __future__ import annotations

from pathlib import Path


def bundled(name: str) -> Path:
    """Path of the bundled folder `name`: inside an installed package, at the repository root in a checkout."""
    package = Path(__file__).resolve().parents[2]
    checkout = package.parent
    if not (package / name).is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / name
    return package / name
