"""Gymnasium spaces to and from plain JSON, validated on reading because configs and stores are untrusted files.

Besides `nn.codecs`, only this file checks the type of a space.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeGuard

import gymnasium
import numpy as np
from gymnasium import spaces

from icrl_agents.core.printable import printable

MAX_START = 1 << 62  # the sum of two values up to this size fits into int64


def num_actions(space: gymnasium.Space) -> int:
    """Number n of actions in Discrete(n) with start 0; 0 for every other space."""
    return int(space.n) if isinstance(space, spaces.Discrete) and space.start == 0 else 0


class BoxRange(NamedTuple):
    """Bounds of a float Box, and a scale of its values; each (*shape)."""

    low: np.ndarray  # -inf without a bound
    high: np.ndarray  # inf without a bound
    centre: np.ndarray  # middle of the range; one unit from a single bound, 0 without bounds
    unit: np.ndarray  # half of the range; 1 where a bound is missing


def box_range(space: gymnasium.Space) -> BoxRange | None:
    """Range of a Box of floats; None for every other space."""
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return None
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    unit = np.where(bounded, np.where(bounded, high, 1.0) / 2 - np.where(bounded, low, -1.0) / 2, 1.0)
    nearest = np.where(np.isfinite(low), low + unit, np.where(np.isfinite(high), high - unit, 0.0))
    return BoxRange(low, high, nearest, unit)


def value_range(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value (*shape) of a space.

    Those of a float Box are float64, relaxed by the rounding error of environments that compute in float32.

    Raises:
        ValueError: the space is not Discrete, MultiDiscrete, MultiBinary or Box.
    """
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{printable(space)} is no array of numbers: {as_one_array(space)}")
    if not np.issubdtype(space.dtype, np.floating):
        return space.low, space.high
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(over="ignore"):  # an overflow gives infinity, which means no bound
        return low - 1e-6 * np.maximum(1, abs(low)), high + 1e-6 * np.maximum(1, abs(high))


def as_one_array(space: gymnasium.Space) -> str:
    """Advice for a space that is not Discrete, MultiDiscrete, MultiBinary or Box."""
    if isinstance(space, spaces.Dict | spaces.Tuple) and space.is_np_flattenable:
        return "flatten observations by icrl_envs.flat_env(env), make actions one array by a gymnasium.ActionWrapper"
    return "make it one array, such as a Box, by a gymnasium.ObservationWrapper or ActionWrapper"


MAX_INTEGERS = 4096  # values of one dimension, each with its own embedding
MAX_TABLES = 64  # dimensions, each with its own values


def is_box(space: gymnasium.Space) -> TypeGuard[spaces.Box]:
    """Whether a space is a Box."""
    return isinstance(space, spaces.Box)


def is_integer_box(space: gymnasium.Space) -> TypeGuard[spaces.Box]:
    """Whether a space is a bounded integer Box, small enough for one embedding per value."""
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.integer) or not space.shape:
        return False
    bounds = list(zip(space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist(), strict=True))  # Python's ints
    small = all(abs(low) < MAX_START and high - low < MAX_INTEGERS for low, high in bounds)
    return small and 0 < len(bounds) <= MAX_TABLES


