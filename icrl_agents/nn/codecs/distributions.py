"""Output distributions of codec heads, batched over all leading axes.

Not `torch.distributions`, which cannot sample from an explicit generator. Axis letters: N integers, A candidates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

TIE = 4.0  # an action as probable as the best one divided by this is as good: see `Categorical.best`


class Distribution(Protocol):
    """Distribution over values (*shape) of one space, for every leading index (...)."""

    caution: str  # what a user of `mode` should know before acting on it; "" if nothing

    def log_prob(self, value: Tensor) -> Tensor: ...  # (..., *shape) -> (...)

    def loss(self, value: Tensor, noise: Tensor | None = None) -> Tensor:
        """What training minimises (...) at values (..., *shape), given the `noise` (..., noise_size) of the codec."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...  # (..., *shape)

    def mode(self) -> Tensor: ...  # (..., *shape)

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        """The mode (..., *shape), or one of the values about as probable, drawn by `generator`."""

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Up to `count` values (..., A, *shape) for a search, and their log-probabilities (..., A)."""


class Likelihood(ABC):
    """Part shared by distributions with a tractable density: the loss is the negative log-likelihood."""

    caution = ""

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor: ...

    def loss(self, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return -self.log_prob(value)

    @abstractmethod
    def mode(self) -> Tensor: ...

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mode()


class Categorical(Likelihood):
    """Logits (..., N) over the integers start .. start + N - 1."""

    def __init__(self, logits: Tensor, start: int = 0):
        self.logits, self.start = logits.log_softmax(-1), start  # log-probabilities (..., N)

    def among(self, mask: Tensor) -> Categorical:
        """Distribution conditioned on the integers in `mask` (B, N) bool, for logits (B, ..., N)."""
        legal = mask.reshape(len(mask), *[1] * (self.logits.dim() - 2), -1)  # (B, 1, ..., N)
        return Categorical(self.logits.masked_fill(~legal, -math.inf), self.start)

    def tempered(self, temperature: float) -> Categorical:
        """Distribution with logits divided by `temperature`; below 1 probable integers become more so."""
        return self if temperature == 1 else Categorical(self.logits / temperature, self.start)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.logits.gather(-1, (value - self.start).unsqueeze(-1)).squeeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Exponential race: argmax of p / E with E ~ Exp(1) samples p; `multinomial` takes no more than two axes."""
        clock = torch.empty_like(self.logits).exponential_(generator=generator)  # (..., N)
        choice = (self.logits.exp() / clock).argmax(-1)
        return choice + self.start if self.start else choice

    def mode(self) -> Tensor:
        return self.logits.argmax(-1) + self.start

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        """A sample of the integers that are at least 1/TIE as probable as the mode.

        A policy that searches is a mixture over what has not been tried, whose mode is a tie: an agent that always
        takes the same side of it gets stuck.
        """
        tied = self.logits >= self.logits.amax(-1, keepdim=True) - math.log(TIE)
        return Categorical(self.logits.masked_fill(~tied, -math.inf), self.start).sample(generator)

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The `count` most probable integers; all of them in ascending order if there are no more."""
        if count < self.logits.shape[-1]:
            log_prob, choice = self.logits.topk(count, -1)
            return choice + self.start, log_prob
        every = torch.arange(self.logits.shape[-1], device=self.logits.device) + self.start
        return every.expand_as(self.logits), self.logits


class Independent(Likelihood):
    """Array of independent integers, one `Categorical` per entry; values have shape (..., *shape)."""

    def __init__(self, parts: list[Categorical], shape: tuple[int, ...]):
        self.parts, self.shape, self.dims = parts, shape, len(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.flatten(-len(self.shape))  # (..., entries)
        nothing = torch.zeros((), dtype=torch.float32, device=value.device)
        return sum((part.log_prob(flat[..., i]) for i, part in enumerate(self.parts)), nothing)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([part.sample(generator) for part in self.parts], -1).unflatten(-1, self.shape)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], -1).unflatten(-1, self.shape)

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([part.best(generator) for part in self.parts], -1).unflatten(-1, self.shape)

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return mode_and_samples(self, count, generator)


class Gaussian(Likelihood):
    """Diagonal normal distribution over the last `dims` axes; samples and mode are clipped to [low, high]."""

    caution = "deterministic=True takes the mean of the policy every time: nothing is explored"

    def __init__(self, mean: Tensor, log_std: Tensor, low: Tensor, high: Tensor, dims: int = 1):
        self.mean, self.log_std, self.low, self.high, self.dims = mean, log_std, low, high, dims

    def log_prob(self, value: Tensor) -> Tensor:
        score = (value - self.mean) * (-self.log_std).exp()
        each = -0.5 * score**2 - self.log_std - 0.5 * math.log(2 * math.pi)  # (..., *shape)
        return each.flatten(-self.dims).sum(-1) if self.dims else each

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        # the dtype is explicit: `randn` follows the default dtype of the process
        noise = torch.randn(self.mean.shape, generator=generator, dtype=torch.float32, device=self.mean.device)
        return self._clip(self.mean + self.log_std.exp() * noise)

    def mode(self) -> Tensor:
        return self._clip(self.mean)

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return mode_and_samples(self, count, generator)

    def _clip(self, value: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(value, self.high), self.low)


def mode_and_samples(
    distribution: Distribution, count: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Candidates of distributions too large to enumerate: the mode and `count - 1` samples."""
    values = [distribution.mode(), *(distribution.sample(generator) for _ in range(count - 1))]
    log_prob = torch.stack([distribution.log_prob(value) for value in values], -1)  # (..., A)
    return torch.stack(values, log_prob.dim() - 1), log_prob
