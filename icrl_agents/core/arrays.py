"""Conversion of caller values to NumPy arrays; casts that would change a value are refused. Digests of arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from icrl_agents.core.printable import printable


def to_array(value: Any, what: str) -> np.ndarray:
    """NumPy array of `value`, which may be a tensor on any device, detached from its graph.

    Args:
        what: name of the value in error messages.

    Raises:
        ValueError: not an array of numbers (None, text or ragged), or a masked array with masked entries.
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value  # NumPy has no bfloat16
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        why = printable(error, 120)
        raise ValueError(f"{what} is a {type(value).__name__}, expected an array of numbers: {why}") from None
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{what} is {printable(value)}, expected an array of numbers: check the env")
    if np.ma.is_masked(value):
        raise ValueError(f"{what} is a masked array with masked entries: fill them first")
    return array


def stored(array: np.ndarray, dtype: Any, what: str) -> np.ndarray:
    """`array` cast to `dtype`, the type in which it is stored.

    Raises:
        ValueError: the dtypes are of different kinds, or a value does not fit into `dtype`.
    """
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"{what} has dtype {array.dtype}, expected {dtype}: convert it, or check the env")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    changed = cast != array if cast.dtype.kind in "biu" else np.isfinite(array) & ~np.isfinite(cast)
    if changed.any():
        raise ValueError(
            f"{what} holds {array[changed].flat[0]}, more than {np.dtype(dtype)} can hold: scale it, or check the env"
        )
    return cast


def check_finite(array: np.ndarray, what: str) -> None:
    """Refuse (ValueError) values that are not finite as float32, the type of the model."""
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32, copy=False))
    if not finite.all():
        value = array[~finite].flat[0]
        kind = "a number beyond float32" if np.isfinite(value) else "NaN or infinity"
        raise ValueError(f"{what} holds {kind}: {value}; the environment returned a broken value")


def under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of the names, dtypes, shapes and values of arrays or tensors, in any order."""
    total = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        array = np.ascontiguousarray(to_array(value, name))
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()
