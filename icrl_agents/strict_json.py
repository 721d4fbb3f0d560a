"""JSON from other people: bounded in size and depth, with unique keys and finite numbers, and written the same way."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 1 << 20
MAX_DEPTH = 32  # levels; JSON nested deeper than Python's stack could be read but not written again
MAX_DIGITS = 20


LOAD_AGAIN = "the checkpoint is damaged, load it again"


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES, fix: str = LOAD_AGAIN) -> dict[str, Any]:
    """The JSON object in a file; an error says how to `fix` what is in it.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a file of more than `max_bytes`, or not such JSON.
    """
    require_file(path)
    with path.open("rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes: no file of a checkpoint like it is that large")
    return parse_json(raw, path, fix)


def parse_json(raw: bytes, path: Path, fix: str = LOAD_AGAIN) -> dict[str, Any]:
    """The JSON object in the bytes of `path`, which is only named in errors."""
    try:
        data = _parse(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not strict JSON ({error}): {fix}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {str(data)[:80]!r}, expected a JSON object")
    return data


def _parse(raw: bytes) -> Any:
    data = json.loads(
        raw.decode("utf-8"),
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=_short,
        object_pairs_hook=_unique,
    )
    _check_depth(data, MAX_DEPTH)
    json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair could not be printed or written again
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:MAX_DIGITS]} is too large a number")
    return value


def _short(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError(f"a key twice in an object of {len(pairs)}")
    return data


def _check_depth(value: Any, left: int) -> None:
    if not left:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_depth(child, left - 1)


def require_file(path: Path) -> None:
    """Links are fine (the Hub's cache is made of them), what reads without end or blocks is not."""
    if path.is_file():
        return
    if os.path.lexists(path):
        raise ValueError(f"{path} is no regular file (a folder, a device or a broken link): put the file itself there")
    raise FileNotFoundError(
        f"{path.parent} has no {path.name}: a checkpoint is a folder as save_pretrained writes it, "
        "with config.json and model.safetensors"
    )


def dump_json(data: dict[str, Any], path: Path) -> bytes:
    """The text that goes into `path`; what `read_json` would refuse is refused here."""
    try:
        text = json.dumps(data, indent=2, allow_nan=False) + "\n"
        _parse(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot write {path} ({error}): give facts of plain, finite JSON values, in UTF-8") from None
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path} would have {len(text)} bytes, at most {MAX_JSON_BYTES}: shorten the facts")
    return text.encode()
