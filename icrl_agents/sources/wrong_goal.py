"""Wrong-goal behaviour: acts on guesses of the task, most of them wrong. Axis letters: B rows, A actions, N tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from icrl_agents.core.families import is_family
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import box_range
from icrl_agents.core.splits import split_tasks
from icrl_agents.histories.experts import find_expert, find_task_experts
from icrl_agents.sources.noise import Drift
from icrl_agents.sources.source import SourceSettings, StepSource, count_actions


@dataclass(frozen=True)
class WrongGoalSettings(SourceSettings):
    hold: float = 16.0  # mean number of steps for which a guess is held; its length is geometric
    drift: float = 0.25  # probability that the source drifts instead of acting on a guess
    right: float = 0.0  # probability that a guess in the first episode is the row's own task
    right_end: float = 0.2  # probability in the last episode; linear between
    noise: float = 0.1  # share of noise in the actions on a guess
    correlation: float = 0.9  # correlation of the noise of Box actions between two steps, 0 for white noise
    scale: float = 0.7  # standard deviation of the noise of Box actions, in half ranges of the action

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "hold": (1.0, 1e6),
        "correlation": (0.0, 0.999),
        "scale": (1e-3, 10.0),
    }


class WrongGoal(StepSource):
    """For some steps the expert of one task, then of another, drawn from the training tasks and seldom the row's own.

    Noise distillation shows the expert of the right task, and a model can read the goal off its movements; at
    evaluation it follows its own first guess, and rewards never correct it. Here movements say nothing about the task,
    so a model that imitates the labels (`expert_action`, as for DPT) must infer it from rewards. This is posterior
    sampling (Strens 2000) without a posterior: all guesses come from the prior.

    Box actions: (1 - share) * expert + share * drift, where the share is `noise`, or 1 while drifting; the drift is
    that of source "noise". Discrete actions: the share is the probability of a uniformly random legal action, which
    also replaces an action that is illegal in the row's own task.
    """

    assumes = "experts of all training tasks."
    Settings = WrongGoalSettings

    @classmethod
    def make(cls, env_id: str, settings: Mapping[str, Any] | None = None) -> Self:
        made = super().make(env_id, settings)
        made.hypotheses = split_tasks(env_id).train.ids if is_family(env_id) else None
        return made

    def prepare(self, env: Any) -> None:
        advise, advise_as = find_expert(env), find_task_experts(env)
        if advise is None or advise_as is None or self.hypotheses is None:
            way = "declare Capability.TASK_EXPERTS, give an expert that reads tasks, or use source 'noise'"
            raise ValueError(f"source 'wrong-goal' needs the experts of all tasks of {printable(env)}: {way}")
        self.pool = self.hypotheses  # (N,)
        knobs, box = self.settings, box_range(env.single_action_space)
        self.advise, self.advise_as = advise, advise_as
        self.drift = None if box is None else Drift(box, knobs.correlation, knobs.scale)
        self.actions = count_actions(env, "wrong-goal") if box is None else 0
        self.guess = np.zeros(env.num_envs, np.int64)  # (B,) task ids
        self.right = np.zeros(env.num_envs, bool)  # (B,) rows that act on their own task instead
        self.drifting = np.zeros(env.num_envs, bool)  # (B,)
        self.begun = False

    def choose(self, obs: np.ndarray) -> np.ndarray:
        self._guess_again()
        expert = np.array(self.advise_as(self.guess))  # a copy: an expert may keep its own
        if self.right.any():
            expert[self.right] = self.advise()[self.right]
        share = np.where(self.drifting, 1.0, self.settings.noise)  # (B,)
        if self.drift is not None:
            return self.drift.blend(expert, share, self.starts, self.rng).astype(self.env.single_action_space.dtype)
        if self.allowed is not None:
            share = np.where(self.allowed[self.rows, expert], share, 1.0)
        return self.explore(expert, share, self.actions)

    def _guess_again(self) -> None:
        """Draw new guesses in the rows whose guess has been held long enough, at first in all."""
        rows, knobs = len(self.guess), self.settings
        again = (self.rng.random(rows) * knobs.hold < 1) | (not self.begun)
        share = knobs.right + (knobs.right_end - knobs.right) * self.progress  # (B,)
        self.guess = np.where(again, self.rng.choice(self.pool, rows), self.guess)
        self.drifting = np.where(again, self.rng.random(rows) < knobs.drift, self.drifting)
        self.right = np.where(again, self.rng.random(rows) < share, self.right)
        self.begun = True
