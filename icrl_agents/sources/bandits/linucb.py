"""LinUCB: expected rewards linear in an observed context. Axis letters: B rows, A actions, D context dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.core.printable import printable
from icrl_agents.sources.bandits.counts import BanditSource, lifetime_of
from icrl_agents.sources.source import SourceSettings, Step


@dataclass(frozen=True)
class LinUCBSettings(SourceSettings):
    alpha: float = 0.3  # exploration weight, alpha in mean + alpha * standard error
    ridge: float = 1.0  # penalty on squared weights: noise variance / prior variance of a weight
    unpulled_first: bool = True  # pull each arm once before all others
    fade: bool = False  # alpha times sqrt(log(n / t)) at pull t of a lifetime of n: exploration ends with the lifetime

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.0, 1e6), "ridge": (1e-6, 1e6)}


class LinUCB(BanditSource):
    """Disjoint LinUCB (Li et al. 2010): ridge regression per arm, score mean + alpha * standard error at the context.

    Ties are broken at random. The inverse of ridge I + sum x x^T is updated by the Sherman-Morrison formula. `fade` is
    the confidence level of optimally confident UCB (Lattimore 2015, with psi = 1).
    """

    assumes = (
        "the action set, with fade also the lifetime's length: that expected rewards are linear in the observation, by "
        "weights of the action."
    )
    name = "linucb"
    Settings = LinUCBSettings

    def prepare(self, env: Any) -> None:
        space = env.single_observation_space
        if space.dtype is None or len(space.shape or ()) != 1:
            raise ValueError(
                f"source 'linucb' needs observations that are vectors, the env has {printable(space)}: use 'ucb'"
            )
        super().prepare(env)
        self.lifetime = lifetime_of(self, env) if self.settings.fade else 0
        dim = space.shape[0]
        first = np.eye(dim) / self.settings.ridge
        self.inverse = np.broadcast_to(first, (*self.legal.shape, dim, dim)).copy()  # (B, A, D, D)
        self.target = np.zeros((*self.legal.shape, dim))  # (B, A, D) sum of reward * x
        self.weights = np.zeros_like(self.target)  # (B, A, D) ridge estimate: inverse @ target

    def choose(self, obs: np.ndarray) -> np.ndarray:
        x = obs.astype(np.float64)  # (B, D)
        mean = np.einsum("bai,bi->ba", self.weights, x)
        variance = np.einsum("bai,bi->ba", np.einsum("baij,bj->bai", self.inverse, x), x)  # (B, A)
        alpha: float | np.ndarray = self.settings.alpha
        if self.settings.fade:
            left = np.log(self.lifetime / (self.pulls.sum(1, keepdims=True) + 1))  # (B, 1); below 0 after the lifetime
            alpha = alpha * np.sqrt(np.maximum(left, 0))
        bound = mean + alpha * np.sqrt(np.maximum(variance, 0))  # rounding can make it negative
        first = self.settings.unpulled_first & (self.pulls == 0)
        return self.any_of(self.best(np.where(first, np.inf, bound)))

    def learn(self, step: Step) -> None:
        super().learn(step)
        pulled = self.rows, step.action
        x = step.obs * step.active[:, None].astype(np.float64)  # (B, D); zeros leave the estimate unchanged
        along = np.einsum("bij,bj->bi", self.inverse[pulled], x)  # (B, D)
        scale = 1 + (along * x).sum(1)  # (B,)
        self.inverse[pulled] -= along[:, :, None] * along[:, None] / scale[:, None, None]
        self.target[pulled] += step.reward[:, None] * x
        self.weights[pulled] = np.einsum("bij,bj->bi", self.inverse[pulled], self.target[pulled])
