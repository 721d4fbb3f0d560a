"""Options of a download from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Download(NamedTuple):
    """Options with the meaning of the same names in `huggingface_hub`."""

    revision: str | None = None  # branch, tag or commit; None for main
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
