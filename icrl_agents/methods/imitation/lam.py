"""Latent action model (LAM): actions of videos without actions, from what changes between frames.

Axis letters: B rows, T steps, N real steps, W earlier frames, Z size of a latent action, L codes of a latent action.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.checks import check_choice
from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.predictor import (
    CODE,
    LATENT,
    NO_STEPS,
    RAW,
    Predictor,
    agreement,
    imitation_loss,
)
from icrl_agents.methods.base.trainable import LABELLED
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.quantizers import QUANTIZERS, Quantizer
from icrl_agents.nn.vision.encoders import mlp, motion_encoder
from icrl_agents.nn.vision.forward import make_forward

DECODED = "decoded_action"  # column of the actions that latent actions stand for


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
    decoder: bool = False  # whether to learn actions from latent actions too, which shapes them: the joint stage
    label_weight: float = 1.0  # weight of the loss of actions
    window: int = 8  # number of steps in a training window

    ADDED: ClassVar = MappingProxyType({"decoder": False, "label_weight": 1.0})
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (2, 8192),
        "latent": (1, 4096),
        "codes": (2, 65536),
        "levels": (1, 16),
        "commitment": (0.0, 100.0),
        "earlier": (0, 64),
        "label_weight": (0.0, 1e6),
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

    With `decoder` a third network predicts actions from latent actions, where they are known (the setting `labels`),
    and its gradient reaches the inverse model: labels matter where things move that are no actions (LAOM, Nikulin et
    al. 2025, arXiv 2502.00379).

    Columns: `latent_action` (Z,), after the quantiser; `latent_action_raw` (Z,), before it; `latent_action_code` (L,),
    integers; with `decoder` `decoded_action`. Loss: squared error of frame t+1, in units of the squared change from
    frame t to t+1 (of vectors, of each entry's), and the distance of raw latent actions to their codes; with `decoder`
    -log p(action | latent action).

    Deviations: codebooks start at clusters of the first batch, and dead codes are replaced; the public code does
    neither. The networks are smaller; the inverse model reads changes between frames and has no places, and the forward
    model predicts changes. Observations that are no images are standardised vectors.
    """

    Config = LAMConfig
    install = "latent"
    labelled_share = 0.25
    config: LAMConfig

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
        if cfg.decoder:
            self.columns += (DECODED,)
            self.action = make_codec(action_space, cfg.width, embeds=False)
            self.decoder = nn.Sequential(mlp([cfg.latent, cfg.width, cfg.width]), nn.GELU())

    def infer(self, context: Tensor, following: Tensor) -> Tensor:
        """Latent actions (N, Z) before the quantiser; arguments are those of `predict`."""
        return self.to_latent(self.inverse(self.between(context, following, self.config.differences)))

    def predict(self, context: Tensor, following: Tensor) -> dict[str, Tensor]:
        raw = self.infer(context, following)
        found = self.quantizer(raw)
        codes = {CODE: found.codes} if found.codes.shape[1] else {}
        actions = {DECODED: self.decode(found.vectors).mode()} if self.config.decoder else {}
        return {LATENT: found.vectors, RAW: raw, **codes, **actions}

    def decode(self, latent: Tensor) -> Distribution:
        """Distribution (N) over actions at latent actions (N, Z)."""
        assert self.action is not None
        return self.action.head(self.decoder(latent))

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        if LABELLED in steps.extras and not self.config.decoder:
            raise ValueError("labels are for a decoder, which this lam has not: give decoder=true, or leave them out")
        return steps

    def guess(self, context: Tensor, latent: Tensor) -> Tensor:
        """Next frames, given the context and latent actions (N, Z)."""
        change = self.ahead(context, latent)
        return self.current(context) + (change if self.frames.bounded else self.step * change)

    def error(self, guess: Tensor, following: Tensor) -> Tensor:
        """Mean squared error in units of the usual change in one step, so that 1 is that of predicting no change."""
        return ((guess - following) / self.step).pow(2).mean()

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        context, following = self.read_all(steps)
        found = self.quantizer(self.infer(context, following))
        terms = {"reconstruction": self.error(self.guess(context, found.vectors), following), "commitment": found.loss}
        if self.config.decoder:
            terms["action"] = self.config.label_weight * imitation_loss(self.decode(found.vectors), steps)
        return terms

    @torch.no_grad()
    def measure(self, steps: Steps) -> dict[str, Any]:
        """Quality on NumPy steps (B, T), as plain numbers.

        Returns:
            `reconstruction` and `copy`: errors of the forward model, and of the current frame, as predictions of the
            next one. With a quantiser `perplexity` and `used_codes` of each level; with `decoder` its `agreement`.
        """
        mode, _ = self.training, self.eval()
        errors, codes, actions = [], [], []  # of each block, with its number of steps
        for _, places, (context, following) in self.blocks(steps):
            found = self.quantizer(self.infer(context, following))
            guesses = self.guess(context, found.vectors), self.current(context)
            errors.append([len(places), *(len(places) * self.error(guess, following).item() for guess in guesses)])
            codes.append(found.codes)
            actions += [self.decode(found.vectors).mode()] if self.config.decoder else []
        self.train(mode)
        if not errors:
            raise ValueError(NO_STEPS)
        count, error, copied = np.sum(errors, 0)
        counts = [code.bincount().double() for code in torch.cat(codes).unbind(1)]
        shares = [number[number > 0] / number.sum() for number in counts]
        return {
            "reconstruction": error / count,
            "copy": copied / count,
            "perplexity": [float((-(share * share.log()).sum()).exp()) for share in shares],
            "used_codes": [len(share) for share in shares],
            **(agreement(actions, steps) if self.config.decoder else {}),
        }
