"""Untrusted text in error messages, as one short line of printable characters."""

from __future__ import annotations

from typing import Any

import numpy as np


def printable(value: Any, most: int = 80) -> str:
    """Text of `value` with up to `most` characters; unprintable characters are escaped.

    Large arrays are cut to their first entries. Line breaks become spaces, except in strings, where they are escaped.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= most else value.ravel()[:most].tolist()
    text = value if isinstance(value, str) else " ".join(str(value).split())
    escaped = "".join(map(_escaped, text[: most + 1]))
    return escaped if len(escaped) <= most else escaped[: most - 3] + "..."


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
