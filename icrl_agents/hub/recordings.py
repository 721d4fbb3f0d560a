"""The note in a recording of an agent, `episodes.gif`: the caption of the card."""

from __future__ import annotations

from pathlib import Path

from icrl_agents.core.files.strict_json import require_file

HEAD = 1 << 16  # bytes at the start of a GIF that may hold its comment
KINDS = (b"GIF87a", b"GIF89a")
TABLE, EXTENSION, COMMENT = 13, 0x21, 0xFE  # place of the colour table; first byte of a block; its kind


def read_note(path: Path) -> str:
    """The comment before the first frame of a GIF; "" without one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no GIF.
    """
    require_file(path)
    with path.open("rb") as file:
        data = file.read(HEAD)
    if data[:6] not in KINDS or len(data) < TABLE:
        raise ValueError(f"{path} is no GIF: record it again, icrl-agents play AGENT --record {path.name}")
    size, has_table = 3 << ((data[10] & 7) + 1), data[10] & 0x80
    try:
        return _comment(data, TABLE + (size if has_table else 0)).decode("utf-8", "replace")
    except IndexError:  # cut short, or a larger comment than `HEAD`
        return ""


def _comment(data: bytes, at: int) -> bytes:
    """Content of the first comment among the extension blocks that begin at `at`; each is a list of parts."""
    while data[at] == EXTENSION:
        kind, at, parts = data[at + 1], at + 2, b""
        while size := data[at]:
            parts += data[at + 1 : at + 1 + size]
            at += 1 + size
        at += 1
        if kind == COMMENT:
            return parts
    return b""
