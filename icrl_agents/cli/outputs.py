"""What commands write: the checks before anything is measured, and results as a table or as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def check_folder(folder: Path | None, names: Iterable[str], overwrite: bool) -> Path | None:
    """A folder for files of these names, a figure among them, with `~` expanded; None if none was given.

    Raises:
        OSError: a file could not be written, or would be lost.
        ImportError: matplotlib, which draws the figure, is not installed.
    """
    from icrl_agents.evaluation.figure import require_matplotlib

    if folder is None:
        return None
    folder = folder.expanduser()
    for name in names:
        check_file(folder / name, overwrite)
    require_matplotlib()
    return folder


def check_file(path: Path | None, overwrite: bool) -> None:
    """Refuse, before anything is measured, a file that could not be written or that would be lost.

    Raises:
        OSError: a folder has that name, a file has it and is not to be replaced, or a file stands in the way.
    """
    if path is None:
        return
    path = path.expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: give --overwrite to replace it, or another name")
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise NotADirectoryError(f"{path} cannot be made, {above} is a file: name another")


def print_results(results: str, header: Sequence[str], rows: Iterable[Sequence[str]], as_json: bool) -> None:
    """Print results: the text of their JSON, or a table."""
    from icrl_agents.core.process.terminal import print_table

    print(results, end="") if as_json else print_table(header, rows)
