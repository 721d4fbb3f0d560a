"""EpisodeMethod: the step tokens, loss and window of Decision Transformers, which see the current episode only.

Axis letters: B rows, T environment steps, N window capacity in steps, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.checks import per_row
from icrl_agents.core.reward_range import with_earned, with_timesteps
from icrl_agents.core.steps import EARNED, HEAD_NOISE, TIMESTEP, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.percepts import intended_action, masked_nll
from icrl_agents.methods.base.trainable import LABELLED
from icrl_agents.methods.base.transforms import return_to_go
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.box import ReturnCodec
from icrl_agents.nn.codecs.codec import EMBEDDING_STD

RETURN_TO_GO = "return_to_go"  # extra column (B, T): sum of rewards from each step to the end of its episode
TARGET = "target_return"  # static value (B,) float32: the return that every episode of an acting agent aims at


@dataclass(frozen=True)
class EpisodeConfig(AgentConfig):
    rewards: str = "fixed"  # unit of rewards: only "fixed", as returns are sums of rewards
    return_to_go: bool = False  # whether tokens hold the return to go; in acting what is left of a target return
    horizon: int = 1000  # number of timesteps of an episode with embeddings of their own; later ones share the last

    LIMITS: ClassVar = {**AgentConfig.LIMITS, "horizon": (1, 100_000)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamics:
            raise ValueError("dynamics=True, but decision transformers predict actions only: leave dynamics out")
        if self.rewards != "fixed":
            raise ValueError(
                f"rewards={self.rewards!r}, but decision transformers see no rewards, only returns: leave rewards out"
            )


class EpisodeMethod(Method):
    """Method with one token per step: obs + prev_action + timestep, and + return to go with `return_to_go`.

    The first step of an episode has no prev_action. The timestep counts from the start of the episode, also if that
    has left the window. Returns are in the unit of the environment.
    """

    config: EpisodeConfig
    reads_rewards = False
    reset_options: ClassVar[tuple[str, ...]] = ("target_return",)
    best_return: Tensor

    def __init__(self, observation_space: Any, action_space: Any, config: EpisodeConfig):
        super().__init__(observation_space, action_space, config)
        self.timestep = nn.Embedding(config.horizon, config.width)
        nn.init.normal_(self.timestep.weight, std=EMBEDDING_STD)
        self.extra_columns = {TIMESTEP: 0.0}
        if config.return_to_go:
            self.extra_columns[EARNED] = 0.0
            self.to_go = ReturnCodec(config.width, predicts=False)
            self.register_buffer("best_return", torch.zeros(()))  # of the first training batch, the default target

    def tracked(self, steps: Steps) -> Steps:
        if TIMESTEP not in steps.extras:
            steps = with_timesteps(steps)
        return with_earned(steps) if self.extra_columns.keys() - steps.extras.keys() else steps

    def draw_static(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Action masks (B, A), if any, and the default target returns (B,)."""
        static = super().draw_static(rows, action_mask, rng)
        if self.config.return_to_go:
            static[TARGET] = np.full(rows, self.best_return.item(), np.float32)
        return static

    # ---- the model --------------------------------------------------------------------------------------------------

    def tokens(self, steps: Steps) -> Tensor:
        timestep = steps.extras[TIMESTEP].long().clamp(0, self.config.horizon - 1)
        percept = self.obs.embed(steps.obs) + self.before(steps) + self.timestep(timestep)
        if self.config.return_to_go:
            percept = percept + self.to_go.embed(self.asked(steps))
        return percept[:, :, None]  # (B, T, 1, D)

    def before(self, steps: Steps) -> Tensor:
        """Embeddings (B, T, D) of what was done before each step; zeros before the first one of an episode."""
        return self.action.embed(steps.prev_action) * ~steps.first[..., None]

    def asked(self, steps: Steps) -> Tensor:
        """Return to go (B, T) of each step: the true one, if known, else the target minus what was earned."""
        if RETURN_TO_GO in steps.extras:
            return steps.extras[RETURN_TO_GO]
        return steps.static[TARGET][:, None] - steps.extras[EARNED]

    def read_parts(self, steps: Steps, begin: Tensor) -> Tensor:
        """Hidden vectors (B, T, 1, D), each part of a row read by itself; the parts begin at `begin` (B, T) bool."""
        return self.body(self.tokens(steps)[:, :, 0], parts=begin.cumsum(1))[:, :, None]

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        """As in acting: from the episode of step `last` (B,) alone."""
        return self.read_parts(steps, steps.first)[torch.arange(len(last), device=last.device), last, 0]

    # ---- training ---------------------------------------------------------------------------------------------------

    def fit_normalization(self, steps: Steps) -> None:
        super().fit_normalization(steps)
        if not self.config.return_to_go:
            return
        told, known = self.told(steps)
        value = told.extras[RETURN_TO_GO]
        if not known.any():
            raise ValueError(
                f"no episode ends in the training windows, of {steps.mask.shape[1]} steps, so no return is known: "
                "raise window, or leave return_to_go out"
            )
        self.to_go.fit_normalization(value[known])
        whole = known & steps.first
        self.best_return.copy_(value[whole if whole.any() else known].max())

    def validate(self) -> None:
        super().validate()
        if self.config.return_to_go and not self.best_return.isfinite():
            raise ValueError(f"the best return is {self.best_return.item()}: the checkpoint is damaged")

    def told(self, steps: Steps) -> tuple[Steps, Tensor]:
        """NumPy steps or tensors (B, T) with their returns to go, if the config has them, and where they are known.

        Rows of known steps are no sequences, so they have no return.
        """
        if not self.config.return_to_go:
            return steps, steps.mask
        value, known = return_to_go(steps.map(torch.as_tensor))
        if LABELLED in steps.extras:
            known = known & (torch.as_tensor(steps.extras[LABELLED]) == 0)
        return steps._replace(extras={**steps.extras, RETURN_TO_GO: value}), known

    def loss_weight(self, steps: Steps) -> Any:
        return self.told(steps)[1].sum()

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        steps, known = self.told(steps)
        policy = self.action_distribution(self.hidden(steps)[:, :, 0], steps.static)
        noise = steps.extras.get(HEAD_NOISE)
        return {"action": masked_nll(policy, intended_action(steps), known, known.sum(), noise)}

    # ---- acting -----------------------------------------------------------------------------------------------------

    def begin(self, context: Context, index: np.ndarray, target_return: Any = None) -> None:
        """Set the target of new tasks in the rows `index`.

        Args:
            target_return: return that every episode aims at, one number or one per row (B,), in the unit of the
                environment; None: the best one in the first training batch.

        Raises:
            ValueError: not a finite number, or not one per row; or the agent was trained without returns.
        """
        if target_return is None:
            return
        if not self.config.return_to_go:
            raise ValueError("target_return is for agents that were trained with return_to_go=True: leave it out")
        self.set_static(context, TARGET, index, per_row(TARGET, target_return, context.rows)[index])

    def set_static(self, context: Context, name: str, index: np.ndarray, values: np.ndarray) -> None:
        """Replace a static value in the rows `index` (n,) by `values` (n, ...)."""
        held = context.steps.static[name].copy()
        held[index] = values
        context.steps = context.steps._replace(static={**context.steps.static, name: held})

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Any:
        return self.body.make_cache(rows, self.config.window + 1)

    def begins(self, context: Context) -> np.ndarray:
        """Column (B,) of the first visible step of each row's current episode.

        Steps of one episode have consecutive timesteps. The last step of a full row counts as the current one.
        """
        most = min(int(context.length.max()) + 1, context.window)
        column, timestep = np.arange(most), context.steps.extras[TIMESTEP][:, :most]
        border = np.ones(timestep.shape, bool)
        border[:, 1:] = timestep[:, 1:] != timestep[:, :-1] + 1
        return np.where(border & (column <= context.length[:, None]), column, 0).max(1)

    def visible(self, context: Context) -> Steps:
        begin, full = self.begins(context), context.length >= context.window
        over = full & (context.steps.terminated | context.steps.truncated)[:, -1]  # until the drop
        count = np.where(over, 0, context.length - begin)
        seen = context.read(begin, int(count.max(initial=0)))
        return seen._replace(mask=np.arange(seen.mask.shape[1]) < count[:, None])

    def handle_overflow(self, context: Context) -> None:
        """Drop finished episodes from full rows; without any, the oldest `slide` steps of the current one."""
        full = np.flatnonzero(context.length >= context.window)
        if len(full):
            begin = self.begins(context)[full]
            context.drop(full, np.where(begin > 0, begin, self.config.slide))

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        return self.read_episode(context, context.memory, active, np.zeros(context.rows, np.int64))

    def read_episode(self, context: Context, cache: Cache, active: np.ndarray, lead: np.ndarray) -> Tensor:
        """Hidden vectors (B, D) of the open steps, after the uncached steps of their episodes were fed.

        Args:
            lead: number of leading tokens (B,) in the cache that belong to no step.
        """
        begin = self.begins(context)
        over = (begin == context.length) & (cache.lengths.cpu().numpy() > lead)  # rows that hold the episode before
        if over.any():  # also in contexts that share the cache, as a failed call wipes what it appended
            context.memory.drop(np.flatnonzero(over))
        return self.read_cached(context, cache, active, begin, lead)
