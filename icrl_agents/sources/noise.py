"""Noise distillation: an expert mixed with noise whose share falls, so that a history resembles learning.

Axis letters: B rows, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from icrl_agents.core.families import find_family, is_family
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import BoxRange, box_range
from icrl_agents.histories.experts import find_expert
from icrl_agents.sources.source import SourceSettings, StepSource, count_actions


@dataclass(frozen=True)
class NoiseSettings(SourceSettings):
    start: float = 1.0  # share of noise in the first episode
    end: float = 0.0  # share of noise in the last episode; linear between
    spread: float = 0.0  # each lifetime ends at a share of its own, drawn uniformly from end to end + spread
    correlation: float = 0.9  # correlation of the noise of Box actions between two steps, 0 for white noise
    scale: float = 0.7  # standard deviation of the noise of Box actions, in half ranges of the action

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "correlation": (0.0, 0.999),
        "scale": (1e-3, 10.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end + self.spread > 1:
            raise ValueError(f"end={self.end} + spread={self.spread} exceeds 1: lower one of them")


BOX_SPREAD = 0.3  # default `spread` with Box actions, where most histories would end in the same pure expert


class Noise(StepSource):
    """AD-epsilon (Zisman et al. 2024, "Emergence of In-Context Reinforcement Learning from Noise Distillation").

    The share of noise is constant within an episode, so the episode length need not be known; a lifetime of a single
    episode keeps the share `start`.

    Discrete actions: the share is the probability of a uniformly random legal action. History column: `log_prob` of
    the action under the mixture of expert and uniform noise.

    Box actions of floats: the action is (1 - share) * expert + share * drift, clipped to the bounds. The drift is an
    AR(1) process (Ornstein-Uhlenbeck in discrete time) around the middle of the range; it starts at random in each
    episode, so that an episode explores a direction of its own. Without bounds the unit is 1 and the middle 0. There
    is no `log_prob`: clipping and the memory of the drift leave it no closed form.
    """

    assumes = "an expert, and through it the task."
    Settings = NoiseSettings

    @classmethod
    def preset(cls, env_id: str) -> Mapping[str, Any]:
        box = is_family(env_id) and box_range(find_family(env_id).action_space)
        return {"spread": BOX_SPREAD} if box else {}

    @classmethod
    def constant(cls, env_id: str, share: float) -> Self:
        """The expert with the same share of noise in every episode of every lifetime; 0 is the expert alone."""
        return cls.make(env_id, {"start": share, "end": share, "spread": 0.0})

    def prepare(self, env: Any) -> None:
        if (advise := find_expert(env)) is None:
            way = "give an expert, or use another source"
            raise ValueError(f"source 'noise' needs an env with expert_action(), not {printable(env)}: {way}")
        knobs, box = self.settings, box_range(env.single_action_space)
        self.advise = advise
        self.drift = None if box is None else Drift(box, knobs.correlation, knobs.scale)
        self.actions = count_actions(env, "noise") if box is None else 0
        self.final: np.ndarray | float = knobs.end  # share of noise in the last episode, (B,) with a spread
        if knobs.spread:
            self.final = knobs.end + knobs.spread * self.rng.random(env.num_envs)

    def choose(self, obs: np.ndarray) -> np.ndarray:
        share = self.settings.start + (self.final - self.settings.start) * self.progress  # (B,)
        if self.drift is not None:
            action = self.drift.blend(self.advise(), share, self.starts, self.rng)
            return action.astype(self.env.single_action_space.dtype)
        return self._replace(self.advise(), share)

    def _replace(self, expert: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """Actions (B,): `expert` (B,), replaced by a random legal action with probability `chance` (B,)."""
        action = self.explore(expert, chance, self.actions)
        choices = self.actions if self.allowed is None else self.allowed.sum(1)
        probability = chance / choices + (1 - chance) * (action == expert)  # noise draws the expert's action too
        self.note(log_prob=np.log(probability).astype(np.float32))
        return action


class Drift:
    """Correlated noise in a Box: x' = c x + sqrt(1 - c^2) s e with e ~ N(0, 1), whose standard deviation is s.

    Args:
        box: bounds and units of the actions.
        correlation: c.
        scale: s, in units of `box`.
    """

    def __init__(self, box: BoxRange, correlation: float, scale: float):
        self.box, self.correlation, self.scale = box, correlation, scale
        self.place: np.ndarray | float = 0.0  # (B, ...) in units of the box

    def blend(self, expert: np.ndarray, share: np.ndarray, starts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions (B, ...) between `expert` (B, ...) and the next value of the drift, at `share` (B,) of the drift.

        The drift starts from its stationary distribution in the rows where `starts` (B,) is true.
        """
        rows = (len(share),) + (1,) * (expert.ndim - 1)
        fresh = self.scale * rng.standard_normal(expert.shape)
        moved = self.correlation * self.place + np.sqrt(1 - self.correlation**2) * fresh
        self.place = np.where(starts.reshape(rows), fresh, moved)
        drift, part = self.box.centre + self.box.unit * self.place, share.reshape(rows)
        return np.clip((1 - part) * expert + part * drift, self.box.low, self.box.high)
