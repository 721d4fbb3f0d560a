"""Latent action model (LAM): actions of videos without actions, from what changes between frames.

Axis letters: B rows, T steps, N real steps, W earlier frames, Z size of a latent action, L codes of a latent action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.checks import check_choice
from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.predictor import Predictor
from icrl_agents.nn.quantizers import QUANTIZERS, Quantizer
from icrl_agents.nn.vision.encoders import mlp, motion_encoder
from icrl_agents.nn.vision.forward import make_forward

LATENT, RAW, CODE = "latent_action", "latent_action_raw", "latent_action_code"


@dataclass(frozen=True)
class LAMConfig(ModelConfig):
    """Sizes of a latent action model."""

    width: int = 128  # size of hidden vectors
    latent: int = 16  # size of a latent action, Z
    quantizer: str = "vq"  # quantiser of latent actions: "vq", "residual-vq", "fsq" or "none"
    codes: int = 16  # number of codes of a level
    levels: int = 2  # levels of "residual-vq"
    commitment: float = 0.05  # weight of the distance between a latent action and its code
    earlier: int = 0  # frames before the current one that both models read, W; published: 1
    differences: bool = True  # whether the inverse model reads changes between frames instead of frames; published: no
    window: int = 8  # number of steps in a training window

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (2, 8192),
        "latent": (1, 4096),
        "codes": (2, 65536),
        "levels": (1, 16),
        "commitment": (0.0, 100.0),
        "earlier": (0, 64),
        "window": (1, 100_000),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("quantizer", self.quantizer, QUANTIZERS)

    @property
    def span(self) -> int:
        return self.window


class LAM(Predictor):
    """Latent actions of videos (Schmidt and Jiang 2024, arXiv 2312.10812): what an agent did, from what it changed.

    An inverse model reads frames t-W..t+1 and gives a latent action; a forward model reads frames t-W..t and the latent
    action and predicts frame t+1. Few codes are a bottleneck: what they carry is what the frames before do not tell,
    the action. No actions are read.

    Columns: `latent_action` (Z,), after the quantiser; `latent_action_raw` (Z,), before it; `latent_action_code` (L,),
    integers. Loss: squared error of frame t+1, in units of the squared change from frame t to t+1 (of vectors, of each
    entry's), and the distance of raw latent actions to their codes.

    Deviations: codebooks start at clusters of the first batch, and dead codes are replaced; the public code does
    neither. The networks are smaller; the inverse model reads changes between frames and has no places, and the forward
    model predicts changes. Observations that are no images are standardised vectors.
    """

    Config = LAMConfig
    install = "latent"
    config: LAMConfig
    step: Tensor

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: LAMConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        cfg, shape = self.config, self.frames.shape
        self.columns = (LATENT, RAW) if cfg.quantizer == "none" else (LATENT, RAW, CODE)
        self.earlier, count = cfg.earlier, cfg.earlier + 1
        self.inverse = motion_encoder(shape, count if cfg.differences else count + 1, cfg.width)
        self.to_latent = mlp([cfg.width, cfg.width, cfg.latent])
        self.quantizer = Quantizer(cfg.quantizer, cfg.latent, cfg.codes, cfg.levels, cfg.commitment)
        self.ahead = make_forward(shape, count, cfg.latent, cfg.width)
        # root mean square of the change of a frame in one step, of each entry of a vector
        self.register_buffer("step", torch.ones(() if self.frames.bounded else shape))

    def infer(self, context: Tensor, following: Tensor) -> Tensor:
        """Latent actions (N, Z) before the quantiser; arguments are those of `predict`."""
        frames = torch.cat([context, following], 1)
        if self.config.differences:
            frames = frames[:, following.shape[1] :] - context
        return self.to_latent(self.inverse(frames))

    def predict(self, context: Tensor, following: Tensor) -> dict[str, Tensor]:
        raw = self.infer(context, following)
        found = self.quantizer(raw)
        return {LATENT: found.vectors, RAW: raw, **({CODE: found.codes} if found.codes.shape[1] else {})}

    def guess(self, context: Tensor, latent: Tensor) -> Tensor:
        """Next frames, given the context and latent actions (N, Z)."""
        change = self.ahead(context, latent)
        return self.current(context) + (change if self.frames.bounded else self.step * change)

    def current(self, context: Tensor) -> Tensor:
        """The last frames of the context."""
        return context[:, -self.frames.shape[0] :]

    def error(self, guess: Tensor, following: Tensor) -> Tensor:
        """Mean squared error in units of the usual change in one step, so that 1 is that of predicting no change."""
        return ((guess - following) / self.step).pow(2).mean()

    @torch.no_grad()
    def fit_normalization(self, steps: Steps) -> None:
        super().fit_normalization(steps)
        context, following = self.read_all(steps)
        change = (following - self.current(context)).pow(2)
        step = (change.mean() if self.frames.bounded else change.mean(0)).sqrt()
        self.step.copy_(step.masked_fill(step == 0, 1))

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        context, following = self.read_all(steps)
        found = self.quantizer(self.infer(context, following))
        return {"reconstruction": self.error(self.guess(context, found.vectors), following), "commitment": found.loss}

    @torch.no_grad()
    def measure(self, steps: Steps) -> dict[str, Any]:
        """Quality on NumPy steps (B, T), as plain numbers.

        Returns:
            `reconstruction` and `copy`: errors of the forward model, and of the current frame, as predictions of the
            next one. With a quantiser `perplexity` and `used_codes` of each level.
        """
        mode, _ = self.training, self.eval()
        errors, codes = [], []  # of each block, with its number of steps
        for _, places, (context, following) in self.blocks(steps):
            found = self.quantizer(self.infer(context, following))
            guesses = self.guess(context, found.vectors), self.current(context)
            errors.append([len(places), *(len(places) * self.error(guess, following).item() for guess in guesses)])
            codes.append(found.codes)
        self.train(mode)
        if not errors:
            raise ValueError("the histories have no steps, so there is nothing to measure: give others")
        count, error, copied = np.sum(errors, 0)
        counts = [code.bincount().double() for code in torch.cat(codes).unbind(1)]
        shares = [number[number > 0] / number.sum() for number in counts]
        return {
            "reconstruction": error / count,
            "copy": copied / count,
            "perplexity": [float((-(share * share.log()).sum()).exp()) for share in shares],
            "used_codes": [len(share) for share in shares],
        }

    def validate(self) -> None:
        super().validate()
        if not (self.step.isfinite() & (self.step > 0)).all():
            raise ValueError("the usual change of the observations is not finite or not above 0: damaged weights")