def is_image_box(space: gymnasium.Space) -> TypeGuard[spaces.Box]:
    """Whether a space is a Box of bytes with two or three axes, too large for one embedding per value."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return not is_integer_box(space)


def check_coded(space: gymnasium.Space) -> None:
    """Refuse (ValueError) a space that has no codec, so that no agent reads its values or acts in it."""
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box):
        raise ValueError(f"no codec for {printable(space)}: {as_one_array(space)}")
    if not isinstance(space, spaces.Box) or is_integer_box(space) or is_image_box(space):
        return
    if not np.issubdtype(space.dtype, np.floating) or 0 in space.shape:
        raise ValueError(
            f"no codec for {printable(space)}: use Discrete, MultiDiscrete, MultiBinary, an image of bytes (uint8), a "
            f"Box of floats, or one of up to {MAX_TABLES} ints with up to {MAX_INTEGERS} values each"
        )


def channels_last(images: spaces.Box) -> bool:
    """Whether the last axis of images has the channels: the shorter one of the first and the last axis."""
    return len(images.shape) == 3 and images.shape[2] < images.shape[0]


def pixel_range(images: spaces.Box) -> tuple[int, int]:
    """Lowest pixel of a space of images, and the number of steps from there to the highest one."""
    low, high = int(images.low.min()), int(images.high.max())
    return low, max(1, high - low)


def space_to_json(space: gymnasium.Space) -> dict[str, Any]:
    """JSON description of a space, the inverse of `space_from_json`.

    Raises:
        ValueError: the space is not Discrete, MultiDiscrete, MultiBinary or Box, or `space_from_json` would refuse it.
    """
    found = _described(space)
    try:
        _BUILDERS[found["type"]](found)
    except ValueError as error:
        fix = "use a Box of 1 to 2**20 ints or floats, or fewer values"
        raise ValueError(f"cannot write {printable(space)} as JSON ({printable(error)}): {fix}") from None
    return found


def _described(space: gymnasium.Space) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise ValueError(f"cannot write {printable(space)} as JSON: {as_one_array(space)}")


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where all entries are equal; infinities as strings, because strict JSON has none."""
    values = [str(v) if isinstance(v, float) and math.isinf(v) else v for v in bound.reshape(-1).tolist()]
    return values[0] if len(set(values)) == 1 else values


MAX_SPACE_SIZE = 1 << 20  # entries of a Box, values of an integer


def space_from_json(data: Any) -> gymnasium.Space:
    """Space of a JSON description written by `space_to_json`.

    Raises:
        ValueError: the description is malformed or exceeds the size limits of this file.
    """
    try:
        return _BUILDERS[data["type"]](data)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{printable(data, 120)} does not describe a space ({printable(error)}): use one of {sorted(_BUILDERS)}"
        ) from None


def _box_from_json(data: dict[str, Any]) -> spaces.Box:
    dtype, shape = np.dtype(data["dtype"]), tuple(int(n) for n in data["shape"])
    if math.prod(shape) > MAX_SPACE_SIZE or any(n < 1 for n in shape) or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"shape {printable(shape)} or dtype {printable(dtype)} is not allowed")
    exact = dtype if dtype.kind in "iu" else np.dtype(float)  # float64 cannot represent all of int64
    low, high = (np.broadcast_to(np.asarray(data[k], exact), math.prod(shape)).reshape(shape) for k in ("low", "high"))
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)


def _bounded(count: Any) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MAX_SPACE_SIZE:
        raise ValueError(f"a size of {printable(count)} is not an integer from 1 to {MAX_SPACE_SIZE}")
    return count


MAX_ENTRIES = 4096  # entries of an integer vector: each gets its own output head


def _starts(starts: Any) -> Any:
    if not all(isinstance(start, int) and abs(start) < MAX_START for start in np.ravel(np.asarray(starts, object))):
        raise ValueError(f"a start of {printable(starts)} is not an integer nearer to 0 than 2**62")
    return starts


def _sizes(counts: Any, entries: int) -> Any:
    if not 0 < entries <= MAX_ENTRIES:
        raise ValueError(f"a vector of {entries} entries, at most {MAX_ENTRIES}")
    for count in np.ravel(np.asarray(counts, object)).tolist():
        _bounded(count)
    return counts


_BUILDERS = {
    "Discrete": lambda d: spaces.Discrete(_bounded(d["n"]), start=int(_starts(d["start"]))),
    "MultiDiscrete": lambda d: spaces.MultiDiscrete(_sizes(d["nvec"], np.size(d["nvec"])), start=_starts(d["start"])),
    "MultiBinary": lambda d: spaces.MultiBinary(_sizes(d["n"], math.prod(np.ravel(d["n"]).tolist()))),
    "Box": _box_from_json,
}
