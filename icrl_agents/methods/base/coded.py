"""CodedModel: a trainable model with codecs of observations, actions and rewards.

Axis letters: B rows (lifetimes), T environment steps.
"""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from torch import Tensor

from icrl_agents.core.steps import HEAD_NOISE, Steps, holds_actions
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.trainable import Trainable, known
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.rewards import REWARD_CODECS
from icrl_agents.nn.devices import to_device


class CodedModel(Trainable):
    """A `Trainable` that embeds and predicts values by codecs of its spaces.

    Raises:
        ValueError: no codec supports one of the spaces.
    """

    reads_actions: ClassVar[bool] = True  # embeds actions
    reads_rewards: ClassVar[bool] = True  # embeds rewards
    always_predicts: ClassVar[bool] = False  # obs and reward have heads also without `dynamics`

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: ModelConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        predicts = self.config.dynamics or self.always_predicts  # heads of obs and reward; actions always have one
        self.obs = make_codec(observation_space, self.config.width, predicts, bins=self.config.bins)
        self.action = self.action_codec(action_space)
        rewards = REWARD_CODECS[self.config.rewards]
        self.reward = rewards(self.config.width, predicts, self.config.bins, embeds=self.reads_rewards)

    def action_codec(self, space: gymnasium.Space) -> Codec:
        """Codec that embeds and predicts actions."""
        return make_codec(space, self.config.width, head=self.config.head, embeds=self.reads_actions)

    def draw_noise(self, steps: Steps, rng: np.random.Generator) -> Steps:
        """Add the random numbers of the action head's loss, if it takes any, to a batch from `prepare_batch`.

        They are columns, so that neither micro-batches nor processes change what a step is trained with.
        """
        if not (size := self.action.noise_size):
            return steps
        noise = rng.standard_normal((*steps.mask.shape, size), np.float32)
        return steps._replace(extras={**steps.extras, HEAD_NOISE: noise})

    def fit_normalization(self, steps: Steps) -> None:
        """Set the normalisation statistics of the codecs from the first batch of a training."""
        self.obs.fit_normalization(steps.obs[steps.mask])
        self.action.fit_actions(steps.action[known(steps) > 0])
        self.reward.fit_normalization(steps.reward[steps.mask])

    # ---- NumPy to tensors ---------------------------------------------------------------------------------------

    def tracked(self, steps: Steps) -> Steps:
        """NumPy steps with the columns of `core.reward_range` that it reads: without them they begin a lifetime."""
        return self.reward.tracked(steps)

    def tensors(self, steps: Steps, outcomes: bool = True) -> Steps:
        """Tensors of NumPy steps, in the dtypes of the codecs and on the device of this model.

        Rewards are in the unit of the reward codec.

        Args:
            outcomes: whether to convert the columns that are known only after an action; else they stay as they are,
                which is faster.
        """
        steps = self.tracked(steps)
        device, obs, action, reward = self.device, self.obs.tensor, self.action.tensor, self.reward.tensor
        found = steps._replace(
            obs=obs(steps.obs, device),
            prev_obs=obs(steps.prev_obs, device),
            prev_action=action(steps.prev_action, device),
            prev_reward=reward(steps.prev_reward, device),
            first=to_device(steps.first, device),
            start=to_device(steps.start, device),
            mask=to_device(steps.mask, device),
            static=self.static_tensors(steps),
            extras={
                name: action(value, device) if holds_actions(name) else to_device(value, device)
                for name, value in steps.extras.items()
            },
        )
        if outcomes:
            found = found._replace(
                action=action(steps.action, device),
                reward=reward(steps.reward, device),
                next_obs=obs(steps.next_obs, device),
                terminated=to_device(steps.terminated, device),
                truncated=to_device(steps.truncated, device),
            )
        return self.reward.seen(found, outcomes)

    def static_tensors(self, steps: Steps) -> dict[str, Tensor]:
        """Static values (B, ...) of NumPy steps, such as action masks, as tensors."""
        return {name: to_device(value, self.device) for name, value in steps.static.items()}

    def validate(self) -> None:
        for module in self.modules():
            if isinstance(module, Codec):
                module.validate()
