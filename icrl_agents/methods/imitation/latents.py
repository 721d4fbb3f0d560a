"""Parts of latent action models: what they find between frames, skills, and errors of several frames.

Axis letters: N steps, Z size of a latent action, S size of a skill (0 without one).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.nn.quantizers import Quantized, Quantizer
from icrl_agents.nn.vision.frames import CLIP


class Found(NamedTuple):
    """What inverse models find between frames."""

    raw: Tensor  # (N, Z) latent actions before the quantiser
    action: Quantized  # latent actions
    skill: Quantized | None  # what the agent does in several steps

    @property
    def told(self) -> Tensor:
        """All that the forward model is told about the next frame: (N, Z + S)."""
        return torch.cat([self.action.vectors, self.skill.vectors], 1) if self.skill else self.action.vectors


class Networks(NamedTuple):
    """An inverse model in three parts, and a forward model."""

    inverse: nn.Module  # vectors of frames
    to_latent: nn.Module  # latent actions before the quantiser of these vectors
    quantizer: Quantizer
    ahead: nn.Module  # changes of the latest frame, given frames and latent actions


class Skill(nn.Module):
    """Skills, which are the latent actions of k steps: an inverse model of frames t and t+k, and their forward model.

    Args:
        networks: the two models.
        step: tensor of the shape of a usual change.
    """

    step: Tensor

    def __init__(self, networks: Networks, step: Tensor):
        super().__init__()
        self.inverse, self.to_latent, self.quantizer, self.ahead = networks
        self.register_buffer("step", torch.ones_like(step))  # root mean square of the change of a frame in k steps

    def forward(self, frames: Tensor) -> Quantized:
        return self.quantizer(self.to_latent(self.inverse(frames)))


def squared_error(guess: Tensor, frames: Tensor, usual: Tensor) -> Tensor:
    """Squared errors in units of the usual change, so that 1 is about that of predicting no change.

    Of vectors, whose entries have units of their own, errors grow linearly beyond 10 units (Huber 1964): a jump of an
    entry that hardly moves would outweigh everything else.
    """
    error = (guess - frames) / usual
    if not usual.dim():
        return error.pow(2)
    return 2 * F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=CLIP)


def average(errors: Tensor) -> Tensor:
    """Mean () of the errors (N, ...) of steps; 0 without any, as in a part of a batch."""
    return errors.mean() if len(errors) else errors.sum()


def error_ahead(
    guess: Callable[[Tensor, Tensor], Tensor], told: Tensor, context: Tensor, after: Tensor, left: Tensor, usual: Tensor
) -> Tensor:
    """Mean squared error () of the frames t+1..t+k, each predicted from the predictions before it, over k and steps.

    Each prediction is told what was found between its own two frames.

    Args:
        guess: function from context and told numbers to the next frames.
        told, context, after: `Found.told`, contexts and frames t+1 of N steps, row after row.
        left: (N,) number of steps that follow each, k - 1 or less where the episode ends.
        usual: see `squared_error`.
    """
    steps, total = torch.arange(len(left), device=left.device), after.new_zeros(len(left))
    for later in range(int(left.max()) + 1 if len(left) else 1):
        goes_on = left[steps] >= later
        steps, context = steps[goes_on], context[goes_on]
        frames = guess(context, told[steps + later])
        error = squared_error(frames, after[steps + later], usual).flatten(1).mean(1)
        total = total.index_add(0, steps, error)
        context = torch.cat([context[:, frames.shape[1] :], frames], 1)
    return average(total / (left + 1))
