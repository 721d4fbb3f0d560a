"""Bayes-UCB for Bernoulli bandits: the arm with the highest posterior quantile. Axis letters: B rows, A actions."""

from __future__ import annotations

import numpy as np

from icrl_agents.sources.bandits.thompson import BernoulliSource, BetaPrior


class BayesUCB(BernoulliSource):
    """Bayes-UCB (Kaufmann et al. 2012): the quantile 1 - 1/t of each arm's Beta posterior at step t.

    Ties are broken at random.
    """

    name = "bayes-ucb"
    Settings = BetaPrior

    def choose(self, obs: np.ndarray) -> np.ndarray:
        from scipy.special import betaincinv

        level = 1 - 1 / (self.pulls.sum(1, keepdims=True) + 2)  # (B, 1); t = 2 at the first step: the median, not 0
        counts = np.stack([self.paid, self.pulls - self.paid, np.broadcast_to(level, self.paid.shape)], -1)  # (B, A, 3)
        known, place = np.unique(counts.reshape(-1, 3), axis=0, return_inverse=True)  # far fewer than B * A
        bound = betaincinv(self.settings.successes + known[:, 0], self.settings.failures + known[:, 1], known[:, 2])
        return self.any_of(self.best(bound[place].reshape(self.paid.shape)))
