"""Tabular Q-learning, vectorised over rows with one table each. Axis letters: B rows, S states, A actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.sources.source import SourceSettings, Step, StepSource, count_actions
from icrl_agents.sources.tables.states import state_index

PRESETS: dict[str, dict[str, float]] = {
    # Headless-AD's published values, for lifetimes of 200 episodes. Its public code also resets the values of the cell
    # where an episode ended; without that the success rate is the same.
    "icrl/DarkroomMacro-v0": {
        "learning_rate": 0.9933,
        "discount": 0.6238,
        "optimism": 0.0,
        "initial_noise": 1.0,
        "epsilon_start": 1.0,
        "decay": 0.9,
    },
}


@dataclass(frozen=True)
class QLearningSettings(SourceSettings):
    """Defaults suit the dark rooms: one rewarded cell, which random exploration rarely finds."""

    learning_rate: float = 1.0  # weight of the last outcome; 1 suits deterministic environments only
    discount: float = 0.9  # discount of later rewards
    optimism: float = 1.0  # initial value of untried actions, which makes trying them greedy
    initial_noise: float = 0.0  # maximum of the uniform noise added to initial values
    epsilon_start: float = 0.1  # probability of a random action in the first episode
    epsilon_end: float = 0.0  # probability of a random action after the share `decay`; linear before
    decay: float = 1.0  # share of the lifetime over which the probability falls
    replay: bool = False  # whether to learn from each episode again when it ends, last step first (Lin 1992)

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "optimism": (-1e6, 1e6),
        "initial_noise": (0.0, 1e6),
        "decay": (1e-6, 1.0),
    }


class QLearning(StepSource):
    """Epsilon-greedy Q-learning (Watkins 1989) from optimistic values; ties are broken at random.

    Truncated episodes bootstrap from the final observation. History column: `log_prob` of the action under the
    epsilon-greedy policy.
    """

    assumes = "nothing but the spaces and the action set: a small set of observations and of actions."
    Settings = QLearningSettings

    @classmethod
    def preset(cls, env_id: str) -> Mapping[str, Any]:
        return PRESETS.get(env_id, {})

    def prepare(self, env: Any) -> None:
        states, self.index = state_index(env.single_observation_space, "q-learning")
        count_actions(env, "q-learning")
        self.legal = self.legal_actions()  # (B, A) bool
        self.values = np.full((env.num_envs, states, self.legal.shape[1]), self.settings.optimism, np.float32)
        if self.settings.initial_noise:
            self.values += self.settings.initial_noise * self.rng.random(self.values.shape, np.float32)
        np.copyto(self.values, -np.inf, where=~self.legal[:, None])  # (B, S, A)
        self.played: list[Step] = []  # steps of the longest running episode, for `replay`
        self.length = np.zeros(env.num_envs, np.int64)  # (B,) steps of the running episode

    def choose(self, obs: np.ndarray) -> np.ndarray:
        values = self.values[self.rows, self.index(obs)]  # (B, A)
        best = values == values.max(1, keepdims=True)
        first, last = self.settings.epsilon_start, self.settings.epsilon_end
        epsilon = first + (last - first) * np.minimum(self.progress / self.settings.decay, 1.0)
        return self.epsilon_greedy(best, self.legal, epsilon)

    def learn(self, step: Step) -> None:
        self._update(step, np.flatnonzero(step.active))
        if not self.settings.replay:
            return
        self.played.append(step)
        self.length += step.active
        for age, past in enumerate(reversed(self.played)):
            rows = np.flatnonzero(self.boundary.ended & past.active & (age < self.length))
            if not len(rows):
                break
            self._update(past, rows)
        self.length[self.boundary.ended] = 0
        self.played = self.played[len(self.played) - self.length.max() :]

    def _update(self, step: Step, rows: np.ndarray) -> None:
        where = rows, self.index(step.obs)[rows], step.action[rows]
        future = self.values[rows, self.index(step.next_obs)[rows]].max(1)
        target = step.reward[rows] + self.settings.discount * np.where(step.terminated[rows], 0.0, future)
        self.values[where] += self.settings.learning_rate * (target - self.values[where])
