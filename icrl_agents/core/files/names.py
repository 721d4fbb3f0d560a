"""File names that are valid text, so that JSON, cards and terminals can show them."""

from __future__ import annotations

import os
import sys


def check_utf8(*names: str | os.PathLike[str]) -> None:
    """Refuse (ValueError) names with undecodable bytes, which Python represents as surrogates."""
    for name in names:
        text = os.fspath(name)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            encoding = sys.getfilesystemencoding()
            way = "rename it in UTF-8" if encoding == "utf-8" else "set PYTHONUTF8=1"
            raise ValueError(f"{text[-120:]!r} has bytes that are not {encoding}: {way}")
