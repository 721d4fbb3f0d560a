"""Values from outside as NumPy arrays of the type in which they are kept; what a cast would change is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from icrl_agents.core.printable import printable


def to_array(value: Any, what: str) -> np.ndarray:
    """`value` as an array; tensors of any device and type are read too, without their gradient.

    Raises:
        ValueError: it is no array of numbers (ragged, say), or hides some of them (a masked array).
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value  # which NumPy does not have
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        why = printable(error, 120)
        raise ValueError(f"{what} is a {type(value).__name__}, expected an array of numbers: {why}") from None
    if np.ma.is_masked(value):
        raise ValueError(f"{what} is a masked array with masked entries: fill them first")
    return array


def stored(array: np.ndarray, dtype: Any, what: str) -> np.ndarray:
    """`array` in the type in which it is kept.

    Raises:
        ValueError: the type is of another kind, or cannot hold one of the values.
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
