"""A sequence model over environment steps: what a method says about tokens and losses, and what all methods share.

Axis letters: B rows (environments), T environment steps, S tokens (slots) of a step, D width, L tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from icrl_agents.codecs import Codec, RewardCodec, make_codec
from icrl_agents.config import AgentConfig
from icrl_agents.distributions import Distribution
from icrl_agents.nn.transformer import Transformer
from icrl_agents.pretrained import Pretrained
from icrl_agents.steps import OF_ACTIONS, Steps


class StepModel(Pretrained):
    """Which tokens a step becomes, and what is predicted where. It knows nothing of how it acts: see `ICAgent`.

    A method sets `Config`, `slots` (the names of a step's tokens; an action is predicted at "percept") and `extends`,
    and implements `tokens` and `loss`.
    """

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    slots: tuple[str, ...] = ("percept",)
    extends: bool = True  # tokens of step t depend on step t alone, so they can be cached
    aligned: ClassVar[bool] = False  # windows to train on begin with an episode
    any_actions: ClassVar[bool] = False  # it chooses among whatever actions it is told of
    heads: ClassVar[bool] = False  # obs and reward are predicted without dynamics, too

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: AgentConfig | None = None,
    ):
        super().__init__()
        self.config = self.Config() if config is None else config
        self.observation_space, self.action_space = observation_space, action_space
        width, predicts = self.config.width, self.config.dynamics or self.heads
        self.obs = make_codec(observation_space, width, predicts)
        self.action = self.action_codec(action_space)
        self.reward = RewardCodec(width, predicts)
        self.body = Transformer(width, self.config.layers, self.config.heads, self.config.inner, self.config.dropout)
        self.source = "new"
        self.facts: dict[str, Any] = {}  # where the weights come from; written into config.json and the card

    # ---- what a method says -------------------------------------------------------------------------------------

    def action_codec(self, space: gymnasium.Space) -> Codec:
        """How actions are told and predicted."""
        return make_codec(space, self.config.width)

    @abstractmethod
    def tokens(self, steps: Steps) -> Tensor:
        """The tokens of complete steps (B, T), as (B, T, S, D)."""

    @abstractmethod
    def loss(self, steps: Steps) -> dict[str, Tensor]:
        """Named terms, each a masked mean of negative log-likelihoods; their sum is minimised."""

    def fit(self, steps: Steps) -> None:
        """Take the statistics of normalisation from the first batch of a training."""
        self.obs.fit(steps.obs[steps.mask])

    def prepare(self, steps: Steps, rng: np.random.Generator, done: float = 1.0) -> Steps:
        """What is done to a batch of windows (NumPy) before the loss sees it, such as reordering its steps.

        `done` is the share of the training that is over, for methods that begin with something easier.
        """
        return steps

    def count(self, steps: Steps) -> Any:
        """How many things the terms of the loss are means over: by default the real steps, NumPy's or tensors."""
        return steps.mask.sum()

    def acts_at(self, done: float) -> bool:
        """Whether actions are learned when the share `done` of the training is over."""
        return True

    def check_length(self, fewest: int, most: int) -> None:
        """Refuse a training on windows of so many steps that would leave weights without anything to learn from."""

    def forward(self, steps: Steps) -> dict[str, Tensor]:
        return self.loss(steps)

    def query(self, steps: Steps) -> Tensor:
        """The tokens (B, T, D) at which each step's action is predicted, seen after all tokens of the steps before.

        In the step layouts that is the step's own first token, which stays in the sequence.
        """
        return self.tokens(steps)[:, :, 0]

    @property
    def query_stays(self) -> bool:
        return self.slots[0] == "percept"

    def choices(self, hidden: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """The policy at hidden vectors (B, ..., D) of rows that know what is `given`: legal actions only."""
        distribution: Any = self.action.head(hidden)
        return distribution.among(given["action_mask"]) if "action_mask" in given else distribution

    def fits(self, action_space: gymnasium.Space) -> bool:
        """Whether the agent can also act in an action space that is not its own."""
        return False

    def give(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What `rows` new lifetimes know from the start: their action sets (B, A), where not all actions are legal."""
        return {} if action_mask is None else {"action_mask": action_mask}

    # ---- whole windows at once ----------------------------------------------------------------------------------

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        """The hidden vectors (B, D) at which each row's action at step `last` (B,) is read, in one pass.

        Of that step only what is known before acting counts, and steps after it do not.
        """
        tokens = self.tokens(steps)
        rows, place = torch.arange(len(last), device=last.device), last * tokens.shape[2]
        tokens = tokens.flatten(1, 2)
        if not self.query_stays:
            tokens = with_query(tokens, self.query(steps), last)
        return self.body(tokens)[rows, place]

    def hidden(self, steps: Steps) -> Tensor:
        """The hidden vectors (B, T, S, D) of whole windows of complete steps, in one pass."""
        tokens = self.tokens(steps)
        return self.body(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])

    def tensors(self, steps: Steps) -> Steps:
        """NumPy steps as tensors of the types the codecs take, on the agent's device."""
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
            given=self.given(steps),
            extras={
                name: action(value, device) if name.endswith(OF_ACTIONS) else torch.as_tensor(value, device=device)
                for name, value in steps.extras.items()
            },
        )

    def given(self, steps: Steps) -> dict[str, Tensor]:
        """What is given with NumPy steps, as tensors."""
        return {name: torch.as_tensor(value, device=self.device) for name, value in steps.given.items()}

    @property
    def device(self) -> torch.device:
        return self.body.norm.weight.device


def with_query(tokens: Tensor, query: Tensor, last: Tensor) -> Tensor:
    """`tokens` (B, T, D) with the query (B, T, D) of each row's step `last` (B,) in its place; one token a step."""
    rows, tokens = torch.arange(len(tokens), device=tokens.device), tokens.clone()
    tokens[rows, last] = query[rows, last]
    return tokens
