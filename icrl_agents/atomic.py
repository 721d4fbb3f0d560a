"""Files that appear whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace all of these files of a folder at once; one that fails or is killed leaves the old ones whole."""
    staged = {folder / name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        for (target, temporary), content in zip(staged.items(), contents.values(), strict=True):
            if target.is_dir():
                raise IsADirectoryError(f"{target} is a folder: move it away")
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for target, temporary in staged.items():
            temporary.replace(target)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace one file; its folder is made if it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_files(path.parent, {path.name: text.encode()})
