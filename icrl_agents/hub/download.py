"""The options of a download from a Hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Download(NamedTuple):
    """As in `huggingface_hub`."""

    revision: str | None = None  # a branch, tag or commit; None: main
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
