"""Trainable: the contract of the training loop: conversion to tensors, batch preparation and loss.

Axis letters: B rows (lifetimes), T environment steps, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.nn.numerics import BuiltInFloat32
from icrl_agents.nn.stamp import Stamp

TASK = "task"  # static value (B,) of training batches: task id of each row
LABELLED = "labelled"  # extra column (B, T) of a batch: weight of a step's action in the loss, 0 if it is unknown


class Trainable(nn.Module, metaclass=BuiltInFloat32):
    """Model of environment steps that is trained on histories; `Method` adds acting, `Predictor` columns of histories.

    A subclass sets `Config` and implements `loss`. Weights are float32 on every device and in every process; acting and
    saving refuse converted weights (`half()`) until `float()` is called.

    Args:
        observation_space: of a single environment.
        action_space: of a single environment.
        config: instance of `Config`; None: `Config()`.

    Raises:
        ValueError: the model takes no such spaces.
    """

    Config: ClassVar[type[ModelConfig]]
    install: ClassVar[str] = ""  # optional dependency group that it needs
    acts: ClassVar[bool] = False  # predicts actions of an agent
    in_context: ClassVar[bool] = False  # learns a task from what stands in its context
    episode_aligned: ClassVar[bool] = False  # training windows begin with an episode
    needs_tasks: ClassVar[bool] = False  # batches have the static value `TASK`, which `prepare_batch` must remove
    has_memory: ClassVar[bool] = False  # steps that have left the window influence actions
    learns_from: ClassVar[tuple[str, ...]] = ()  # extra columns of histories that batches need
    labelled_share: ClassVar[float] = 0.0  # of a batch: steps with known actions, where they are few; 0: all are
    tokens_per_step: int = 1  # transformer tokens per environment step
    stamp: Stamp | None = None  # identifies the weights last checked to be float32
    config: Any  # instance of `Config`

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: ModelConfig | None = None
    ):
        super().__init__()
        self.config = self.Config() if config is None else config
        self.observation_space, self.action_space = observation_space, action_space

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # ---- training -----------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, steps: Steps) -> dict[str, Tensor]:
        """Named loss terms of steps (B, T): masked means of `Distribution.loss`; training minimises their sum."""

    def forward(self, steps: Steps) -> dict[str, Tensor]:
        return self.loss(steps)

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        """Transform a batch of NumPy windows (B, T) before `loss`, for example reorder its steps.

        `progress` is the share of finished updates (0..1), for methods with a curriculum.
        """
        return steps

    def draw_noise(self, steps: Steps, rng: np.random.Generator) -> Steps:
        """Add the random numbers of the loss, if it takes any, to a batch from `prepare_batch`, as columns."""
        return steps

    def loss_weight(self, steps: Steps) -> Any:
        """Denominator of the loss terms: by default the number of steps that are not padding."""
        return steps.mask.sum()

    @abstractmethod
    def fit_normalization(self, steps: Steps) -> None:
        """Set the normalisation statistics from the first batch of a training."""

    @abstractmethod
    def tensors(self, steps: Steps) -> Steps:
        """Tensors of NumPy steps, on the device of this model."""

    def trains_policy(self, progress: float) -> bool:
        """Whether the policy is trained at `progress`, the share of finished updates (0..1)."""
        return True

    def check_length(self, shortest: int, longest: int) -> None:
        """Refuse (ValueError) training windows of these lengths in steps if some weights would get no gradient."""

    def validate(self) -> None:
        """Refuse (ValueError) impossible normalisation statistics, in loaded weights."""


def known(steps: Steps) -> Tensor:
    """Weights (B, T) of the steps whose actions are known: 1 unless a batch says otherwise, 0 at padding."""
    return steps.extras[LABELLED] * steps.mask if LABELLED in steps.extras else steps.mask.float()
