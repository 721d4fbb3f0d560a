"""Latent action model (LAM): actions of videos without actions, from what changes between frames.

Axis letters: B rows, T steps, N real steps, W earlier frames, Z size of a latent action, S size of a skill (Z, or 0
without skills), L codes of a latent action.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.predictor import (
    CODE,
    LATENT,
    NO_STEPS,
    RAW,
    SKILL,
    Predictor,
    agreement,
    imitation_loss,
    steps_left,
)
from icrl_agents.methods.base.trainable import LABELLED
from icrl_agents.methods.imitation.lam_config import LAMConfig
from icrl_agents.methods.imitation.latents import Found, Networks, Skill, average, error_ahead, squared_error
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.quantizers import Quantizer
from icrl_agents.nn.vision.encoders import mlp, motion_encoder
from icrl_agents.nn.vision.forward import make_forward
from icrl_agents.nn.vision.vit import VitSize

DECODED = "decoded_action"  # column of the actions that latent actions stand for


class LAM(Predictor):
    """Latent actions of videos (Schmidt and Jiang 2024, arXiv 2312.10812): what an agent did, from what it changed.

    An inverse model reads frames t-W..t+1 and gives a latent action; a forward model reads frames t-W..t and the latent
    action and predicts frame t+1. Few codes are a bottleneck: what they carry is what the frames before do not tell,
    the action. No actions are read.

    With `decoder` a third network predicts actions from latent actions, where they are known (the setting `labels`),
    and its gradient reaches the inverse model: labels matter where things move that are no actions (LAOM, Nikulin et
    al. 2025, arXiv 2502.00379).

    With `hierarchy` a second pair of models finds skills: the vector between the frames t and t+k, from which frame t+k
    is predicted. The inverse model of a step reads the skill too, so a latent action refines it, and the forward model
    of a step reads both.

    Columns: `latent_action` (Z,), after the quantiser; `latent_action_raw` (Z,), before it; `latent_action_code` (L,),
    integers; with `decoder` `decoded_action`; with `hierarchy` `latent_skill` (Z,). Loss: squared error of frame t+1,
    in units of the squared change from frame t to t+1 (of vectors, of each entry's), and the distance of raw latent
    actions to their codes; with `ahead` the mean error of frames t+1..t+k, as many as the episode has in the window;
    with `hierarchy` both terms of skills too; with `decoder` -log p(action | latent action).

    Deviations: codebooks start at clusters of the first batch, and dead codes are replaced; the public code does
    neither. The networks are smaller; the inverse model reads changes between frames and has no places, and the forward
    model predicts changes. The forward model of "vit" has an encoder of its own, which sees no later frame. Predictions
    of k frames are compared with these k frames. Observations that are no images are standardised vectors.
    """

    Config = LAMConfig
    install = "latent"
    labelled_share = 0.25
    config: LAMConfig

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: LAMConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        cfg = self.config
        for name, given in (("encoder='vit'", cfg.encoder == "vit"), ("bounded=true", cfg.bounded)):
            if given and not self.frames.bounded:
                raise ValueError(f"{name} is for images, not for {printable(observation_space, 60)}: leave it out")
        self.columns = (LATENT, RAW) if cfg.quantizer == "none" else (LATENT, RAW, CODE)
        self.earlier, self.later = cfg.earlier, cfg.hierarchy
        told = cfg.latent if cfg.hierarchy else 0  # S
        self.inverse, self.to_latent, self.quantizer, self.ahead = self.networks(told)
        if cfg.hierarchy:
            self.columns += (SKILL,)
            self.skill = Skill(self.networks(), self.step)
        if cfg.decoder:
            self.columns += (DECODED,)
            self.action = make_codec(action_space, cfg.width, embeds=False)
            self.decoder = nn.Sequential(mlp([cfg.latent, cfg.width, cfg.width]), nn.GELU())

    def networks(self, told: int = 0) -> Networks:
        """An inverse and a forward model; both also read the `told` numbers of a skill."""
        cfg, shape, count = self.config, self.frames.shape, self.earlier + 1
        vit = VitSize(cfg.layers, cfg.heads, cfg.patch) if cfg.encoder == "vit" else None
        return Networks(
            motion_encoder(shape, count if cfg.differences else count + 1, cfg.width, vit),
            mlp([cfg.width + told, cfg.width, cfg.latent]),
            Quantizer(cfg.quantizer, cfg.latent, cfg.codes, cfg.levels, cfg.commitment),
            make_forward(shape, count, cfg.latent + told, cfg.width, vit),
        )

    def infer(self, context: Tensor, following: Tensor) -> Found:
        """Latent actions and skills; arguments are those of `predict`."""
        after, later = self.after(following)
        hidden, skill = self.inverse(self.between(context, after, self.config.differences)), None
        if self.config.hierarchy:
            skill = self.skill(self.between(context, later, self.config.differences, self.skill.step))
            hidden = torch.cat([hidden, skill.vectors], 1)
        raw = self.to_latent(hidden)
        return Found(raw, self.quantizer(raw), skill)

    def predict(self, context: Tensor, following: Tensor) -> dict[str, Tensor]:
        found = self.infer(context, following)
        codes = {CODE: found.action.codes} if found.action.codes.shape[1] else {}
        skills = {SKILL: found.skill.vectors} if found.skill else {}
        actions = {DECODED: self.decode(found.action.vectors).mode()} if self.config.decoder else {}
        return {LATENT: found.action.vectors, RAW: found.raw, **codes, **skills, **actions}

    def decode(self, latent: Tensor) -> Distribution:
        """Distribution (N) over actions at latent actions (N, Z)."""
        assert self.action is not None
        return self.action.head(self.decoder(latent))

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        if LABELLED in steps.extras and not self.config.decoder:
            raise ValueError("labels are for a decoder, which this lam lacks: give decoder=true, or leave them out")
        if LABELLED in steps.extras and self.config.earlier:
            raise ValueError(
                f"labels are single steps, without the frames before them that earlier={self.config.earlier} reads: "
                "give earlier=0, or leave labels out"
            )
        return steps

    @torch.no_grad()
    def fit_normalization(self, steps: Steps) -> None:
        super().fit_normalization(steps)
        if self.config.hierarchy:
            context, following = self.read_all(steps)
            self.skill.step.copy_(self.usual(self.after(following)[1] - self.current(context)))

    def validate(self) -> None:
        super().validate()
        if self.config.hierarchy and not (self.skill.step.isfinite() & (self.skill.step > 0)).all():
            raise ValueError("the usual change in a skill is not finite or not above 0: damaged weights")

    def guess(self, context: Tensor, told: Tensor) -> Tensor:
        """Next frames, given the context and what `Found.told` has: (N, Z + S)."""
        return self.framed(self.ahead(context, told), context, self.step)

    def framed(self, output: Tensor, context: Tensor, usual: Tensor) -> Tensor:
        """Frames of the outputs of a forward model, which are changes in usual ones, or bounded images."""
        if self.config.bounded:
            return output.tanh() / 2
        return self.current(context) + (output if self.frames.bounded else usual * output)

    def guess_later(self, context: Tensor, skill: Tensor) -> Tensor:
        """Frames t+k, given the context and skills (N, S)."""
        return self.framed(self.skill.ahead(context, skill), context, self.skill.step)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        context, following = self.read_all(steps)
        found, (after, later) = self.infer(context, following), self.after(following)
        if self.config.ahead == 1:
            error = average(squared_error(self.guess(context, found.told), after, self.step))
        else:
            left = steps_left(steps)[steps.mask].clamp_max(self.config.ahead - 1)
            error = error_ahead(self.guess, found.told, context, after, left, self.step)
        terms = {"reconstruction": error, "commitment": found.action.loss}
        if found.skill:
            guess = self.guess_later(context, found.skill.vectors)
            terms["skill"] = average(squared_error(guess, later, self.skill.step))
            terms["skill_commitment"] = found.skill.loss
        if self.config.decoder:
            terms["action"] = self.config.label_weight * imitation_loss(self.decode(found.action.vectors), steps)
        return terms

    @torch.no_grad()
    def measure(self, steps: Steps) -> dict[str, Any]:
        """Quality on NumPy steps (B, T), as plain numbers.

        Returns:
            `reconstruction` and `copy`: errors of the forward model, and of the current frame, as predictions of the
            next one; with `hierarchy` `skill` and `skill_copy`, the same of frame t+k. With a quantiser `perplexity`,
            `used_codes` and `dead_codes` of each level; with `decoder` its `agreement`.
        """
        mode, _ = self.training, self.eval()
        counts, errors, codes, actions = [], [], [], []  # of each block
        for _, places, (context, following) in self.blocks(steps):
            found = self.infer(context, following)
            counts.append(len(places))
            errors.append(self.errors(context, following, found))
            codes.append(found.action.codes)
            actions += [self.decode(found.action.vectors).mode()] if self.config.decoder else []
        self.train(mode)
        if not errors:
            raise ValueError(NO_STEPS)
        totals = [code.bincount().double() for code in torch.cat(codes).unbind(1)]
        shares = [number[number > 0] / number.sum() for number in totals]
        of_codes = {
            "perplexity": [float((-(share * share.log()).sum()).exp()) for share in shares],
            "used_codes": [len(share) for share in shares],
            "dead_codes": [self.quantizer.codes - len(share) for share in shares],
        }
        return {
            **{name: float(np.average([each[name] for each in errors], weights=counts)) for name in errors[0]},
            **(of_codes if shares else {}),
            **(agreement(actions, steps) if self.config.decoder else {}),
        }

    def errors(self, context: Tensor, following: Tensor, found: Found) -> dict[str, float]:
        """Mean errors that `measure` returns."""
        (after, later), current = self.after(following), self.current(context)
        guesses = {
            "reconstruction": (self.guess(context, found.told), after, self.step),
            "copy": (current, after, self.step),
        }
        if found.skill:
            guesses["skill"] = (self.guess_later(context, found.skill.vectors), later, self.skill.step)
            guesses["skill_copy"] = (current, later, self.skill.step)
        return {name: squared_error(*guess).mean().item() for name, guess in guesses.items()}
