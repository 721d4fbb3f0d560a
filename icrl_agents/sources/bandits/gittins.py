"""Finite-horizon Gittins indices of Bernoulli bandits, and the learner that pulls the arm with the highest index.

Axis letters: B rows, A actions, S number of successes, F number of failures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from icrl_agents.sources.bandits.counts import lifetime_of
from icrl_agents.sources.bandits.thompson import BernoulliSource, BetaPrior

LEVELS = 64  # grid of charges; an index is interpolated between two of them
MAX_LIFETIME = 400  # pulls; tables of this size take some seconds and 100 MB


@lru_cache(maxsize=2)
def gittins_indices(lifetime: int, successes: float = 1.0, failures: float = 1.0) -> tuple[np.ndarray, ...]:
    """Gittins index of an arm by its counts: one table (S, F) float32 for each number of remaining pulls.

    With n remaining pulls at a cost of `charge` each, an arm of s successes and f failures has the value
    v(n, s, f) = max(0, p - charge + p v(n - 1, s + 1, f) + (1 - p) v(n - 1, s, f + 1)), where p is the mean of
    Beta(successes + s, failures + f). Its index is the charge at which one more pull has value 0 (Gittins 1979; finite
    horizon: Lattimore 2016): backward induction for `LEVELS` charges, linear interpolation between them.

    Args:
        lifetime: pulls in a lifetime; table n - 1 has counts up to `lifetime` - n.
        successes: first parameter of the Beta prior.
        failures: its second parameter.
    """
    count = np.arange(lifetime + 1, dtype=np.float32)
    chance = (successes + count)[:, None] / (successes + failures + count[:, None] + count)  # (S, F)
    sizes = range(lifetime, 0, -1)  # table sizes for 1, 2, ... remaining pulls
    indices = [np.zeros((size, size), np.float32) for size in sizes]
    before = [np.ones((size, size), np.float32) for size in sizes]  # value of a pull at the previous charge
    for charge in np.linspace(0, 1, LEVELS + 1, dtype=np.float32):
        value = np.zeros((lifetime + 1, lifetime + 1), np.float32)
        for index, last, size in zip(indices, before, sizes, strict=True):
            p = chance[:size, :size]
            worth = p - charge + p * value[1:, :size] + (1 - p) * value[:size, 1:]
            if charge:  # 1 while the value stays positive; the zero crossing adds its fraction of the charge step
                index += np.clip(last / np.maximum(last - worth, 1e-12), 0, 1)
            last[:] = worth
            value = np.maximum(worth, 0)
    return tuple(index / LEVELS for index in indices)


@dataclass(frozen=True)
class GittinsSettings(BetaPrior):
    pulls: int = 0  # number of first pulls to plan for, 0: the whole lifetime

    LIMITS: ClassVar = {**BetaPrior.LIMITS, "pulls": (0, MAX_LIFETIME)}


class Gittins(BernoulliSource):
    """Pulls the arm with the highest Gittins index for the remaining pulls; ties are broken at random.

    Nearly Bayes-optimal over one lifetime of independent arms, without tuning. After the `pulls` that it plans for,
    nothing is left to explore for, so it pulls the arm with the highest posterior mean.
    """

    assumes = "the action set and the lifetime's length: that a reward is 0 or 1, by chances drawn from the prior."
    name = "gittins"
    Settings = GittinsSettings

    def prepare(self, env: Any) -> None:
        super().prepare(env)
        self.lifetime = self.settings.pulls or lifetime_of(self, env)
        if self.lifetime > MAX_LIFETIME:
            raise ValueError(
                f"source 'gittins' has tables of at most {MAX_LIFETIME} pulls, a lifetime here has {self.lifetime}: "
                "give pulls=300 to plan for the first of them, or use source 'bayes-ucb'"
            )

    def choose(self, obs: np.ndarray) -> np.ndarray:
        tables = gittins_indices(self.lifetime, self.settings.successes, self.settings.failures)
        paid = self.paid.astype(np.int64)  # (B, A) successes
        left = np.maximum(self.lifetime - self.pulls.sum(1).astype(np.int64), 0)  # (B,) remaining pulls
        prior = self.settings.successes, self.settings.failures
        scores = (paid + prior[0]) / (self.pulls + sum(prior))  # (B, A) posterior means
        for pulls in np.unique(left[left > 0]):
            rows = left == pulls
            scores[rows] = tables[pulls - 1][paid[rows], (self.pulls - self.paid)[rows].astype(np.int64)]
        return self.any_of(self.best(scores))
