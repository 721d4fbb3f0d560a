"""Posterior sampling: acts optimally for a sampled task until that hypothesis is refuted or a reward arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrl_agents.core.families import Capability, env_family
from icrl_agents.sources.source import SourceSettings, Step, StepSource, count_actions


@dataclass(frozen=True)
class PosteriorSettings(SourceSettings):
    sharpness: float = 1.0  # preference for hypotheses that are quick to test; 0 draws from the posterior itself
    systematic: float = 0.0  # share of lifetimes that search in one order, the quickest hypothesis first
    noise: float = 0.0  # probability of a random action while searching
    slips: float = 0.0  # maximum probability of a random action at any time; each lifetime draws its own
    walks: float = 0.0  # share of episodes in which all actions are random, wherever they are in a lifetime

    DISTURBANCES: ClassVar = (*SourceSettings.DISTURBANCES, "slips", "walks")
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"sharpness": (0.0, 100.0)}


class Posterior(StepSource):
    """Thompson sampling over tasks (Thompson 1933; Strens 2000) with the belief of the task family.

    A task is sampled at the start of an episode, when the current sample is refuted, and at a reward that follows an
    unrewarded step. The source observes what an agent observes: observations, actions and rewards, never the task.

    With `slips` some actions are random; the history column `intended_action` has the intended ones. Expert-only data
    is confounded: "stay" only occurs at the goal, so the model infers that staying causes reward. Slips show the
    outcomes of other actions (noise injection, Laskey et al. 2017); imitating the intended actions removes them again.
    Slips are as frequent at the end of a lifetime as at its start. With `walks` random episodes also come after
    others that were none, and need not mean that a goal has moved.
    """

    assumes = "the rules of the environment's family (how moves, walls and rewards work), but not the task."
    Settings = PosteriorSettings

    def prepare(self, env: Any) -> None:
        family = env_family(env)
        if family is None or not family.offers(Capability.BELIEF):
            raise ValueError(f"source 'posterior' needs a belief, {env.unwrapped} declares none: use 'q-learning'")
        sharpness: float | np.ndarray = self.settings.sharpness
        if self.settings.systematic:
            ordered = self.rng.random(env.num_envs) < self.settings.systematic  # (B,)
            sharpness = np.where(ordered, np.inf, sharpness)
        self.belief = family.belief(env.num_envs, self.rng, sharpness)
        self.belief.changing = self.settings.changes + self.settings.late > 0
        self.horizon = family.horizon
        self.slipping = self.settings.slips + self.settings.walks > 0
        self.actions = count_actions(env, "posterior") if self.settings.noise or self.slipping else 0
        self.task = np.zeros(env.num_envs, np.int64)  # (B,) sampled tasks
        self.left = np.zeros(env.num_envs, np.int64)  # (B,) steps until the horizon
        self.paid = np.zeros(env.num_envs, bool)  # (B,) whether the previous step was rewarded
        self.stale = np.zeros(env.num_envs, bool)  # (B,) whether to sample again after a first reward
        rows = np.zeros(env.num_envs)
        self.slips = self.settings.slips * self.rng.random(len(rows)) if self.settings.slips else rows  # (B,)
        self.walking = rows > 0  # (B,) bool: all actions of the episode are random
        self.searching = np.ones(env.num_envs, bool)  # (B,) from a refutation (or the start) to the next reward

    def choose(self, obs: np.ndarray) -> np.ndarray:
        if self.starts.any():
            if self.settings.walks:
                walks = self.rng.random(len(obs)) < self.settings.walks
                self.walking = np.where(self.starts, walks, self.walking)
            self.belief.begin(self.starts, obs)
            self.left[self.starts] = self.horizon
        refuted = ~self.belief.possible(self.task)
        self.searching |= refuted
        rows = np.flatnonzero(refuted | self.stale | self.starts)
        if len(rows):
            self.task[rows] = self.belief.sample(rows, self.left[rows])
        action = self.belief.action(self.task)
        if self.settings.noise:
            action = self.explore(action, self.settings.noise * self.searching, self.actions)
        if self.slipping:
            self.note(intended_action=action)
            action = self.explore(action, np.where(self.walking, 1.0, self.slips), self.actions)
        return action

    def learn(self, step: Step) -> None:
        self.belief.update(step.active, step.obs, step.action, step.reward, step.next_obs)
        self.left -= step.active
        paid = step.active & (step.reward > 0)
        self.stale = paid & ~self.paid
        self.paid = paid
        self.searching &= ~paid
