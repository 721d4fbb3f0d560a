"""Distributions over actions that come from latent actions, and those that always take the mode.

Axis letters: K codes, A candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from icrl_agents.nn.codecs.distributions import Categorical, Distribution, Likelihood, mode_and_samples


class CodeMixture(Likelihood):
    """Mixture over codes (..., K) of a distribution over actions for each, with the leading axes (..., K)."""

    caution = ""

    def __init__(self, codes: Categorical, actions: Distribution):
        self.codes, self.actions = codes, actions

    def log_prob(self, value: Tensor) -> Tensor:
        dims = value.dim() - self.codes.logits.dim() + 1  # of one action
        each = value.unsqueeze(value.dim() - dims)  # (..., 1, *shape)
        repeated = each.expand(*self.codes.logits.shape, *value.shape[value.dim() - dims :])
        return (self.codes.logits + self.actions.log_prob(repeated)).logsumexp(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        code = self.codes.sample(generator)
        return _at(self.actions.sample(generator), code)

    def mode(self) -> Tensor:
        """The mode of the most probable code."""
        return _at(self.actions.mode(), self.codes.mode())

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        return _at(self.actions.best(generator), self.codes.best(generator))

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return mode_and_samples(self, count, generator)


def _at(values: Tensor, code: Tensor) -> Tensor:
    """Entries (..., *shape) of `values` (..., K, *shape) at the codes (...)."""
    index = code.reshape(*code.shape, 1, *[1] * (values.dim() - code.dim() - 1))
    index = index.expand(*code.shape, 1, *values.shape[code.dim() + 1 :])
    return values.gather(code.dim(), index).squeeze(code.dim())


class Greedy:
    """The distribution of a policy that always takes the mode of another."""

    caution = ""

    def __init__(self, base: Distribution):
        self.base = base

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)

    def loss(self, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.base.loss(value, noise)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.base.mode()

    def mode(self) -> Tensor:
        return self.base.mode()

    def best(self, generator: torch.Generator | None = None) -> Tensor:
        return self.base.mode()

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return self.base.candidates(count, generator)


def decoded(codes: Categorical, actions: Distribution) -> Distribution:
    """Distribution sum_k p(k) p(action | k), given p(k) and the distributions of actions (..., K) of all codes."""
    if isinstance(actions, Categorical):
        return Categorical((codes.logits[..., None] + actions.logits).logsumexp(-2), actions.start)
    return CodeMixture(codes, actions)


def greedy(distribution: Distribution) -> Distribution:
    """A distribution whose samples are the mode of `distribution`; integers that are as probable are drawn alike."""
    if isinstance(distribution, Categorical):
        best = distribution.logits == distribution.logits.amax(-1, keepdim=True)
        return Categorical(torch.zeros_like(distribution.logits).masked_fill(~best, -math.inf), distribution.start)
    return Greedy(distribution)
