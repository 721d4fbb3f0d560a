"""Bayes-UCB of Bernoulli bandits: the arm whose posterior reaches highest. Axis letters: B rows, A actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from icrl_agents.sources.source import SourceSettings
from icrl_agents.sources.thompson import BernoulliSource


@dataclass(frozen=True)
class BayesUCBSettings(SourceSettings):
    successes: float = 1.0  # successes in the prior Beta(successes, failures) of each arm
    failures: float = 1.0  # failures in the prior Beta(successes, failures) of each arm

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"successes": (1e-3, 1e6), "failures": (1e-3, 1e6)}


class BayesUCB(BernoulliSource):
    """Bayes-UCB (Kaufmann et al. 2012): the quantile 1 - 1/t of each arm's Beta posterior at step t.

    Ties are broken at random.
    """

    name = "bayes-ucb"
    Settings = BayesUCBSettings

    def choose(self, obs: np.ndarray) -> np.ndarray:
        from scipy.special import betaincinv

        level = 1 - 1 / (self.pulls.sum(1, keepdims=True) + 2)  # at the first step the median, not 0
        counts = np.stack([self.paid, self.pulls - self.paid, np.broadcast_to(level, self.paid.shape)], -1)
        known, place = np.unique(counts.reshape(-1, 3), axis=0, return_inverse=True)  # far fewer than arms
        bound = betaincinv(self.settings.successes + known[:, 0], self.settings.failures + known[:, 1], known[:, 2])
        return self.any_of(self.best(bound[place].reshape(self.paid.shape)))
