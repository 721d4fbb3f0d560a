"""Codecs: how a value of a space becomes a vector, and a hidden vector a distribution over that space.

This is the only file of the package that asks for a space's type (house rule 8): `make_codec` picks the codec,
`space_to_json` and `space_from_json` write spaces into `config.json`. Axis letter: D width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from icrl_agents.action_sets import MAX_ACTIONS
from icrl_agents.arrays import stored, to_array
from icrl_agents.distributions import Categorical, Distribution, Gaussian, Independent
from icrl_agents.printable import printable


class Codec(nn.Module, ABC):
    """One space's translator.

    `embed(x)` (..., *shape) -> (..., D); `head(h)` (..., D) -> Distribution over the space.
    """

    def __init__(self, space: gymnasium.Space, width: int, predicts: bool):
        super().__init__()
        self.space, self.predicts = space, predicts

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The vectors (..., D) of values (..., *shape)."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Distribution:
        """The distribution over the space that each hidden vector (..., D) stands for."""

    def tensor(self, x: np.ndarray, device: torch.device) -> Tensor:
        """The array as a tensor of the type `embed` takes.

        Before a lifetime's first step the previous action is zero; where zero is not in the space, the nearest value.
        """
        if self.ends is not None:
            x = np.clip(x, *self.ends)
        return torch.as_tensor(x, dtype=self.dtype, device=device)

    def array(self, x: Tensor) -> np.ndarray:
        """What the head's distribution gave, as values of the space: `tensor` the other way round."""
        return x.cpu().numpy().astype(self.space.dtype, copy=False)

    options: int | None = 0  # how many actions 0, 1, ... there are, None for any number; 0 in other spaces
    dtype = torch.long
    ends: tuple[Any, ...] | None = None  # the lowest and highest value of a table that has none for zero

    def fit(self, x: Tensor) -> None:
        """Take the statistics of normalisation, where there are any, from data (..., *shape)."""

    def validate(self) -> None:
        """Refuse statistics that no data has; a ValueError if so. To be called on weights that were loaded."""

    def check(self, x: Any, rows: int | None, what: str) -> np.ndarray:
        """Give `x` as an array (rows, *shape), or (*shape) for rows None, of the space's type; refuse other values."""
        array = to_array(x, what)
        shape = tuple(self.space.shape or ())
        wanted = shape if rows is None else (rows, *shape)
        if array.shape != wanted:
            raise ValueError(f"{what} has shape {array.shape}, expected {wanted}: {_shape_hint(array, wanted, rows)}")
        array = stored(array, self.space.dtype or array.dtype, what)
        self.check_range(array, what)
        return array

    @abstractmethod
    def check_range(self, array: np.ndarray, what: str) -> None:
        """Refuse values outside the space; a ValueError that names them as `what`."""


def _shape_hint(array: np.ndarray, wanted: tuple[int, ...], rows: int | None) -> str:
    if rows is None and array.shape[1:] == wanted:
        return f"for a batch call reset(num_envs={array.shape[0]}) or reset(env) first"
    if rows is not None and array.shape == wanted[1:]:
        return "for single environments call reset() without num_envs first"
    return "is this the environment the agent was trained on?"


class DiscreteCodec(Codec):
    """One learned vector for each value."""

    def __init__(self, space: spaces.Discrete, width: int, predicts: bool):
        super().__init__(space, width, predicts)
        self.start, self.count = int(space.start), int(space.n)
        if self.start == 0:
            self.options = self.count
        if not self.start <= 0 < self.start + self.count:
            self.ends = self.start, self.start + self.count - 1
        self.table = nn.Embedding(self.count, width)
        if predicts:
            self.logits = nn.Linear(width, self.count)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    def embed(self, x: Tensor) -> Tensor:
        return self.table(x - self.start if self.start else x)

    def head(self, hidden: Tensor) -> Categorical:
        return Categorical(self.logits(hidden), self.start)

    def check_range(self, array: np.ndarray, what: str) -> None:
        low, high = self.start, self.start + self.count - 1
        if array.size and (array.min() < low or array.max() > high):
            raise ValueError(
                f"{what} {printable(array)} is outside {low}..{high}: is this the env the agent was trained on?"
            )


