"""Thompson sampling for bandits (Thompson 1933): pull the best arm of a posterior sample.

Axis letters: B rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.sources.bandits.counts import BanditSource
from icrl_agents.sources.source import SourceSettings, Step


@dataclass(frozen=True)
class BetaPrior(SourceSettings):
    """Beta prior of the probability that an arm returns reward 1."""

    successes: float = 1.0  # successes in the prior Beta(successes, failures) of each arm
    failures: float = 1.0  # failures in the prior Beta(successes, failures) of each arm

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"successes": (1e-3, 1e6), "failures": (1e-3, 1e6)}


@dataclass(frozen=True)
class ThompsonSettings(BetaPrior):
    sharpness: float = 1.0  # weight of each pull in the posterior; 3 explores less and has three tenths less regret

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {**BetaPrior.LIMITS, "sharpness": (1e-3, 1e3)}


class BernoulliSource(BanditSource):
    """Base class of learners for rewards 0 and 1; ValueError for other rewards."""

    assumes = "the action set: that a reward is 0 or 1, with a chance that depends on the action alone."

    def learn(self, step: Step) -> None:
        strange = step.reward[(step.reward != 0) & (step.reward != 1)]
        if len(strange):
            raise ValueError(
                f"reward={strange[0]:g}: source {self.name!r} learns from 0 and 1, use 'gaussian-thompson'"
            )
        super().learn(step)


class Thompson(BernoulliSource):
    """Thompson sampling with a Beta posterior, for rewards of 0 and 1."""

    name = "thompson"
    Settings = ThompsonSettings

    def choose(self, obs: np.ndarray) -> np.ndarray:
        successes, failures = self.settings.successes, self.settings.failures
        paid, unpaid = self.settings.sharpness * self.paid, self.settings.sharpness * (self.pulls - self.paid)
        chance = self.rng.beta(successes + paid, failures + unpaid)  # (B, A) posterior sample of success probabilities
        return np.where(self.legal, chance, -1.0).argmax(1)


@dataclass(frozen=True)
class GaussianThompsonSettings(SourceSettings):
    """Defaults suit the five-armed bandits of the original DPT."""

    mean: float = 0.5  # prior mean of each arm's expected reward
    std: float = 0.3  # prior standard deviation of each arm's expected reward
    noise: float = 0.3  # standard deviation of the reward noise

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"mean": (-1e6, 1e6), "std": (1e-6, 1e6), "noise": (1e-6, 1e6)}


class GaussianThompson(BanditSource):
    """Thompson sampling with a normal posterior, for rewards with normal noise of known standard deviation."""

    assumes = "the action set: that a reward is normal, its mean depending on the action alone, its noise known."
    name = "gaussian-thompson"
    Settings = GaussianThompsonSettings

    @classmethod
    def preset(cls, env_id: str) -> Mapping[str, Any]:
        return {"mean": 0.0, "std": 0.7} if env_id == "icrl/LinearBandit-v0" else {}

    def choose(self, obs: np.ndarray) -> np.ndarray:
        prior, evidence = self.settings.std**-2, self.settings.noise**-2
        precision = prior + evidence * self.pulls  # (B, A) of the conjugate posterior
        mean = (prior * self.settings.mean + evidence * self.paid) / precision  # (B, A)
        draw = self.rng.normal(mean, precision**-0.5)  # (B, A)
        return np.where(self.legal, draw, -np.inf).argmax(1)
