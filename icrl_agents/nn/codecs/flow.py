"""Rectified-flow head of Box actions. Axis letters: N entries of an action, D width, I inner width, M draws."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.nn.codecs.box import BoxCodec, Units
from icrl_agents.nn.codecs.distributions import mode_and_samples
from icrl_agents.nn.numerics import computed_like

DRAWS = 4  # M, noise and times drawn for each action of a loss: the network is small, a transformer's output dear
STEPS = 8  # steps of Heun's method from noise to an action
DENSITY_STEPS = 32  # steps of Heun's method for a log-probability
SPREAD = 0.5  # standard deviation of normalised actions that the scales of the network are made for
FREQUENCIES = 4  # waves in the embedding of time: 1, 2, 4 and 8 half turns


class Flow:
    """Distribution of the actions that a velocity field carries normal noise to, in time 0..1; clipped to the space.

    Args:
        field: the velocity field at the hidden vectors of all leading indices.
        units: the normalisation, shape and bounds of the space.
    """

    caution = "deterministic=True starts the flow at zero noise every time: nothing is explored"

    def __init__(self, field: Field, units: Units):
        self.field, self.units = field, units

    def loss(self, value: Tensor, noise: Tensor | None = None) -> Tensor:
        """Half the squared error of the velocity, at random times and starts (Liu et al. 2022, eq. 1).

        On the line x_t = (1 - t) x_0 + t x_1 from noise x_0 to the action x_1 the velocity is x_1 - x_0.

        Args:
            noise: (..., M * (N + 1)) standard normal numbers; None: drawn by PyTorch's default generator.
        """
        action = self.units.flat(value)[..., None, :]  # (..., 1, N)
        if noise is None:
            noise = torch.randn((*action.shape[:-2], DRAWS * (self.units.size + 1)), dtype=torch.float32)
        draws = noise.to(action.device).unflatten(-1, (DRAWS, -1))  # (..., M, N + 1)
        start, share = draws[..., :-1], torch.special.ndtr(draws[..., -1:])  # ndtr of a normal number is uniform
        time = (share + torch.arange(DRAWS, device=action.device)[:, None]) / DRAWS  # one time in each quarter
        predicted = self.field.repeated().velocity(torch.lerp(start, action, time), self.field.network.moment(time))
        return 0.5 * ((predicted - (action - start)) ** 2).sum(-1).mean(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of noise at the start of the path to `value`, minus the path's divergence (Chen et al. 2018)."""
        x, step = self.units.flat(value), 1 / DENSITY_STEPS
        total = torch.zeros_like(x[..., 0])
        with computed_like(self.field.condition):
            for now, before in pairwise(reversed(self._moments(DENSITY_STEPS))):
                here, spread = self.field.with_divergence(x, now)
                there, other = self.field.with_divergence(x - step * here, before)
                x, total = x - 0.5 * step * (here + there), total + 0.5 * step * (spread + other)
        normal = (-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
        return normal - total - self.units.log_volume

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        size = (*self.field.condition.shape[:-1], self.units.size)
        device = self.field.condition.device
        return self._carried(torch.randn(size, generator=generator, dtype=torch.float32, device=device))

    def mode(self) -> Tensor:
        """The action that zero noise, its most probable value, is carried to."""
        size = (*self.field.condition.shape[:-1], self.units.size)
        return self._carried(torch.zeros(size, dtype=torch.float32, device=self.field.condition.device))

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mode()

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return mode_and_samples(self, count, generator)

    def _carried(self, x: Tensor) -> Tensor:
        """Actions (..., *shape) at the end of the paths that begin at `x` (..., N)."""
        step = 1 / STEPS
        with computed_like(self.field.condition):
            for now, after in pairwise(self._moments(STEPS)):
                here = self.field.velocity(x, now)
                there = self.field.velocity(x + step * here, after)
                x = x + 0.5 * step * (here + there)
        return self.units.value(x)

    def _moments(self, steps: int) -> list[Moment]:
        """`steps + 1` equally spaced times from 0 to 1."""
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float32, device=self.field.condition.device)
        return [Moment(*parts) for parts in zip(*self.field.network.moment(times[:, None]), strict=True)]