class ActionVectors(Codec):
    """Actions 0, 1, ..., however many, told by vectors (K,) of which each lifetime has its own.

    `embed` and `head` are about vectors, all else is about actions: no action has anything that is learned.
    """

    options = None

    def __init__(self, space: gymnasium.Space, width: int, size: int):
        super().__init__(space, width, predicts=True)
        if not self.fits(space):
            raise ValueError(
                f"actions described by vectors are a Discrete(n) from 0 on, n at most {MAX_ACTIONS}, "
                f"the space is {printable(space)}: choose another method"
            )
        self.count = int(space.n)  # type: ignore[attr-defined]
        self.input, self.output = nn.Linear(size, width, bias=False), nn.Linear(width, size)
        nn.init.normal_(self.input.weight, std=EMBEDDING_STD)

    @staticmethod
    def fits(space: gymnasium.Space) -> bool:
        return isinstance(space, spaces.Discrete) and space.start == 0 and space.n <= MAX_ACTIONS

    def embed(self, x: Tensor) -> Tensor:
        return self.input(x)

    def head(self, hidden: Tensor) -> Gaussian:
        mean = self.output(hidden)  # (..., K)
        bound = mean.new_tensor(torch.inf)
        return Gaussian(mean, torch.zeros_like(mean), -bound, bound, dims=1)

    def check_range(self, array: np.ndarray, what: str) -> None:
        if array.size and array.min() < 0:
            raise ValueError(f"{what} {printable(array)} is below 0: actions are 0, 1, ...")


class IntegerVectorCodec(Codec):
    """One table for each dimension, summed: a cell seen in no history is still a known row and a known column.

    A single embedding for each cell does not generalise to held-out goals.
    """

    shift: Tensor

    def __init__(self, space: gymnasium.Space, width: int, predicts: bool):
        super().__init__(space, width, predicts)
        self.low, self.high = _integer_bounds(space)
        self.shape = tuple(space.shape or ())
        if ((self.low > 0) | (self.high < 0)).any():
            self.ends = tuple(end.reshape(self.shape).astype(space.dtype) for end in (self.low, self.high))
        sizes = self.high - self.low + 1
        shift = np.cumsum(sizes) - sizes - self.low  # where each dimension's table begins in the common one
        self.register_buffer("shift", torch.as_tensor(shift), persistent=False)
        self.table = nn.Embedding(int(sizes.sum()), width)
        self.logits = nn.ModuleList(nn.Linear(width, int(n)) for n in sizes if predicts)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)

    def embed(self, x: Tensor) -> Tensor:
        return self.table(x.flatten(-len(self.shape)) + self.shift).sum(-2)

    def head(self, hidden: Tensor) -> Independent:
        parts = [Categorical(f(hidden), int(low)) for f, low in zip(self.logits, self.low, strict=True)]
        return Independent(parts, self.shape)

    def check_range(self, array: np.ndarray, what: str) -> None:
        flat = array.reshape(-1, len(self.low))
        if ((flat < self.low) | (flat > self.high)).any():
            raise ValueError(
                f"{what} {printable(array)} is outside {printable(self.low)}..{printable(self.high)}: "
                "is this the env the agent was trained on?"
            )


