"""What the training loop needs of a model: codecs of its spaces, a loss on steps, and how a batch is prepared.

Axis letters: B rows (lifetimes), T environment steps, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import OF_ACTIONS, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.box import RewardCodec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.numerics import BuiltInFloat32
from icrl_agents.nn.stamp import Stamp


class Trainable(nn.Module, metaclass=BuiltInFloat32):
    """A model of environment steps that is trained on histories; it need not act, see `Method`.

    A subclass sets `Config` and implements `loss`. Weights are float32 on every device and in every process;
    converted ones (`half()`) are refused until `float()`.

    Args:
        observation_space, action_space: those of a single environment.
        config: an instance of `Config`; by default `Config()`.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    episode_aligned: ClassVar[bool] = False  # training windows begin with an episode
    has_memory: ClassVar[bool] = False  # steps that have left the window influence actions
    always_predicts: ClassVar[bool] = False  # obs and reward have heads without `dynamics`, too
    tokens_per_step: int = 1
    stamp: Stamp | None = None  # of the weights that were found to be float32

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: AgentConfig | None = None,
    ):
        super().__init__()
        self.config = self.Config() if config is None else config
        self.observation_space, self.action_space = observation_space, action_space
        predicts = self.config.dynamics or self.always_predicts
        self.obs = make_codec(observation_space, self.config.width, predicts)
        self.action = self.action_codec(action_space)
        self.reward = RewardCodec(self.config.width, predicts)

    def action_codec(self, space: gymnasium.Space) -> Codec:
        """The codec of actions, which embeds and predicts them."""
        return make_codec(space, self.config.width)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # ---- training -----------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, steps: Steps) -> dict[str, Tensor]:
        """Named terms of steps (B, T), each a masked mean of negative log-likelihoods; their sum is minimised."""

    def forward(self, steps: Steps) -> dict[str, Tensor]:
        return self.loss(steps)

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        """Transform a batch of NumPy windows (B, T) before the loss reads it, such as by reordering its steps.

        `progress` is the share of updates that is done, in 0..1, for methods with a curriculum.
        """
        return steps

    def loss_weight(self, steps: Steps) -> Any:
        """The number of things that the terms of the loss are means over: by default the steps that are not padding."""
        return steps.mask.sum()

    def fit_normalization(self, steps: Steps) -> None:
        """Take the statistics of normalisation from the first batch of a training."""
        self.obs.fit_normalization(steps.obs[steps.mask])

    def trains_policy(self, progress: float) -> bool:
        """Whether actions are learned when the share `progress` of the updates is done."""
        return True

    def check_length(self, shortest: int, longest: int) -> None:
        """Refuse (ValueError) training windows of these numbers of steps if some weights would have no gradient."""

    # ---- NumPy to tensors ---------------------------------------------------------------------------------------

    def tensors(self, steps: Steps) -> Steps:
        """NumPy steps as tensors of the types that the codecs take, on this model's device."""
        device, obs, action, reward = self.device, self.obs.tensor, self.action.tensor, self.reward.tensor
        return Steps(
            obs=obs(steps.obs, device),
            prev_obs=obs(steps.prev_obs, device),
            prev_action=action(steps.prev_action, device),
            prev_reward=reward(steps.prev_reward, device),
            first=torch.as_tensor(steps.first, device=device),
            start=torch.as_tensor(steps.start, device=device),
            action=action(steps.action, device),
            reward=reward(steps.reward, device),
            next_obs=obs(steps.next_obs, device),
            terminated=torch.as_tensor(steps.terminated, device=device),
            truncated=torch.as_tensor(steps.truncated, device=device),
            mask=torch.as_tensor(steps.mask, device=device),
            static=self.static_tensors(steps),
            extras={
                name: action(value, device) if name.endswith(OF_ACTIONS) else torch.as_tensor(value, device=device)
                for name, value in steps.extras.items()
            },
        )

    def static_tensors(self, steps: Steps) -> dict[str, Tensor]:
        """The static values of NumPy steps, such as their action masks, as tensors (B, ...)."""
        return {name: torch.as_tensor(value, device=self.device) for name, value in steps.static.items()}

    def validate(self) -> None:
        """Refuse (ValueError) statistics of normalisation that no data has; called on weights that were loaded."""
        for module in self.modules():
            if isinstance(module, Codec):
                module.validate()
