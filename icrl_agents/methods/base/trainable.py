"""Trainable: the contract of the training loop: codecs, batch preparation and loss.

Axis letters: B rows (lifetimes), T environment steps, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import HEAD_NOISE, OF_ACTIONS, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.rewards import REWARD_CODECS
from icrl_agents.nn.devices import to_device
from icrl_agents.nn.numerics import BuiltInFloat32
from icrl_agents.nn.stamp import Stamp


class Trainable(nn.Module, metaclass=BuiltInFloat32):
    """Model of environment steps that is trained on histories; `Method` adds acting.

    A subclass sets `Config` and implements `loss`. Weights are float32 on every device and in every process; acting and
    saving refuse converted weights (`half()`) until `float()` is called.

    Args:
        observation_space, action_space: spaces of a single environment.
        config: instance of `Config`; None: `Config()`.

    Raises:
        ValueError: no codec supports one of the spaces.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    episode_aligned: ClassVar[bool] = False  # training windows begin with an episode
    has_memory: ClassVar[bool] = False  # steps that have left the window influence actions
    always_predicts: ClassVar[bool] = False  # obs and reward have heads also without `dynamics`
    learns_from: ClassVar[tuple[str, ...]] = ()  # extra columns of histories that batches need
    tokens_per_step: int = 1  # transformer tokens per environment step
    stamp: Stamp | None = None  # identifies the weights last checked to be float32

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: AgentConfig | None = None,
    ):
        super().__init__()
        self.config = self.Config() if config is None else config
        self.observation_space, self.action_space = observation_space, action_space
        predicts = self.config.dynamics or self.always_predicts  # heads of obs and reward; actions always have one
        self.obs = make_codec(observation_space, self.config.width, predicts, bins=self.config.bins)
        self.action = self.action_codec(action_space)
        self.reward = REWARD_CODECS[self.config.rewards](self.config.width, predicts, self.config.bins)

    def action_codec(self, space: gymnasium.Space) -> Codec:
        """Codec that embeds and predicts actions."""
        return make_codec(space, self.config.width, head=self.config.head)

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
        """Add the random numbers of the action head's loss, if it takes any, to a batch from `prepare_batch`.

        They are columns, so that neither micro-batches nor processes change what a step is trained with.
        """
        if not (size := self.action.noise_size):
            return steps
        noise = rng.standard_normal((*steps.mask.shape, size), np.float32)
        return steps._replace(extras={**steps.extras, HEAD_NOISE: noise})

    def loss_weight(self, steps: Steps) -> Any:
        """Denominator of the loss terms: by default the number of steps that are not padding."""
        return steps.mask.sum()

    def fit_normalization(self, steps: Steps) -> None:
        """Set the normalisation statistics of the codecs from the first batch of a training."""
        self.obs.fit_normalization(steps.obs[steps.mask])
        self.action.fit_actions(steps.action[steps.mask])
        self.reward.fit_normalization(steps.reward[steps.mask])

    def trains_policy(self, progress: float) -> bool:
        """Whether the policy is trained at `progress`, the share of finished updates (0..1)."""
        return True

    def check_length(self, shortest: int, longest: int) -> None:
        """Refuse (ValueError) training windows of these lengths in steps if some weights would get no gradient."""

    # ---- NumPy to tensors ---------------------------------------------------------------------------------------

    def tensors(self, steps: Steps) -> Steps:
        """Tensors of NumPy steps, in the dtypes of the codecs and on the device of this model.

        Rewards are in the unit of the reward codec. Steps without the columns of their range begin a lifetime.
        """
        steps = self.reward.tracked(steps)
        device, obs, action, reward = self.device, self.obs.tensor, self.action.tensor, self.reward.tensor
        found = Steps(
            obs=obs(steps.obs, device),
            prev_obs=obs(steps.prev_obs, device),
            prev_action=action(steps.prev_action, device),
            prev_reward=reward(steps.prev_reward, device),
            first=to_device(steps.first, device),
            start=to_device(steps.start, device),
            action=action(steps.action, device),
            reward=reward(steps.reward, device),
            next_obs=obs(steps.next_obs, device),
            terminated=to_device(steps.terminated, device),
            truncated=to_device(steps.truncated, device),
            mask=to_device(steps.mask, device),
            static=self.static_tensors(steps),
            extras={
                name: action(value, device) if name.endswith(OF_ACTIONS) else to_device(value, device)
                for name, value in steps.extras.items()
            },
        )
        return self.reward.seen(found)

    def static_tensors(self, steps: Steps) -> dict[str, Tensor]:
        """Static values (B, ...) of NumPy steps, such as action masks, as tensors."""
        return {name: to_device(value, self.device) for name, value in steps.static.items()}

    def validate(self) -> None:
        """Refuse (ValueError) impossible normalisation statistics, in loaded weights."""
        for module in self.modules():
            if isinstance(module, Codec):
                module.validate()