class BoxCodec(Codec):
    """A linear map of real vectors, normalised with statistics that are saved with the weights."""

    dtype = torch.float32
    space: spaces.Box
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    moments = 2  # the head gives a mean and a spread for each entry

    def __init__(self, space: spaces.Box, width: int, predicts: bool, embeds: bool = True):
        super().__init__(space, width, predicts)
        size, self.dims = math.prod(space.shape), len(space.shape)
        if embeds:
            self.linear = nn.Linear(size, width)
        if predicts:
            self.outputs = nn.Linear(width, self.moments * size)
        self.register_buffer("mean", torch.zeros(space.shape))
        self.register_buffer("std", torch.ones(space.shape))
        self.limits = _with_tolerance(space)
        self.register_buffer("low", torch.as_tensor(space.low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high, dtype=torch.float32), persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        unit = (x - self.mean) / self.std
        return self.linear(unit.flatten(-self.dims) if self.dims else unit[..., None])

    def head(self, hidden: Tensor) -> Gaussian:
        mean, log_std = self.outputs(hidden).unflatten(-1, (2, -1)).unbind(-2)
        shape = (*hidden.shape[:-1], *self.mean.shape)
        mean, log_std = mean.reshape(shape), log_std.reshape(shape).clamp(-8, 4)
        return Gaussian(mean * self.std + self.mean, log_std + self.std.log(), self.low, self.high, self.dims)

    def check_range(self, array: np.ndarray, what: str) -> None:
        check_finite(array, what)
        if (array < self.limits[0]).any() or (array > self.limits[1]).any():
            raise ValueError(f"{what} {printable(array)} is outside its Box: is this the env the agent was trained on?")

    def array(self, x: Tensor) -> np.ndarray:
        """Clipped once more: the head's bounds are float32, which may lie outside those of a float64 space."""
        return np.clip(super().array(x), self.space.low, self.space.high)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set mean and std from data (..., *shape); an entry that never changes keeps its unit."""
        data = x.double().reshape(-1, *self.mean.shape)
        mean, std = data.mean(0), data.std(0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(std < MIN_SPREAD * mean.abs().clamp_min(1), 1))

    def validate(self) -> None:
        if not (self.mean.isfinite() & self.std.isfinite() & (self.std > 0)).all():
            raise ValueError(
                f"the normalisation of {printable(self.space, 60)} has std {printable(self.std.numpy(force=True))} and "
                f"mean {printable(self.mean.numpy(force=True))}, "
                "expected finite numbers and std > 0: the checkpoint is damaged"
            )


def check_finite(array: np.ndarray, what: str) -> None:
    """Refuse what is not finite in the float32 of the model."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32, copy=False))
    if not finite.all():
        value = array[~finite].flat[0]
        kind = "a number beyond float32" if np.isfinite(value) else "NaN or infinity"
        raise ValueError(f"{what} holds {kind}: {value}; the environment returned a broken value")


def _with_tolerance(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The space's own bounds, let out by what values lose that an env computes in float32."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(over="ignore"):  # beyond the largest float there is infinity, which is no bound
        return low - 1e-6 * np.maximum(1, abs(low)), high + 1e-6 * np.maximum(1, abs(high))


class RewardCodec(BoxCodec):
    """Rewards are real numbers without bounds; the spread of the head is fixed, so its NLL is a squared error."""

    moments = 1

    def __init__(self, width: int, predicts: bool):
        super().__init__(spaces.Box(-np.inf, np.inf, (), np.float32), width, predicts)

    def embed(self, x: Tensor) -> Tensor:
        return self.linear(x[..., None])

    def head(self, hidden: Tensor) -> Gaussian:
        mean = self.outputs(hidden)[..., 0]
        return Gaussian(mean, torch.zeros_like(mean), self.low, self.high, dims=0)

    def check_range(self, array: np.ndarray, what: str) -> None:
        check_finite(array, what)

    def fit(self, x: Tensor) -> None:
        """Nothing: rewards keep their unit, because their scale is part of the task."""


class ReturnCodec(BoxCodec):
    """Sums of rewards in units of their own spread, so that the NLL is a squared error here, too."""

    moments = 1

    def __init__(self, width: int, predicts: bool = True, embeds: bool = True):
        super().__init__(spaces.Box(-np.inf, np.inf, (), np.float32), width, predicts, embeds)

    def head(self, hidden: Tensor) -> Gaussian:
        mean = self.outputs(hidden)[..., 0]
        return Gaussian(mean * self.std + self.mean, self.std.log().expand_as(mean), self.low, self.high, dims=0)


MIN_SPREAD = 1e-6  # relative; float32 cannot tell smaller changes from rounding
EMBEDDING_STD = 0.5  # summed tables of unit scale would drown the residual stream of a narrow model


def make_codec(space: gymnasium.Space, width: int, predicts: bool = True) -> Codec:
    """The codec for `space` with vectors of `width`; only with `predicts` has it a head.

    Raises:
        ValueError: the space has no codec; the message lists those that have.
    """
    if isinstance(space, spaces.Discrete):
        return DiscreteCodec(space, width, predicts)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) or _is_integer_box(space):
        return IntegerVectorCodec(space, width, predicts)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return BoxCodec(space, width, predicts)
    raise ValueError(
        f"no codec for {printable(space)}: use Discrete, MultiDiscrete, MultiBinary or a bounded int or a float Box"
    )


def _is_integer_box(space: gymnasium.Space) -> bool:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.integer) or not space.shape:
        return False
    bounds = list(zip(space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist(), strict=True))  # Python's ints
    small = all(abs(low) < MAX_START and high - low < MAX_INTEGERS for low, high in bounds)
    return small and 0 < len(bounds) <= 64


