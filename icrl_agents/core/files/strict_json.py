"""Strict JSON for untrusted files: bounded size and depth, unique keys, finite numbers; the same rules on writing."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

from icrl_agents.core.printable import printable

MAX_JSON_BYTES = 1 << 20
MAX_DEPTH = 32  # levels; `json.loads` accepts deeper nesting than `json.dumps`
MAX_DIGITS = 20  # digits of an integer

GET_AGAIN = "it is damaged, get it again (from the Hub: force_download=True)"
NO_CHECKPOINT = "a checkpoint is a folder as save_pretrained writes it, with config.json and model.safetensors"


def read_json(
    path: Path, max_bytes: int = MAX_JSON_BYTES, fix: str = GET_AGAIN, missing: str = NO_CHECKPOINT
) -> dict[str, Any]:
    """JSON object of a file.

    Args:
        fix: advice at the end of the error on malformed content.
        missing: advice at the end of the error on a missing file.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: not a regular file, more than `max_bytes`, or not strict JSON.
    """
    require_file(path, missing)
    return parse_json(read_bounded(path, max_bytes), path, fix)


def read_bounded(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Content of a regular file with up to `max_bytes` bytes; ValueError for any other."""
    refuse_special(path)
    with path.open("rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes: no file of its kind is that large")
    return raw


def parse_json(raw: bytes, path: Path, fix: str = GET_AGAIN) -> dict[str, Any]:
    """JSON object in `raw`; errors name `path` and end with `fix`."""
    try:
        return parse_object(raw)
    except ValueError as error:
        raise ValueError(f"{path} is not strict JSON ({printable(error, 160)}): {fix}") from None


def parse_object(raw: bytes, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """JSON object in `raw` with up to `depth` levels; ValueError with the reason otherwise."""
    try:
        data = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
            object_pairs_hook=_unique,
        )
        _check_depth(data, depth)
        json.dumps(data, ensure_ascii=False).encode()  # fails on lone surrogates, which no UTF-8 file can hold
    except RecursionError:
        raise ValueError("nested deeper than files of this kind are") from None
    if not isinstance(data, dict):
        raise ValueError(f"it holds {printable(data)}, expected a JSON object")
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
        raise ValueError("nested deeper than files of this kind are")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_depth(child, left - 1)


def require_file(path: Path, missing: str = NO_CHECKPOINT) -> None:
    """Require a regular file; links are allowed (the Hub cache uses them), pipes and devices may block forever."""
    refuse_special(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}: {missing}")


def refuse_special(path: Path) -> None:
    """Refuse (ValueError) an existing path that is not a regular file."""
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(
            f"{path} is no regular file (a folder, a pipe, a device or a broken link): put the file itself there"
        )


def dump_json(data: dict[str, Any], path: Path) -> bytes:
    """UTF-8 bytes of `data` for the file `path`; ValueError for data that `read_json` would refuse."""
    try:
        text = json.dumps(data, indent=2, allow_nan=False) + "\n"
        parse_object(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        why = printable(error, 160)
        raise ValueError(f"cannot write {path} ({why}): give facts of plain, finite JSON values, in UTF-8") from None
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path} would have {len(text)} bytes, at most {MAX_JSON_BYTES}: shorten the facts")
    return text.encode()
