"""Header of a safetensors file: read and checked before any tensor is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from icrl_agents.core.files.strict_json import GET_AGAIN, parse_object
from icrl_agents.core.printable import printable

MAX_HEADER_BYTES = 1 << 22  # safetensors header; about 100 bytes per tensor
MAX_WEIGHTS_BYTES = 1 << 32  # 10^9 float32 weights, which uploads and downloads hold in memory
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    **{torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64"},
}
METADATA = "__metadata__"  # key of a safetensors header
SIZES = {name: dtype.itemsize for dtype, name in DTYPES.items()}


class Kind(NamedTuple):
    """Dtype and shape of one tensor, as in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return SIZES[self.dtype] * math.prod(self.shape)


def read_header(path: Path, fix: str = GET_AGAIN) -> dict[str, Kind]:
    """Names, dtypes and shapes of the tensors in a safetensors file, without reading the tensors.

    Raises:
        ValueError: more than `MAX_WEIGHTS_BYTES`, a damaged header, or tensors that do not fill the file exactly; the
            message ends with `fix`.
    """
    entries, size = _read_entries(path, fix)
    try:
        kinds = {name: _described(entry) for name, entry in entries.items() if name != METADATA}
        if (wanted := sum(kind.nbytes for kind in kinds.values())) != size:
            raise ValueError(f"its tensors take {printable(wanted)} bytes, there are {size}")
    except ValueError as error:
        raise damaged(path, error, fix) from None
    return kinds


def count_weights(path: Path) -> int:
    """Number of weights in a safetensors file; ValueError as in `read_header`."""
    return sum(math.prod(kind.shape) for kind in read_header(path).values())


def read_metadata(path: Path, fix: str = GET_AGAIN) -> Any:
    """Metadata of a safetensors file, unchecked; ValueError as in `read_header`."""
    return _read_entries(path, fix)[0].get(METADATA)


def _read_entries(path: Path, fix: str) -> tuple[dict[str, Any], int]:
    """JSON object of the header, and number of bytes after it."""
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise ValueError(f"{path} has {size} bytes, at most {MAX_WEIGHTS_BYTES} are read: is this an agent's weights?")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"{path} is not a whole safetensors file ({size} bytes): {fix}")
        text = file.read(length)
    try:
        return parse_object(text), size - 8 - length
    except ValueError as error:
        raise damaged(path, error, fix) from None


def _described(entry: Any) -> Kind:
    try:
        kind = Kind(entry["dtype"], tuple(entry["shape"]))
    except (KeyError, TypeError):
        raise ValueError(f"a tensor is described as {printable(entry)}") from None
    whole = all(type(count) is int and count >= 0 for count in kind.shape)
    if not whole or not isinstance(kind.dtype, str) or kind.dtype not in SIZES:
        raise ValueError(f"a tensor is of dtype {printable(kind.dtype)} and shape {printable(kind.shape)}")
    return kind


def damaged(path: Path, error: Exception, fix: str = GET_AGAIN) -> ValueError:
    return ValueError(f"{path} is damaged ({printable(error, 160)}): {fix}")
