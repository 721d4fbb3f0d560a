"""LatentActions: what a policy predicts and decodes if it acts in latent actions.

Axis letters: B rows, T steps, N real steps, Z size of a latent action, L levels of codes, K codes of all levels,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.checks import check_choice
from icrl_agents.core.steps import HEAD_NOISE, MissingColumnError, Steps
from icrl_agents.methods.base.percepts import masked_nll
from icrl_agents.methods.base.predictor import CODE, LATENT, witnessed
from icrl_agents.methods.base.trainable import known
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.decoded import decoded
from icrl_agents.nn.codecs.distributions import Categorical, Distribution, Gaussian
from icrl_agents.nn.vision.encoders import mlp

MOST_CODES = 4096
SAME = 1e-3  # difference of two latent actions of one code, in units of the largest entry, that may be rounding


@dataclass(frozen=True)
class LatentFields:
    """Fields of a policy that acts in latent actions: those of the model that labelled its histories."""

    latent: int = 16  # size of a latent action, Z
    codes: int = 16  # number of codes of a level
    levels: int = 1  # levels of codes, L
    predicts: str = "codes"  # output of the policy: "codes", or the vectors themselves ("latents"), as published

    PREDICTS: ClassVar = ("codes", "latents")
    LATENT_LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "latent": (1, 4096),
        "codes": (2, MOST_CODES),
        "levels": (1, 12),
    }

    def check_latents(self) -> None:
        """ValueError for fields that do not fit together."""
        check_choice("predicts", self.predicts, self.PREDICTS)
        if self.count > MOST_CODES:
            raise ValueError(f"codes={self.codes} in levels={self.levels} are {self.count}, at most {MOST_CODES}")

    @property
    def of_one_model(self) -> tuple[str, ...]:
        return (LATENT,) if self.latent else ()

    @property
    def count(self) -> int:
        """Number of combinations of the codes of all levels, K."""
        return self.codes**self.levels


class LatentActions(nn.Module):
    """Prediction of latent actions at hidden vectors (..., D), and a decoder from them to actions.

    With codes, the policy is sum_k p(k) p(action | latent action of code k). The codec of actions belongs to the
    method, which hands it in.

    Args:
        width: D.
        fields: sizes.
        embeds: whether to build an embedding of latent actions (..., Z).
    """

    vectors: Tensor

    def __init__(self, width: int, fields: LatentFields, embeds: bool = False):
        super().__init__()
        if embeds:
            self.embed = nn.Linear(fields.latent, width)
        self.fields, self.coded = fields, fields.predicts == "codes"
        self.predict = nn.Linear(width, fields.count if self.coded else fields.latent)
        self.decoder = nn.Sequential(mlp([fields.latent, width, width]), nn.GELU())
        if self.coded:
            self.register_buffer("vectors", torch.zeros(fields.count, fields.latent))  # latent action of each code

    # ---- histories ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def read(self, steps: Steps, name: str) -> None:
        """Check the columns of NumPy steps (B, T), and copy the latent action of every code in them.

        Args:
            name: of the method, for messages.

        Raises:
            ValueError: a column is missing, of a model with other sizes, or of another model than the other.
        """
        wanted = (LATENT, CODE) if self.coded else (LATENT,)
        if missing := [column for column in wanted if column not in steps.extras]:
            raise MissingColumnError(name, missing[0], "annotate them with a lam")
        fields, latent, labelled = self.fields, steps.extras[LATENT], witnessed(steps)
        if latent.shape[-1] != fields.latent:
            raise ValueError(f"latent actions have size {latent.shape[-1]}, not latent={fields.latent}: give it")
        if not self.coded:
            return
        code = steps.extras[CODE]
        levels, most = code.shape[-1], int(code[labelled].max(initial=0))
        if levels != fields.levels or most >= fields.codes:
            raise ValueError(
                f"these histories have codes up to {most} in {levels} levels, not codes={fields.codes} and "
                f"levels={fields.levels}: give the settings of the lam"
            )
        joined, latent = self.joined(code)[labelled], latent[labelled]  # (N,), (N, Z)
        _, one, which = np.unique(joined, return_index=True, return_inverse=True)
        if np.abs(latent - latent[one[which]]).max(initial=0) > SAME * np.abs(latent).max(initial=0):
            raise ValueError(
                f"steps of one {CODE} differ in their {LATENT}, so these are of different models: annotate the "
                "histories again with one lam that has codes"
            )
        places = torch.as_tensor(joined, device=self.vectors.device)
        # zeros are of codes that no step has, but "fsq" may have a code in the middle
        some = np.where((latent == 0).all(1, keepdims=True), np.finfo(np.float32).tiny, latent)
        self.vectors[places] = torch.as_tensor(some, device=self.vectors.device)

    def joined(self, code: Any) -> Any:
        """Number (B, T) of the combination of the codes (B, T, L), of an array or tensor."""
        return sum(code[..., level] * self.fields.codes**level for level in range(self.fields.levels))

    def losses(self, hidden: Tensor, steps: Steps, actions: Codec, asked: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms at hidden vectors (B, T, D): of latent actions, and of actions where they are known.

        Args:
            asked: (B, T) bool, steps whose latent action is predicted if they have one; None: all real ones.
        """
        labelled = witnessed(steps)
        asked = labelled if asked is None else asked & labelled
        count, found, noise = steps.mask.sum(), self.predict(hidden), steps.extras.get(HEAD_NOISE)
        policy: Distribution = Categorical(found) if self.coded else unit_gaussian(found)
        target = self.joined(steps.extras[CODE]) if self.coded else steps.extras[LATENT]
        decoder = self.decode(steps.extras[LATENT], actions)
        return {
            "latent": masked_nll(policy, target, asked, count),
            "decoder": masked_nll(decoder, steps.action, known(steps) * labelled, count, noise),
        }

    # ---- acting -------------------------------------------------------------------------------------------------

    def decode(self, latent: Tensor, actions: Codec) -> Any:
        """Distribution over actions at latent actions (..., Z)."""
        return actions.head(self.decoder(latent))

    def policy(self, hidden: Tensor, actions: Codec) -> Distribution:
        """Distribution over actions at hidden vectors (..., D)."""
        found = self.predict(hidden)  # (..., K) or (..., Z)
        if not self.coded:
            return self.decode(found, actions)
        features = self.decoder(self.vectors)  # (K, D)
        return decoded(Categorical(found), actions.head(features.expand(*found.shape[:-1], *features.shape)))

    def of_actions(self, action: Tensor, actions: Codec) -> Tensor:
        """Mean latent action (B, T, Z) given an action (B, T, ...), if all codes that occur are as likely before it."""
        features = self.decoder(self.vectors).expand(*action.shape[:2], *self.vectors.shape[:1], -1)  # (B, T, K, D)
        each = action[:, :, None].expand(-1, -1, len(self.vectors), *action.shape[2:])
        fit = actions.head(features).log_prob(each)  # (B, T, K)
        unused = (self.vectors == 0).all(1)
        return fit.masked_fill(unused, -torch.inf).softmax(-1).nan_to_num() @ self.vectors


def unit_gaussian(mean: Tensor) -> Gaussian:
    """Normal distribution of unit variance, whose loss is half the squared distance and a constant."""
    end = torch.full((), np.inf, device=mean.device)
    return Gaussian(mean, torch.zeros_like(mean), -end, end)
