"""Predictor: a trainable model that predicts columns of histories from observations, and never acts.

Axis letters: B rows (histories), T environment steps, N real steps, W earlier frames.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.steps import Steps, holds_actions
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.trainable import Trainable, known
from icrl_agents.nn.codecs.codec import Codec
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.devices import to_device
from icrl_agents.nn.vision.frames import CLIP, Frames

LATENT, RAW, CODE = "latent_action", "latent_action_raw", "latent_action_code"  # columns of latent actions
SKILL = "latent_skill"  # column of what an agent does in several steps
NO_STEPS = "the histories have no steps, so there is nothing to measure: give others"
BLOCK = 256  # steps that are labelled or measured at a time
SMALLEST = 0.01  # smallest unit of changes of an entry of a vector, in its standard deviations


class Predictor(Trainable):
    """A `Trainable` that labels steps; `Annotator` writes the labels into a store.

    A subclass sets `columns`, `earlier` and `later`, and implements `loss` and `predict`.

    Raises:
        ValueError: observations are no Box.
    """

    columns: tuple[str, ...] = ()  # columns of histories that it predicts
    earlier: int = 0  # W, frames before the current one that it reads
    later: int = 0  # steps after which it reads one more frame; 0: it does not
    step: Tensor
    action: Codec | None  # codec of actions, of a model that learns them

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: ModelConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        self.frames = Frames(observation_space)
        self.action = None
        # root mean square of the change of a frame in one step; of vectors, of each entry
        self.register_buffer("step", torch.ones(() if self.frames.bounded else self.frames.shape))

    @abstractmethod
    def predict(self, context: Tensor, following: Tensor) -> dict[str, Tensor]:
        """Labels (N, ...) by column, given what `read` returns."""

    @torch.no_grad()
    def fit_normalization(self, steps: Steps) -> None:
        if not steps.mask.any():
            raise ValueError(
                "no step of the first training windows shows what it changed, as each ends an episode without a "
                "change: give histories with final observations"
            )
        self.frames.fit_normalization(steps.obs[steps.mask])
        context, following = self.read_all(steps)
        self.step.copy_(self.usual(self.after(following)[0] - self.current(context)))
        if self.action is not None:
            self.action.fit_actions(steps.action[known(steps) > 0])

    def usual(self, change: Tensor) -> Tensor:
        """Root mean square of changes (N, ...), of vectors by entry; 1 where nothing changes.

        Of vectors it is not below `SMALLEST`: an entry that only trembles does not change.
        """
        square = change.pow(2)
        found = (square.mean() if self.frames.bounded else square.mean(0)).sqrt()
        smallest = 0.0 if self.frames.bounded else SMALLEST
        return torch.where(found > 0, found.clamp_min(smallest), 1)

    def tensors(self, steps: Steps) -> Steps:
        """Tensors of NumPy steps; observations keep their dtype, so that images stay bytes until they are read.

        The real steps are those that `witnessed` names.
        """
        found = steps._replace(mask=witnessed(steps)).map(lambda value: to_device(value, self.device))
        return found if self.action is None else found._replace(action=self.action.tensor(steps.action, self.device))

    def loss_weight(self, steps: Steps) -> Any:
        return witnessed(steps).sum()

    def read(self, steps: Steps, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Frames that lead to steps and the frames after them.

        Before the first step of an episode, or of the window, its first frame is repeated.

        Args:
            steps: tensors (B, T).
            rows: (N,) indices of the steps on the axis B.
            places: (N,) their indices on the axis T.

        Returns:
            Context, the frames t-W..t on one axis: (N, (W+1) * C, H, W) or (N, (W+1) * size).
            Following frames t+1 (N, C, H, W) or (N, size); with `later` the frame that many steps after t is beside it
            on the same axis, or the last one of the episode, or of the window: (N, 2 * C, H, W) or (N, 2 * size).
        """
        index = torch.arange(steps.mask.shape[1], device=rows.device)
        start = torch.where(steps.first, index, 0).cummax(1).values[rows, places]  # (N,) first step of the episode
        back = torch.arange(self.earlier, -1, -1, device=rows.device)  # (W+1,)
        before = torch.maximum(places[:, None] - back, start[:, None])  # (N, W+1)
        context = self.frames(steps.obs[rows[:, None], before]).flatten(1, 2)
        following = self.frames(steps.next_obs[rows, places])
        if self.later:
            far = places + steps_left(steps)[rows, places].clamp_max(self.later - 1)
            following = torch.cat([following, self.frames(steps.next_obs[rows, far])], 1)
        return context, following

    def read_all(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """`read` at all real steps."""
        return self.read(steps, *steps.mask.nonzero(as_tuple=True))

    def current(self, context: Tensor) -> Tensor:
        """The last frames of the context."""
        return context[:, -self.frames.shape[0] :]

    def after(self, following: Tensor) -> tuple[Tensor, Tensor]:
        """Frames t+1, and the later ones, of following frames; the same without `later`."""
        size = self.frames.shape[0]
        return following[:, :size], following[:, -size:]

    def between(self, context: Tensor, following: Tensor, differences: bool, usual: Tensor | None = None) -> Tensor:
        """What an inverse model reads: all frames, or their changes from frame to frame (of vectors, in usual ones).

        Args:
            usual: the usual change until the following frame; None: that of one step.
        """
        frames = torch.cat([context, following], 1)
        if not differences:
            return frames
        changes = frames[:, following.shape[1] :] - context
        if self.frames.bounded:
            return changes
        units = torch.cat([*[self.step] * self.earlier, self.step if usual is None else usual])
        return (changes / units).clamp(-CLIP, CLIP)

    def blocks(self, steps: Steps) -> Iterator[tuple[int, np.ndarray, tuple[Tensor, Tensor]]]:
        """Those of NumPy steps (B, T) that have a label, a bounded number at a time: row, places (N,), and `read`."""
        for row in range(len(steps.mask)):
            part = self.tensors(steps.rows(slice(row, row + 1)))
            for places in part.mask[0].nonzero()[:, 0].split(BLOCK):
                if len(places):
                    yield row, places.cpu().numpy(), self.read(part, torch.zeros_like(places), places)

    @torch.no_grad()
    def label(self, steps: Steps) -> dict[str, np.ndarray]:
        """Labels (B, T, ...) by column of NumPy steps (B, T) of whole histories.

        Steps that are not `witnessed` have zeros, in columns of actions the nearest action.
        """
        mode, _ = self.training, self.eval()
        origin = torch.zeros(1, dtype=torch.long, device=self.device)
        example = self.predict(*self.read(self.tensors(steps.rows(slice(1))), origin, origin))
        found = {
            name: self.unlabelled(name, np.zeros((*steps.mask.shape, *value.shape[1:]), value.cpu().numpy().dtype))
            for name, value in example.items()
        }
        for row, places, read in self.blocks(steps):
            for name, value in self.predict(*read).items():
                found[name][row, places] = value.cpu().numpy()
        self.train(mode)
        return found

    def unlabelled(self, name: str, zeros: np.ndarray) -> np.ndarray:
        """A column (B, T, ...) without labels, given zeros: readers refuse values that are no actions of the space."""
        if self.action is None or not holds_actions(name):
            return zeros
        return self.action.array(self.action.tensor(zeros, torch.device("cpu"))).astype(zeros.dtype)

    @abstractmethod
    def measure(self, steps: Steps) -> dict[str, Any]:
        """Quality on NumPy steps (B, T), as plain numbers."""

    def validate(self) -> None:
        self.frames.validate()
        if not (self.step.isfinite() & (self.step > 0)).all():
            raise ValueError("the usual change of the observations is not finite or not above 0: damaged weights")
        if self.action is not None:
            self.action.validate()


def witnessed(steps: Steps) -> Any:
    """Real steps whose outcome a frame shows, (B, T) bool, of arrays or tensors: those that models of videos label.

    Where data lack the final observation of an episode that terminated (D4RL, LAPO, Procgen), the last one stands for
    it. What was done there looks like doing nothing, so a termination that changes no observation has no label.
    """
    shown, ends = steps.mask & True, steps.mask & steps.terminated
    change = steps.obs[ends] != steps.next_obs[ends]
    shown[ends] = change.reshape(-1, math.prod(steps.obs.shape[2:])).any(1)
    return shown


def steps_left(steps: Steps) -> Tensor:
    """Number (B, T) of real steps after each in its episode, as far as they are in these tensors (B, T)."""
    index = torch.arange(steps.mask.shape[1], device=steps.mask.device)
    last = torch.ones_like(steps.mask)
    last[:, :-1] = steps.first[:, 1:] | ~steps.mask[:, 1:]
    return torch.where(last, index, len(index)).flip(1).cummin(1).values.flip(1) - index


def imitation_loss(policy: Distribution, steps: Steps) -> Tensor:
    """Mean loss of distributions (N) over the actions of the N real steps, of those that are known."""
    return (policy.loss(steps.action[steps.mask]) * known(steps)[steps.mask]).sum() / steps.mask.sum().clamp_min(1)


def agreement(found: list[Tensor], steps: Steps) -> dict[str, float]:
    """How well predicted actions fit those of NumPy steps (B, T).

    Args:
        found: predicted actions of the steps that are `witnessed`, row after row, in blocks (N, ...).

    Returns:
        `accuracy`, the share of equal actions, or of equal entries of vectors; of real numbers `r2`, the explained
        share of their variance.

    Raises:
        ValueError: there are no steps.
    """
    if not found:
        raise ValueError(NO_STEPS)
    return share_right(torch.cat(found).cpu().numpy(), steps.action[witnessed(steps)])


def share_right(mine: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """`accuracy` or `r2`, as in `agreement`, of actions (N, ...) as predictions of others."""
    if theirs.dtype.kind != "f":
        return {"accuracy": float((mine == theirs).mean())}
    total = ((theirs - theirs.mean(0)) ** 2).sum()
    return {"r2": float(1 - ((mine - theirs) ** 2).sum() / total) if total else 0.0}