class Moment(NamedTuple):
    """A time, or several (...), as the network takes them."""

    waves: Tensor  # (..., I) projections of the time
    skip: Tensor  # (..., 1) share of x in the velocity
    inward: Tensor  # (..., 1) scale of x at the input
    outward: Tensor  # (..., 1) scale of the output


class Velocity(nn.Module):
    """Network of two hidden layers with the inputs x (N), time, and a hidden vector (D) of the transformer.

    The velocity is that of normal actions with the standard deviation `SPREAD`, linear in x, plus the network's output,
    with inputs and outputs scaled to unit variance at every time (Karras et al. 2022, arXiv 2206.00364, section 5, for
    straight lines). Two modes are learnt in a fraction of the updates.
    """

    def __init__(self, width: int, size: int):
        super().__init__()
        inner = 2 * width
        self.condition, self.time = nn.Linear(width, inner), nn.Linear(1 + 2 * FREQUENCIES, inner, bias=False)
        self.action, self.between = nn.Linear(size, inner, bias=False), nn.Linear(inner, inner)
        self.output = nn.Linear(inner, size)

    def forward(self, hidden: Tensor) -> Field:
        return Field(self, self.condition(hidden))

    def moment(self, time: Tensor) -> Moment:
        """Times (..., 1) as this network takes them."""
        turns = math.pi * time * 2.0 ** torch.arange(FREQUENCIES, dtype=torch.float32, device=time.device)
        waves = self.time(torch.cat([2 * time - 1, turns.sin(), turns.cos()], -1))
        variance = (time * SPREAD) ** 2 + (1 - time) ** 2  # of x at that time
        return Moment(waves, (time * SPREAD**2 - (1 - time)) / variance, variance.rsqrt(), SPREAD * variance.rsqrt())


class Field(NamedTuple):
    """Velocity field at given hidden vectors, whose projections are `condition` (..., I)."""

    network: Velocity
    condition: Tensor

    def repeated(self) -> Field:
        """The same field with a further leading axis, for several draws: condition (..., 1, I)."""
        return Field(self.network, self.condition[..., None, :])

    def velocity(self, x: Tensor, now: Moment) -> Tensor:
        """Velocities (..., N) at `x` (..., N)."""
        network = self.network
        first = self.condition + now.waves + network.action(x * now.inward)
        return now.skip * x + now.outward * network.output(F.silu(network.between(F.silu(first))))

    def with_divergence(self, x: Tensor, now: Moment) -> tuple[Tensor, Tensor]:
        """`velocity` and its divergence (...): the exact trace of its Jacobian.

        Written out by the chain rule, as acting runs in inference mode, without automatic differentiation.
        """
        network = self.network
        first = self.condition + now.waves + network.action(x * now.inward)  # (..., I)
        second = network.between(F.silu(first))
        tangents = _slope(first)[..., None] * network.action.weight  # (..., I, N): change of each unit with each entry
        tangents = _slope(second)[..., None] * (network.between.weight @ tangents)
        trace = now.inward[..., 0] * now.outward[..., 0] * (network.output.weight.T * tangents).sum((-1, -2))
        velocity = now.skip * x + now.outward * network.output(F.silu(second))
        return velocity, trace + now.skip[..., 0] * x.shape[-1]


def _slope(x: Tensor) -> Tensor:
    """Derivative of SiLU."""
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


class FlowCodec(BoxCodec):
    """Box codec with a rectified flow as its head (Liu et al. 2022, arXiv 2209.03003): any shape of distribution."""

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        return DRAWS * (self.size + 1)

    def make_outputs(self, width: int, size: int) -> nn.Module:
        return Velocity(width, size)

    def head(self, hidden: Tensor) -> Flow:  # type: ignore[override]
        return Flow(self.outputs(hidden), self.units)
