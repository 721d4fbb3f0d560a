"""Latent-action behavioural cloning (LA-BC).

Axis letters: B rows, T steps, Z size of a latent action, L levels of codes, K codes of all levels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.checks import check_choice
from icrl_agents.core.steps import HEAD_NOISE, Steps
from icrl_agents.methods.base.percepts import masked_nll
from icrl_agents.methods.base.predictor import CODE, LATENT
from icrl_agents.methods.base.trainable import known
from icrl_agents.methods.imitation.reactive import ReactiveConfig, ReactiveMethod
from icrl_agents.nn.codecs.decoded import decoded
from icrl_agents.nn.codecs.distributions import Categorical, Distribution, Gaussian
from icrl_agents.nn.vision.encoders import mlp

MOST_CODES = 4096


@dataclass(frozen=True)
class LABCConfig(ReactiveConfig):
    latent: int = 16  # size of a latent action, Z
    codes: int = 16  # number of codes of a level
    levels: int = 1  # levels of codes, L
    predicts: str = "codes"  # output of the policy: "codes", or the vectors themselves ("latents"), as published

    PREDICTS: ClassVar = ("codes", "latents")
    LIMITS: ClassVar = {
        **ReactiveConfig.LIMITS,
        "latent": (1, 4096),
        "codes": (2, MOST_CODES),
        "levels": (1, 12),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("predicts", self.predicts, self.PREDICTS)
        if self.count > MOST_CODES:
            raise ValueError(f"codes={self.codes} in levels={self.levels} are {self.count}, at most {MOST_CODES}")

    @property
    def count(self) -> int:
        """Number of combinations of the codes of all levels, K."""
        return self.codes**self.levels


class LABC(ReactiveMethod):
    """Behavioural cloning of latent actions, with a decoder that few actions are enough to learn (LAPO).

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
    vectors: Tensor

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: LABCConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        cfg = self.config
        self.predict = nn.Linear(cfg.width, cfg.count if cfg.predicts == "codes" else cfg.latent)
        self.decoder = nn.Sequential(mlp([cfg.latent, cfg.width, cfg.width]), nn.GELU())
        if cfg.predicts == "codes":
            self.register_buffer("vectors", torch.zeros(cfg.count, cfg.latent))  # latent action of each code

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        """Check the columns, and copy the latent action of every code in them."""
        wanted = (LATENT, CODE) if self.config.predicts == "codes" else (LATENT,)
        if missing := [name for name in wanted if name not in steps.extras]:
            raise ValueError(f"la-bc learns from {missing[0]}, which these histories lack: annotate them with a lam")
        latent = steps.extras[LATENT]
        if latent.shape[-1] != self.config.latent:
            raise ValueError(f"latent actions have size {latent.shape[-1]}, not latent={self.config.latent}: give it")
        if self.config.predicts == "codes":
            code = steps.extras[CODE]
            levels, most = code.shape[-1], int(code[steps.mask].max(initial=0))
            if levels != self.config.levels or most >= self.config.codes:
                raise ValueError(
                    f"these histories have codes up to {most} in {levels} levels, not codes={self.config.codes} and "
                    f"levels={self.config.levels}: give the settings of the lam"
                )
            places = torch.as_tensor(self.joined(code)[steps.mask], device=self.device)
            self.vectors[places] = torch.as_tensor(latent[steps.mask], device=self.device)
        return steps

    def joined(self, code: Any) -> Any:
        """Number (B, T) of the combination of the codes (B, T, L), of an array or tensor."""
        return sum(code[..., level] * self.config.codes**level for level in range(self.config.levels))

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        hidden, count = self.hidden(steps)[:, :, 0], steps.mask.sum()
        codes, found = self.config.predicts == "codes", self.predict(hidden)
        policy: Distribution = Categorical(found) if codes else unit_gaussian(found)
        target = self.joined(steps.extras[CODE]) if codes else steps.extras[LATENT]
        decoder, noise = self.decode(steps.extras[LATENT]), steps.extras.get(HEAD_NOISE)
        return {
            "latent": masked_nll(policy, target, steps.mask, count),
            "decoder": masked_nll(decoder, steps.action, known(steps), count, noise),
        }

    def decode(self, latent: Tensor) -> Distribution:
        """Distribution over actions at latent actions (..., Z)."""
        return self.action.head(self.decoder(latent))

    def policy_at(self, hidden: Tensor) -> Distribution:
        found = self.predict(hidden)  # (..., K) or (..., Z)
        if self.config.predicts == "latents":
            return self.decode(found)
        features = self.decoder(self.vectors)  # (K, D)
        return decoded(Categorical(found), self.action.head(features.expand(*found.shape[:-1], *features.shape)))


def unit_gaussian(mean: Tensor) -> Gaussian:
    """Normal distribution of unit variance, whose loss is half the squared distance and a constant."""
    end = torch.full((), torch.inf, device=mean.device)
    return Gaussian(mean, torch.zeros_like(mean), -end, end)
