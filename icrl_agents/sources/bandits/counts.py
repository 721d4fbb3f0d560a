"""Bandit learners from pull counts and reward sums: epsilon-greedy, UCB. Axis letters: B rows, A actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.sources.source import SourceSettings, Step, StepSource, choose_any, count_actions


class BanditSource(StepSource):
    """Base class of bandit learners: knows the action set, ignores observations.

    History column: `log_prob` of the action, in learners with a closed form of it.
    """

    assumes = "nothing but the action set: that a reward depends on the action alone, and tasks stay as they are."
    name: ClassVar[str]
    needs_bandit = True

    def prepare(self, env: Any) -> None:
        count_actions(env, self.name)
        self.legal = self.legal_actions()  # (B, A) bool
        self.pulls = np.zeros(self.legal.shape)  # (B, A) counts
        self.paid = np.zeros(self.legal.shape)  # (B, A) sums of rewards

    def learn(self, step: Step) -> None:
        self.pulls[self.rows, step.action] += step.active
        self.paid[self.rows, step.action] += step.active * step.reward

    def best(self, scores: np.ndarray) -> np.ndarray:
        """Mask (B, A) bool of the legal actions that maximise `scores` (B, A)."""
        scores = np.where(self.legal, scores, -np.inf)
        return scores == scores.max(1, keepdims=True)

    def any_of(self, allowed: np.ndarray) -> np.ndarray:
        """Actions (B,) drawn uniformly from `allowed` (B, A) bool; records their `log_prob`."""
        self.note(log_prob=-np.log(allowed.sum(1)).astype(np.float32))
        return choose_any(allowed, self.rng)


def lifetime_of(source: BanditSource, env: Any) -> int:
    """Number of pulls in a lifetime; ValueError for an env without a time limit."""
    limit = getattr(env.unwrapped, "max_episode_steps", getattr(env.spec, "max_episode_steps", None))
    if limit is None:
        raise ValueError(f"source {source.name!r} needs a time limit, {env} has none: use source 'ucb'")
    return limit * source.episodes


@dataclass(frozen=True)
class EpsilonGreedySettings(SourceSettings):
    epsilon_start: float = 1.0  # probability of a random action at the first step
    epsilon_end: float = 0.0  # probability of a random action after the share `decay`; linear before
    decay: float = 2 / 3  # share of the lifetime over which the probability falls

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"decay": (1e-6, 1.0)}


class EpsilonGreedy(BanditSource):
    """Epsilon-greedy on empirical mean rewards (0 for unpulled arms), with linearly decaying epsilon."""

    assumes = "the action set and the lifetime's length: that a reward depends on the action alone."
    name = "epsilon-greedy"
    Settings = EpsilonGreedySettings

    def prepare(self, env: Any) -> None:
        super().prepare(env)
        self.lifetime = lifetime_of(self, env)

    def choose(self, obs: np.ndarray) -> np.ndarray:
        best = self.best(self.paid / np.maximum(self.pulls, 1))  # (B, A)
        first, last = self.settings.epsilon_start, self.settings.epsilon_end
        progress = np.minimum(self.pulls.sum(1) / (self.settings.decay * self.lifetime), 1.0)
        epsilon = first + (last - first) * progress  # (B,)
        return self.epsilon_greedy(best, self.legal, epsilon)


@dataclass(frozen=True)
class UCBSettings(SourceSettings):
    alpha: float = 0.3  # exploration weight, alpha in sqrt(alpha log t / n)

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.0, 1e6)}


class UCB(BanditSource):
    """Upper confidence bounds (Auer et al. 2002): mean + sqrt(alpha log t / n) at step t after n pulls of the arm.

    Unpulled arms come first; ties are broken at random.
    """

    name = "ucb"
    Settings = UCBSettings

    def choose(self, obs: np.ndarray) -> np.ndarray:
        pulls = np.maximum(self.pulls, 1)
        log_time = np.log(self.pulls.sum(1, keepdims=True) + 1)  # (B, 1)
        bound = self.paid / pulls + np.sqrt(self.settings.alpha * log_time / pulls)  # (B, A)
        return self.any_of(self.best(np.where(self.pulls, bound, np.inf)))
