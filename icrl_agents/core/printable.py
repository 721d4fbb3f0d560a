"""Foreign text in error messages: printable, on one line and short, whatever a file or a server put there."""

from __future__ import annotations

from typing import Any

import numpy as np


def printable(value: Any, most: int = 80) -> str:
    """`value` as text of at most `most` printable characters; what cannot be printed is escaped.

    Of large arrays the first entries are shown. Line breaks in the text of an array, a space or an error become spaces.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size <= most else value.ravel()[:most].tolist()
    text = value if isinstance(value, str) else " ".join(str(value).split())
    escaped = "".join(map(_escaped, text[: most + 1]))
    return escaped if len(escaped) <= most else escaped[: most - 3] + "..."


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
