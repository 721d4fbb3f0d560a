"""Mixture head of Box actions. Axis letters: K components, N entries of an action, D width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.nn.codecs.box import BoxCodec, Units
from icrl_agents.nn.codecs.distributions import Categorical, Likelihood, mode_and_samples

COMPONENTS = 8  # K
LOWEST, HIGHEST = -2.5, 2.0  # log standard deviations, in units of the normalised action
# Many labels lie exactly on a bound. A narrower component there gains more likelihood than the task explains: with -5
# the point robot does not learn in 900 updates.


class Mixture(Likelihood):
    """K diagonal normal distributions over whole actions; samples and mode are clipped to the space.

    Args:
        logits: (..., K) log-weights, not normalised.
        mean, log_std: (..., K, N) in normalised units.
        units: the normalisation, shape and bounds of the space.
    """

    caution = "deterministic=True takes the centre of the most probable component every time: nothing is explored"

    def __init__(self, logits: Tensor, mean: Tensor, log_std: Tensor, units: Units):
        self.weights, self.mean, self.log_std, self.units = Categorical(logits), mean, log_std, units

    def log_prob(self, value: Tensor) -> Tensor:
        unit = self.units.flat(value)[..., None, :]  # (..., 1, N)
        score = (unit - self.mean) * (-self.log_std).exp()
        each = -0.5 * score**2 - self.log_std - 0.5 * math.log(2 * math.pi)  # (..., K, N)
        return (self.weights.logits + each.sum(-1)).logsumexp(-1) - self.units.log_volume

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        mean, log_std = self._component(self.weights.sample(generator))
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float32, device=mean.device)
        return self.units.value(mean + log_std.exp() * noise)

    def mode(self) -> Tensor:
        """Mean of the component with the greatest weight."""
        return self.units.value(self._component(self.weights.mode())[0])

    def candidates(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return mode_and_samples(self, count, generator)

    def _component(self, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std (..., N) of one component (...) of each leading index."""
        index = choice[..., None, None].expand(*choice.shape, 1, self.mean.shape[-1])
        return self.mean.gather(-2, index)[..., 0, :], self.log_std.gather(-2, index)[..., 0, :]


class MixtureCodec(BoxCodec):
    """Box codec with a mixture density head (Bishop 1994): several actions may be equally good.

    A component is a diagonal normal over the whole action, so modes are joint: "both entries up or both down" is two
    components, where bins per entry would mix them. A grid of bins over all entries has that property as well, but
    grows exponentially with their number and has no value between two bins.
    """

    def make_outputs(self, width: int, size: int) -> nn.Module:
        outputs = nn.Linear(width, COMPONENTS * (1 + 2 * size))
        with torch.no_grad():  # spread the components over the space: equal ones would learn the same
            nn.init.uniform_(outputs.bias[COMPONENTS : COMPONENTS * (1 + size)], -1, 1)
        return outputs

    def head(self, hidden: Tensor) -> Mixture:  # type: ignore[override]
        size = COMPONENTS * self.size
        logits, mean, free = self.outputs(hidden).float().split([COMPONENTS, size, size], -1)
        mean, free = (x.unflatten(-1, (COMPONENTS, self.size)) for x in (mean, free))
        return Mixture(logits, mean, _bounded(free), self.units)


def _bounded(free: Tensor) -> Tensor:
    """Log std between LOWEST and HIGHEST, with a gradient everywhere (Chua et al. 2018, arXiv 1805.12114, app. A)."""
    below = HIGHEST - F.softplus(HIGHEST - free)
    return LOWEST + F.softplus(below - LOWEST)