MAX_START = 1 << 62  # sums with a value of at most this size fit into int64
MAX_INTEGERS = 4096  # values a dimension may have before one vector for each stops making sense


def _integer_bounds(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(space, spaces.Box):
        return space.low.reshape(-1).astype(np.int64), space.high.reshape(-1).astype(np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        low = np.asarray(space.start, np.int64).reshape(-1)
        return low, low + np.asarray(space.nvec, np.int64).reshape(-1) - 1
    size = math.prod(space.shape or ())
    return np.zeros(size, np.int64), np.ones(size, np.int64)


def space_to_json(space: gymnasium.Space) -> dict[str, Any]:
    """A plain-JSON description from which `space_from_json` builds an equal space."""
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise ValueError(f"cannot write {printable(space)} as JSON: use Discrete, MultiDiscrete, MultiBinary or Box")


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number when all entries agree; infinities as strings, which strict JSON can hold."""
    values = [str(v) if isinstance(v, float) and math.isinf(v) else v for v in bound.reshape(-1).tolist()]
    return values[0] if len(set(values)) == 1 else values


MAX_SPACE_SIZE = 1 << 20


def space_from_json(data: Any) -> gymnasium.Space:
    """Build the space that `space_to_json` described.

    Raises:
        ValueError: anything but such a description, including sizes no agent has.
    """
    try:
        return _BUILDERS[data["type"]](data)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{printable(data, 120)} does not describe a space ({printable(error)}): use one of {sorted(_BUILDERS)}"
        ) from None


def _box_from_json(data: dict[str, Any]) -> spaces.Box:
    dtype, shape = np.dtype(data["dtype"]), tuple(int(n) for n in data["shape"])
    if math.prod(shape) > MAX_SPACE_SIZE or any(n < 0 for n in shape) or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"shape {printable(shape)} or dtype {printable(dtype)} is not allowed")
    exact = dtype if dtype.kind in "iu" else np.dtype(float)  # int64 does not fit into a float
    low, high = (np.broadcast_to(np.asarray(data[k], exact), math.prod(shape)).reshape(shape) for k in ("low", "high"))
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)


def _bounded(count: Any) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MAX_SPACE_SIZE:
        raise ValueError(f"a size of {printable(count)} is not an integer from 1 to {MAX_SPACE_SIZE}")
    return count


MAX_ENTRIES = 4096  # of an integer vector: each has a head of its own, and a line of JSON can ask for a million


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
