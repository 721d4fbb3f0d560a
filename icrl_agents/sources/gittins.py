"""Finite-horizon Gittins indices of Bernoulli bandits, and the learner that pulls the arm with the highest one.

Axis letters: B rows, A actions, S and F counted successes and failures.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from icrl_agents.sources.bandits import lifetime_of
from icrl_agents.sources.thompson import BernoulliSource, BetaPrior

LEVELS = 64  # charges between which an index is interpolated
MAX_LIFETIME = 400  # pulls, whose tables take some seconds and a hundred MB


@lru_cache(maxsize=2)
def gittins_indices(lifetime: int, successes: float = 1.0, failures: float = 1.0) -> tuple[np.ndarray, ...]:
    """The index of an arm for all counts with which it can be met, a table (S, F) for each number of pulls left.

    An arm that may be pulled up to n more times and costs `charge` a pull is worth
    v(n, s, f) = max(0, p - charge + p v(n - 1, s + 1, f) + (1 - p) v(n - 1, s, f + 1)), where p is the mean of
    Beta(successes + s, failures + f). Its index is the charge at which pulling it is worth nothing (Gittins 1979, of a
    finite horizon as Lattimore 2016 has it): found by backward induction for `LEVELS` charges, linear between them.

    Args:
        lifetime: pulls of a lifetime; entry n - 1 has the counts below or equal to `lifetime` - n.
        successes, failures: the prior.
    """
    count = np.arange(lifetime + 1, dtype=np.float32)
    chance = (successes + count)[:, None] / (successes + failures + count[:, None] + count)  # (S, F)
    sizes = range(lifetime, 0, -1)  # of the tables of 1, 2, ... pulls left
    indices = [np.zeros((size, size), np.float32) for size in sizes]
    before = [np.ones((size, size), np.float32) for size in sizes]  # a pull's worth at the charge before
    for charge in np.linspace(0, 1, LEVELS + 1, dtype=np.float32):
        value = np.zeros((lifetime + 1, lifetime + 1), np.float32)
        for index, last, size in zip(indices, before, sizes, strict=True):
            p = chance[:size, :size]
            worth = p - charge + p * value[1:, :size] + (1 - p) * value[:size, 1:]
            if charge:  # the share of the step from the charge before at which the worth becomes 0
                index += np.clip(last / np.maximum(last - worth, 1e-12), 0, 1)
            last[:] = worth
            value = np.maximum(worth, 0)
    return tuple(index / LEVELS for index in indices)


class Gittins(BernoulliSource):
    """The arm with the highest Gittins index for the pulls that are left; ties are broken at random.

    With one lifetime to go it is nearly Bayes-optimal for independent arms, and needs no tuning.
    """

    assumes = "the action set and the lifetime's length: that a reward is 0 or 1, by chances drawn from the prior."
    name = "gittins"
    Settings = BetaPrior

    def prepare(self, env: Any) -> None:
        super().prepare(env)
        self.lifetime = lifetime_of(self, env)
        if self.lifetime > MAX_LIFETIME:
            raise ValueError(
                f"source 'gittins' has tables of at most {MAX_LIFETIME} pulls, a lifetime here has {self.lifetime}: "
                "use source 'bayes-ucb'"
            )

    def choose(self, obs: np.ndarray) -> np.ndarray:
        tables = gittins_indices(self.lifetime, self.settings.successes, self.settings.failures)
        paid = self.paid.astype(np.int64)
        left = np.maximum(self.lifetime - self.pulls.sum(1).astype(np.int64), 1)  # (B,)
        scores = np.empty(paid.shape, np.float32)
        for pulls in np.unique(left):
            rows = left == pulls
            scores[rows] = tables[pulls - 1][paid[rows], (self.pulls - self.paid)[rows].astype(np.int64)]
        return self.any_of(self.best(scores))
