"""Marked AD: Algorithm Distillation with marks at the borders of confident runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.percepts import PerceptMethod, intended_action
from icrl_agents.methods.base.transforms import END, START, confident_runs
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.codec import EMBEDDING_STD
from icrl_agents.nn.codecs.distributions import Distribution

OWN_POLICY, OTHER_POLICY = -1, -2  # values of the column `update`: the agent, and an unnumbered policy of a history
OPEN = MappingProxyType({"log_prob": -np.inf, "update": OWN_POLICY})  # columns from which marks follow, in an open step


@dataclass(frozen=True)
class MarkedADConfig(AgentConfig):
    threshold: float = 0.7  # minimum action probability of a confident step
    min_length: int = 10  # minimum number of consecutive confident steps in a marked run
    marks: str = "own"  # place of marks: in training and in the agent's own runs ("own"), or only in training ("train")
    layout: str = "added"  # form of a mark: "added" to the percept, or "inserted" before it as a token

    CHOICES: ClassVar = {**AgentConfig.CHOICES, "marks": ("own", "train"), "layout": ("added", "inserted")}
    MEANINGS: ClassVar = (*AgentConfig.MEANINGS, "layout", "marks", "threshold", "min_length")
    LIMITS: ClassVar = {**AgentConfig.LIMITS, "threshold": (1e-6, 1.0), "min_length": (1, 100_000)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length >= self.window:
            raise ValueError(f"min_length={self.min_length} does not fit window={self.window}: lower it")
        if self.layout == "inserted" and self.dynamics:
            raise ValueError("layout='inserted' has no place in imagined steps: use layout='added' with dynamics=True")


class MarkedAD(PerceptMethod):
    """AD on histories with marks at the borders of confident runs (segment marks, tommyma3, 2026).

    A run is a sequence of `min_length` or more steps of one episode and one policy, each of whose actions had a
    probability of at least `threshold`. Confidence indicates learning progress: early parts of a history have no runs,
    late parts consist mostly of runs. One learned vector marks the start of a run, another its end, a third both.

    Tokens: those of AD, with the vector of the step's mark (none, start, end, both) added to its percept; or, with
    `layout="inserted"`, percept_1, mark_2, percept_2, mark_3, ...: a token before every percept but the first.
    Loss: that of AD, -log p(action_t | tokens up to percept_t) at every step.

    `marks="own"`: when acting, the agent marks its own runs by the probability of each action under its policy, whether
    the action was sampled, the mode or a planner's. A mark therefore depends, in training too, only on what is known
    before the action: a run is marked once it is `min_length` long. The same function, `confident_runs`, computes the
    marks in both cases. Steps of a `history` are marked by its recorded probabilities; steps imagined by a planner have
    no marks.

    `marks="train"`: as published, a run is marked at its first step, which reveals later steps; acting has no marks.

    Deviations from the public code: runs end at the end of an episode and at policy updates; a step without a mark has
    a learned vector, too; the loss is at every step; in Box spaces the probability is a density.
    """

    Config = MarkedADConfig
    config: MarkedADConfig
    learns_from = ("log_prob",)

    def __init__(self, observation_space: Any, action_space: Any, config: MarkedADConfig | None = None):
        config = config or MarkedADConfig()
        super().__init__(observation_space, action_space, config)
        self.mark = nn.Embedding(START + END + 1, config.width)
        nn.init.normal_(self.mark.weight, std=EMBEDDING_STD)
        if config.layout == "inserted":
            self.slots = ("percept", "mark")  # the mark token of the next step
        if config.marks == "own":
            self.extra_columns = {**self.extra_columns, **OPEN}

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        return steps._replace(extras={**steps.extras, "mark": self.marks(steps)})

    def marks(self, steps: Steps) -> np.ndarray:
        return confident_runs(steps, self.config.threshold, self.config.min_length, causal=self.config.marks == "own")

    def tokens(self, steps: Steps) -> Tensor:
        tokens = super().tokens(steps)
        mark = steps.extras.get("mark", torch.zeros_like(steps.first, dtype=torch.long))  # (B, T), 0 in imagined steps
        if self.config.layout == "inserted":
            return torch.cat([tokens, self.mark(F.pad(mark[:, 1:], (0, 1)))[:, :, None]], 2)  # (B, T, 2, D)
        return tokens + self.mark(mark)[:, :, None]

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        return self.loss_at(self.hidden(steps), steps, intended_action(steps))

    # ---- acting -----------------------------------------------------------------------------------------------------

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        """Mark the visible steps. Causal marks never change, so cached tokens stay valid."""
        if self.config.marks == "own":
            for name, unknown in OPEN.items():  # an earlier call may have left a value in the open step
                context.steps.extras[name][np.arange(context.rows), context.length] = unknown
            context = self._marked(context, 0)
        return super().encode_open_step(context, active)

    def look_ahead(self, context: Context, cache: Cache, before: np.ndarray) -> None:
        """Steps are marked as they will be after the slide, which cuts a run that began before it."""
        if self.config.marks == "own" and cache.ahead is not None:
            context = self._marked(context, self.config.slide)
        super().look_ahead(context, cache, before)

    def _marked(self, context: Context, since: int) -> Context:
        """The context with a column of marks, as of a window that begins at column `since`."""
        marks = self.marks(context.steps.window(since, context.window))
        marks = np.pad(marks, ((0, 0), (since, 0)))
        return replace(context, steps=context.steps._replace(extras={**context.steps.extras, "mark": marks}))

    def load_history(self, context: Context, history: Steps) -> None:
        if self.config.marks == "own" and "update" not in history.extras:  # of one policy, which is not the agent's
            update = np.full(history.mask.shape, OTHER_POLICY, np.float32)
            history = history._replace(extras={**history.extras, "update": update})
        super().load_history(context, history)

    def on_action(self, context: Context, distribution: Distribution, action: Tensor) -> None:
        if self.config.marks == "own":
            here = np.arange(context.rows), context.length
            context.steps.extras["log_prob"][here] = distribution.log_prob(action).float().cpu().numpy()
