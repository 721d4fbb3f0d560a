"""Posterior sampling for reinforcement learning, with tables. Axis letters: B rows, S states, A actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.sources.source import SourceSettings, Step, StepSource, choose_any, count_actions
from icrl_agents.sources.tables.states import state_index

MAX_ENTRIES = 1 << 16  # entries S * A * S of a row's table: 256 kB
SWEEPS, PRECISION = 60, 1e-3  # value iteration looks so many steps ahead, or until values change by less
END, EDEN = -2, -1  # successors besides the states: the end of the episode, and the unknown


def fits(states: int, actions: int) -> bool:
    """Whether the table of a row is small enough for this source."""
    return 0 < states * actions * states <= MAX_ENTRIES


@dataclass(frozen=True)
class PSRLSettings(SourceSettings):
    discount: float = 0.99  # discount of later rewards
    optimism: float = 0.5  # value of what is not known yet; below the return of a success, the first one is repeated
    doubt: float = 0.1  # weight of the unknown against one observed outcome; small in deterministic environments

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "discount": (0.0, 0.999),
        "optimism": (-1e6, 1e6),
        "doubt": (1e-6, 1e3),
    }


class PSRL(StepSource):
    """Posterior sampling for reinforcement learning (Strens 2000; Osband et al. 2013, arXiv 1306.0940).

    Every row counts the outcomes of each action in each state: the next state, the end, or the unknown, "Eden" (Szita
    and Lorincz 2008), which has the value `optimism` and is counted `doubt` times in advance. A model drawn from the
    Dirichlet posterior of these counts is solved by value iteration, and acted on until an episode starts or the count
    of a state and action doubles (Abbasi-Yadkori and Szepesvari 2015, arXiv 1406.3926). Ties are broken at random.
    """

    assumes = "nothing but the spaces and the action set: a small set of observations and of actions."
    Settings = PSRLSettings

    def prepare(self, env: Any) -> None:
        states, self.index = state_index(env.single_observation_space, "psrl")
        count_actions(env, "psrl")
        self.legal = self.legal_actions()  # (B, A) bool
        rows, actions = self.legal.shape
        if not fits(states, actions):
            sizes = f"{states} observations and {actions} actions"
            raise ValueError(f"source 'psrl' is for small tables, the env has {sizes}: use source 'q-learning'")
        self.counts = np.zeros((rows, states, actions, states + 2), np.float32)
        self.counts[..., EDEN] = self.settings.doubt
        self.paid = np.zeros((rows, states, actions), np.float32)  # sums of rewards
        self.quality = np.zeros((rows, states, actions), np.float32)  # Q of the sampled models
        self.doubled = np.zeros(rows, bool)  # whether the last step doubled a count

    def choose(self, obs: np.ndarray) -> np.ndarray:
        if (stale := self.starts | self.doubled).any():
            self._plan(np.flatnonzero(stale))
        quality = np.where(self.legal, self.quality[self.rows, self.index(obs)], -np.inf)  # (B, A)
        return choose_any(quality == quality.max(1, keepdims=True), self.rng)

    def learn(self, step: Step) -> None:
        rows = np.flatnonzero(step.active)
        where = rows, self.index(step.obs)[rows], step.action[rows]
        end = self.counts.shape[-1] + END
        self.counts[*where, np.where(step.terminated, end, self.index(step.next_obs))[rows]] += 1
        self.paid[where] += step.reward[rows]
        seen = np.zeros(len(step.active), np.int64)
        seen[rows] = np.rint(self.counts[where][:, :EDEN].sum(1))
        self.doubled = (seen > 0) & (seen & (seen - 1) == 0)  # powers of two

    def _plan(self, rows: np.ndarray) -> None:
        """Sample a model for each of `rows` (N,), and solve it."""
        chances, reward = self._sample(rows)
        values = np.zeros((len(rows), chances.shape[-1]), np.float32)
        values[:, EDEN] = self.settings.optimism
        for _ in range(SWEEPS):
            quality = reward + self.settings.discount * (chances @ values[:, None, :, None])[..., 0]  # (N, S, A)
            best = np.where(self.legal[rows, None], quality, -np.inf).max(2)
            change = np.abs(best - values[:, :END]).max()
            values[:, :END] = best
            if change < PRECISION:
                break
        self.quality[rows] = quality

    def _sample(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chances (N, S, A, S + 2) drawn from the posterior, and expected rewards (N, S, A)."""
        counts = self.counts[rows]
        chances = self.rng.standard_gamma(counts, dtype=np.float32)  # gamma variates, normalised: Dirichlet
        chances[..., EDEN] = np.maximum(chances[..., EDEN], 1e-30)  # small shapes underflow
        chances /= chances.sum(-1, keepdims=True)
        seen = counts[..., :EDEN].sum(-1)
        return chances, (1 - chances[..., EDEN]) * self.paid[rows] / np.maximum(seen, 1)
