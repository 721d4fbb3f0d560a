"""Inverse model of Video PreTraining (VPT). Axis letters: B rows, T steps, N real steps, D width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.predictor import Predictor, agreement, imitation_loss
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.vision.encoders import mlp, motion_encoder

VPT_ACTION = "vpt_action"


@dataclass(frozen=True)
class VPTConfig(ModelConfig):
    """Sizes of an inverse model."""

    width: int = 128  # size of hidden vectors, D
    differences: bool = True  # whether it reads the change between two frames instead of both; published: no
    window: int = 8  # number of steps in a training window

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {"width": (2, 8192), "window": (1, 100_000)}

    @property
    def span(self) -> int:
        return self.window


class VPT(Predictor):
    """Inverse model: the action between two frames, learned from a few steps whose actions are known.

    Video PreTraining (Baker et al. 2022, arXiv 2206.11795) labels videos with it, so that a policy can imitate them:
    `bc` with `target="vpt_action"`. The setting `labels` limits it to that many steps.

    Column: `vpt_action`, the most probable action. Loss: -log p(action_t | frame t, frame t+1).

    Deviations: it reads two frames, and by default their difference; that of the paper reads 128 frames.
    """

    Config = VPTConfig
    config: VPTConfig
    action: Codec
    columns = (VPT_ACTION,)
    labelled_share = 1.0

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: VPTConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        cfg = self.config
        self.inverse = motion_encoder(self.frames.shape, 1 if cfg.differences else 2, cfg.width)
        self.hidden = nn.Sequential(mlp([cfg.width, cfg.width]), nn.GELU())
        self.action = make_codec(action_space, cfg.width, embeds=False)

    def infer(self, context: Tensor, following: Tensor) -> Any:
        """Distribution (N) over the actions between frames; arguments are those of `predict`."""
        frames = self.between(context, following, self.config.differences)
        return self.action.head(self.hidden(self.inverse(frames)))

    def predict(self, context: Tensor, following: Tensor) -> dict[str, Tensor]:
        return {VPT_ACTION: self.infer(context, following).mode()}

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        return {"action": imitation_loss(self.infer(*self.read_all(steps)), steps)}

    @torch.no_grad()
    def measure(self, steps: Steps) -> dict[str, Any]:
        """Agreement with the recorded actions, see `agreement`."""
        mode, _ = self.training, self.eval()
        found = [self.predict(*read)[VPT_ACTION] for _, _, read in self.blocks(steps)]
        self.train(mode)
        return agreement(found, steps)
