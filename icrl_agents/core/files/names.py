"""Names of files that can be written down: in JSON, on a card, at a terminal."""

from __future__ import annotations

import os
import sys


def check_utf8(*names: str | os.PathLike[str]) -> None:
    """Refuse (ValueError) a name with bytes that this process cannot read as text; Python keeps them as surrogates."""
    for name in names:
        text = os.fspath(name)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            encoding = sys.getfilesystemencoding()
            way = "rename it in UTF-8" if encoding == "utf-8" else "set PYTHONUTF8=1"
            raise ValueError(f"{text[-120:]!r} has bytes that are not {encoding}: {way}")
