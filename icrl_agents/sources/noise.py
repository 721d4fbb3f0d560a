"""Noise distillation: an expert mixed with random actions whose share falls, so that a history resembles learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.histories.recorder import has_expert
from icrl_agents.sources.source import SourceSettings, StepSource, count_actions


@dataclass(frozen=True)
class NoiseSettings(SourceSettings):
    start: float = 1.0  # probability of a random action in the first episode
    end: float = 0.0  # probability of a random action in the last episode; linear between

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"start": (0.0, 1.0), "end": (0.0, 1.0)}


class Noise(StepSource):
    """AD-epsilon (Zisman et al. 2024, "Emergence of In-Context Reinforcement Learning from Noise Distillation").

    The probability of a random action is constant within an episode, so the episode length need not be known.
    History column: `log_prob` of the action under the mixture of expert and uniform noise.
    """

    assumes = "the expert, and through it the task: the environment's expert_action()."
    Settings = NoiseSettings

    def prepare(self, env: Any) -> None:
        self.actions = count_actions(env, "noise")
        if not has_expert(env):
            raise ValueError(f"source 'noise' needs an env with expert_action(), not {env}: use source 'q-learning'")

    def choose(self, obs: np.ndarray) -> np.ndarray:
        expert = self.env.expert_action()  # (B,)
        chance = self.settings.start + (self.settings.end - self.settings.start) * self.progress  # (B,)
        action = self.explore(expert, chance, self.actions)
        choices = self.actions if self.allowed is None else self.allowed.sum(1)
        probability = chance / choices + (1 - chance) * (action == expert)  # noise draws the expert's action too
        self.note(log_prob=np.log(probability).astype(np.float32))
        return action
