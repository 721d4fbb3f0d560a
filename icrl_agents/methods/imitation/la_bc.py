"""Latent-action behavioural cloning (LA-BC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import numpy as np
from torch import Tensor

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.predictor import LATENT
from icrl_agents.methods.imitation.latent_actions import LatentActions, LatentFields
from icrl_agents.methods.imitation.reactive import ReactiveConfig, ReactiveMethod
from icrl_agents.nn.codecs.distributions import Distribution


@dataclass(frozen=True)
class LABCConfig(LatentFields, ReactiveConfig):
    LIMITS: ClassVar = {**ReactiveConfig.LIMITS, **LatentFields.LATENT_LIMITS}
    MEANINGS: ClassVar = ("levels",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_latents()

    @property
    def unread(self) -> Mapping[str, str]:
        return {} if self.predicts == "codes" else dict.fromkeys(("codes", "levels"), "without predicts='codes'")


class LABC(ReactiveMethod):
    """Behavioural cloning of latent actions, with a decoder that is learned from few actions (LAPO).

    Schmidt and Jiang 2024, arXiv 2312.10812: a policy imitates the latent actions that a `lam` has found in videos, and
    a decoder maps latent actions to actions. The policy learns from all steps; the decoder from those whose actions
    are known, `labels` many.

    Columns: `latent_action`, `latent_action_code` (`icrl-agents annotate`). Tokens: the observation of a step. Loss:
    -log p(code_t | obs_t) at every step, and -log p(action_t | latent action_t) at the known ones. The policy is
    sum_k p(k | obs) p(action | latent action of code k).

    Deviations: published is `predicts="latents"`, which learns the mean latent action by squared error and decodes it:
    where an expert does one of two things, the mean is neither. Here the decoder is learned beside the policy.
    """

    Config = LABCConfig
    config: LABCConfig
    learns_from = (LATENT,)
    labelled_share = 0.25

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: LABCConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        self.latent = LatentActions(self.config.width, self.config)

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        self.latent.read(steps, "la-bc")
        return steps

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        return self.latent.losses(self.hidden(steps)[:, :, 0], steps, self.action)

    def policy_at(self, hidden: Tensor) -> Distribution:
        return self.latent.policy(hidden, self.action)
