"""Codecs of rewards: as they are, or relative to the rewards of the lifetime so far.

Axis letters: B rows, T steps, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from icrl_agents.core.arrays import check_finite
from icrl_agents.core.reward_range import UNSEEN, with_reward_range
from icrl_agents.core.steps import HIGHEST, LOWEST, Steps
from icrl_agents.nn.codecs.bins import number_layer
from icrl_agents.nn.codecs.box import BoxCodec
from icrl_agents.nn.codecs.distributions import Gaussian
from icrl_agents.nn.numerics import MIN_SPREAD

VARIED = "varied"  # column (B, T) bool: whether rewards up to `reward` differ
VARIED_BEFORE = "varied_before"  # the same up to `prev_reward`


class RewardCodec(BoxCodec):
    """Rewards as they are ("fixed"): a unit-variance Gaussian head; its NLL is half the squared error plus a constant.

    The head predicts, and `before` and `after` embed, rewards in the unit of `seen`: here that of the environment.
    """

    moments = 1  # head outputs per entry: the mean
    columns: Mapping[str, float] = MappingProxyType({})  # columns that a context tracks -> value before the first step
    knows_zero = True  # whether 0 means no reward, so that it may occur where it never has

    def __init__(self, width: int, predicts: bool, bins: int = 0, embeds: bool = True):
        super().__init__(spaces.Box(-np.inf, np.inf, (), np.float32), width, predicts, embeds, bins)

    def embed(self, x: Tensor, varied: Tensor | None = None) -> Tensor:
        """Embeddings (..., D) of rewards (...) in the unit of this codec; `varied` (...) is for relative units."""
        return self.linear(self.inputs(x, varied))

    def inputs(self, x: Tensor, varied: Tensor | None = None) -> Tensor:
        """What the embedding is linear in, or has bins of: (..., N)."""
        return x[..., None]

    def before(self, steps: Steps) -> Tensor:
        """Embeddings (B, T, D) of the previous rewards of steps that `seen` returned."""
        return self.embed(steps.prev_reward, steps.extras.get(VARIED_BEFORE))

    def after(self, steps: Steps) -> Tensor:
        """Embeddings (B, T, D) of the rewards of steps that `seen` returned."""
        return self.embed(steps.reward, steps.extras.get(VARIED))

    def head(self, hidden: Tensor) -> Gaussian:
        mean = self.outputs(hidden)[..., 0]
        return Gaussian(mean, torch.zeros_like(mean), self.low, self.high, dims=0)

    def check_range(self, array: np.ndarray, what: str) -> None:
        check_finite(array, what)

    def shape_hint(self, found: tuple[int, ...], rows: int | None) -> str:
        return "let the env return one number, float(reward)" if rows is None else "give one number a row"

    def fit_normalization(self, x: Tensor) -> None:
        """Fit the bins, if there are any; the unit is part of the task, or follows the lifetime."""
        if self.binned:
            self.binned.fit(self.inputs(x).flatten(0, -2))

    # ---- the unit of the rewards ------------------------------------------------------------------------------------

    def tracked(self, steps: Steps) -> Steps:
        """NumPy steps (B, T) with the columns that `seen` needs."""
        return steps

    def seen(self, steps: Steps, outcomes: bool = True) -> Steps:
        """Tensors (B, T) with rewards in the unit of this codec; apply it once.

        Args:
            outcomes: whether the rewards of the steps themselves are asked for, and not those before them only.
        """
        return steps

    def relative(self, reward: Tensor, now: Mapping[str, Tensor]) -> Tensor:
        """Rewards (B, ...) in the unit of this codec, at one step whose columns `now` hold one number a row (B,)."""
        return reward

    def absolute(self, x: Tensor, now: Mapping[str, Tensor]) -> Tensor:
        """Inverse of `relative`."""
        return x

    def possible(self, x: Tensor) -> Tensor:
        """The nearest of the rewards, in the unit of this codec, that the model has seen in training."""
        return x

    def stands_out(self, reward: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(B,) bool: rows with a reward that says something, among the real ones of (B, T)."""
        return ((reward != 0) & mask).any(1)


class RunningRewardCodec(RewardCodec):
    """Rewards relative to the lowest and highest one of the lifetime so far ("running"), the reward itself included.

    u = (reward - low) / (high - low), 0 where all rewards so far are equal; a second input says whether they are. Both
    are invariant to reward -> a * reward + b with a > 0, for each lifetime by itself.
    """

    columns = UNSEEN
    knows_zero = False

    def __init__(self, width: int, predicts: bool, bins: int = 0, embeds: bool = True):
        super().__init__(width, predicts, bins, embeds)
        if embeds:
            self.linear = number_layer(2, width, bins)

    def inputs(self, x: Tensor, varied: Tensor | None = None) -> Tensor:
        """u and whether rewards so far differ, (..., 2); None: they do."""
        flag = torch.ones_like(x) if varied is None else varied.to(x.dtype)
        return torch.stack([x, flag], -1)

    def tracked(self, steps: Steps) -> Steps:
        return steps if self.columns.keys() <= steps.extras.keys() else with_reward_range(steps)

    def seen(self, steps: Steps, outcomes: bool = True) -> Steps:
        low, high = steps.extras[LOWEST], steps.extras[HIGHEST]
        before, varied = _unit(steps.prev_reward, low, high)
        steps = steps._replace(prev_reward=before, extras={**steps.extras, VARIED_BEFORE: varied})
        if not outcomes:
            return steps
        reward, varied = _unit(steps.reward, low, high)
        return steps._replace(reward=reward, extras={**steps.extras, VARIED: varied})

    def relative(self, reward: Tensor, now: Mapping[str, Tensor]) -> Tensor:
        return _unit(reward, *(_leading(now[name], reward) for name in (LOWEST, HIGHEST)))[0]

    def absolute(self, x: Tensor, now: Mapping[str, Tensor]) -> Tensor:
        low, high = (_leading(now[name], x) for name in (LOWEST, HIGHEST))
        return torch.where(high > low, low + x * (high - low), low.masked_fill(low.isinf(), 0))

    def possible(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    def stands_out(self, reward: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return ((reward != reward[:, :1]) & mask).any(1)


REWARD_CODECS: dict[str, type[RewardCodec]] = {"running": RunningRewardCodec, "fixed": RewardCodec}


def _unit(reward: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Place (0..1) of rewards between the extremes, themselves included, and whether the extremes differ."""
    low, high = torch.minimum(low, reward), torch.maximum(high, reward)
    # relative to their size, since float32 rounding makes equal rewards differ
    varied = high - low > MIN_SPREAD * torch.maximum(low.abs(), high.abs())
    return torch.where(varied, (reward - low) / torch.where(varied, high - low, 1), 0), varied


def _leading(value: Tensor, like: Tensor) -> Tensor:
    """`value` (B,) with as many axes as `like` (B, ...)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))
