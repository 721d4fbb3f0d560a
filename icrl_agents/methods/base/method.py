"""The contract of a method: which tokens a step becomes, what is predicted where, and how a context is read.

A method holds weights and no running state: its acting hooks are functions of a `Context`, which an `ICAgent` owns.
Axis letters: B rows (environments), T environment steps, S tokens (slots) of a step, L tokens, D width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import UNKNOWN, Context, Memory
from icrl_agents.methods.base.trainable import Trainable
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.numerics import acting
from icrl_agents.nn.transformer import Transformer


class Method(Trainable):
    """A `Trainable` that predicts actions; `ICAgent` acts with it.

    A subclass sets `Config`, `slots` (the names of a step's tokens; an action is predicted at "percept") and `extends`,
    and implements `tokens` and `loss`. The hooks under "acting" have defaults for methods that see a window of steps.
    """

    slots: tuple[str, ...] = ("percept",)
    extends: bool = True  # tokens of step t depend on step t alone, so they can be cached
    variable_actions: ClassVar[bool] = False  # it acts in any set of actions 0, 1, ..., not only that of its space
    has_latents: ClassVar[bool] = False  # steps that left the window are folded into latents, see `replace_latents`
    reset_options: ClassVar[tuple[str, ...]] = ()  # keywords of `ICAgent.reset` that `begin` takes
    extra_columns: Mapping[str, float] = MappingProxyType({})  # further columns of a context, and their default value

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: AgentConfig | None = None,
    ):
        super().__init__(observation_space, action_space, config)
        sizes = self.config.layers, self.config.heads, self.config.inner, self.config.dropout
        self.body = Transformer(self.config.width, *sizes)

    @property
    def device(self) -> torch.device:
        return self.body.norm.weight.device

    @property
    def tokens_per_step(self) -> int:  # type: ignore[override]
        return len(self.slots)

    # ---- tokens and predictions ---------------------------------------------------------------------------------

    @abstractmethod
    def tokens(self, steps: Steps) -> Tensor:
        """The tokens of complete steps (B, T), as (B, T, S, D)."""

    def query(self, steps: Steps) -> Tensor:
        """The tokens (B, T, D) at which each step's action is predicted, behind all tokens of the steps before.

        By default the step's own first token, which stays in the sequence.
        """
        return self.tokens(steps)[:, :, 0]

    @property
    def query_stays(self) -> bool:
        return self.slots[0] == "percept"

    def action_distribution(self, hidden: Tensor, static: Mapping[str, Tensor]) -> Distribution:
        """The policy at hidden vectors (B, ..., D) of rows with these `static` values: legal actions only."""
        distribution: Any = self.action.head(hidden)
        return distribution.among(static[ACTION_MASK]) if ACTION_MASK in static else distribution

    def accepts_action_space(self, action_space: gymnasium.Space) -> bool:
        """Whether the method can also act in an action space that is not its own."""
        return False

    def draw_static(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Values (B, ...) that are constant over each of `rows` lifetimes: the action mask (B, A), if there is one."""
        return {} if action_mask is None else {ACTION_MASK: action_mask}

    def hidden(self, steps: Steps) -> Tensor:
        """The hidden vectors (B, T, S, D) of whole windows of complete steps, in one pass."""
        tokens = self.tokens(steps)
        return self.body(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        """The hidden vectors (B, D) at which each row's action at step `last` (B,) is predicted, in one pass.

        Of that step only what is known before acting counts, and steps after it do not.
        """
        tokens = self.tokens(steps)
        rows, place = torch.arange(len(last), device=last.device), last * tokens.shape[2]
        tokens = tokens.flatten(1, 2)  # (B, L, D)
        if not self.query_stays:
            tokens = with_query(tokens, self.query(steps), last)
        return self.body(tokens)[rows, place]

    # ---- acting: pure functions of a context --------------------------------------------------------------------

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Memory | None:
        """What a new context of `rows` rows caches besides its steps; None if all is encoded again for every action."""
        return self.body.make_cache(rows, (self.config.window + 1) * len(self.slots)) if self.extends else None

    def begin(self, context: Context, index: np.ndarray) -> None:
        """New tasks begin in the rows `index`; a method takes its own `reset_options` as keywords here."""

    def load_history(self, context: Context, history: Steps) -> None:
        """Initialise a new context from recorded steps (B, T): by default the latest that the window holds."""
        context.load(history, self.episode_aligned)

    def visible(self, context: Context) -> Steps:
        """The steps in the window that can still influence an action."""
        return context.visible()

    def handle_overflow(self, context: Context) -> None:
        """Make room in the rows whose window is full: by default the oldest `slide` steps are dropped."""
        full = np.flatnonzero(context.length >= context.window)
        if len(full):
            context.drop(full, self.config.slide)

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        """The hidden vectors (B, D) of the open steps, at which their actions are predicted.

        Rows outside `active` (B,) are computed, but nothing of them is cached.
        """
        if self.extends:
            return self.read_cached(context, context.memory, active, np.zeros(context.rows, np.int64))
        seen = context.read(np.zeros(context.rows, np.int64), int(context.length.max()) + 1)
        return self.read(self.tensors(seen), torch.as_tensor(context.length, device=self.device))

    def on_action(self, context: Context, distribution: Distribution, action: Tensor) -> None:
        """Called with each action (B, ...) and the policy's distribution, from which a planner's action is not drawn.

        A method may write to the extra columns of the open step; by default nothing.
        """

    def replace_latents(self, context: Context, latents: Tensor) -> None:
        """Replace the latents of the rows that have any by `latents` (B, Z, D), for interventions."""
        raise ValueError(f"{type(self).__name__} has no latents: has_latents says which methods have")

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        """What planning forks: `(cache, horizon)`, the cache that holds the open step, and the number of steps (B,)
        for which a value estimate exists.
        """
        return context.memory, np.full(context.rows, UNKNOWN)

    def policy(self, context: Context, obs: np.ndarray, active: np.ndarray | None = None) -> Any:
        """The distribution over actions at `obs` (B, ...), which becomes the open step of `context`.

        Rows outside `active` (B,) are computed but leave no trace. A call that fails leaves `context` as it was.
        """
        with context.attempt() as draft, acting(self):
            hidden = self.open_and_encode(draft, obs, np.ones(context.rows, bool) if active is None else active)
            distribution = self.action_distribution(hidden, self.static_tensors(draft.steps))
        vars(context).update(vars(draft))
        return distribution

    def encode(self, context: Context, obs: np.ndarray, active: np.ndarray | None = None) -> Tensor:
        """The hidden vectors (B, D) behind `policy`."""
        with context.attempt() as draft, acting(self):
            hidden = self.open_and_encode(draft, obs, np.ones(context.rows, bool) if active is None else active)
        vars(context).update(vars(draft))
        return hidden

    def open_and_encode(self, context: Context, obs: np.ndarray, active: np.ndarray) -> Tensor:
        """`encode` on a draft of a context, under `acting`. This is the one place where a context is encoded.

        Raises:
            RuntimeError: the method is in training mode.
            ValueError: an output is not finite.
        """
        if self.training:
            raise RuntimeError("the agent is in training mode, where dropout disturbs actions: call agent.eval() first")
        self.handle_overflow(context)
        context.open(obs)
        hidden = self.encode_open_step(context, active)
        if not math.isfinite(hidden.sum()):  # one NaN or infinity shows in the sum
            row = int(hidden.flatten(1).isfinite().all(1).logical_not().int().argmax())
            raise ValueError(
                f"the model's output in row {row} is not finite: its weights are damaged, or an input of that row is "
                "far too large; reset(mask=...) forgets a row"
            )
        return hidden

    # ---- feeding a cache ----------------------------------------------------------------------------------------

    def read_cached(
        self, context: Context, cache: Cache, active: np.ndarray, begin: np.ndarray, before: np.ndarray | None = None
    ) -> Tensor:
        """Feed the steps from column `begin` (B,) on that the cache does not hold, then each row's query.

        `before` (B,) tokens of the cache are not those of steps and stand first. Rows far behind (after a slide) are
        fed before the others. Returns the queries' hidden vectors (B, D).
        """
        before = np.zeros_like(begin) if before is None else before
        closed = (context.length - begin) * len(self.slots) + before  # (B,) tokens to be held
        behind = closed - cache.lengths.cpu().numpy()
        if behind.min() < 0:  # the open step was encoded before, at another observation
            cache.lengths = cache.lengths.minimum(torch.as_tensor(closed, device=cache.lengths.device))
        far = behind > len(self.slots)
        if far.any() and not far.all():
            index = np.flatnonzero(far)
            part = Part(cache.select(index), index, back=1)
            # as if the last closed step were still open: what is fed then is closed by now, also in inactive rows
            self._feed(context, part, np.ones(len(index), bool), begin[index], before[index])
            cache.assign(index, part.cache)
        return self._feed(context, Part(cache), active, begin, before)

    def _feed(self, context: Context, part: Part, active: np.ndarray, begin: np.ndarray, before: np.ndarray) -> Tensor:
        """`read_cached` for one part of the rows.

        Rows with fewer tokens than others get arbitrary ones after their query: causality keeps those without
        influence, and `advance` does not count them.
        """
        cache, index, slots = part.cache, part.index, len(self.slots)
        cached = cache.lengths.cpu().numpy() - before
        length = (context.length if index is None else context.length[index]) - part.back
        start = begin + cached // slots
        missing = (length - begin) * slots - cached  # (B,) tokens of closed steps
        offset = cached % slots  # (B,) of the first new one
        longest, first = int(missing.max()), int(offset[0])
        steps = self.tensors(context.read(start, int((length - start).max()) + 1, index))
        tokens = self.tokens(steps).flatten(1, 2)  # (B, L, D)
        if not self.query_stays:
            tokens = with_query(tokens, self.query(steps), torch.as_tensor(missing, device=self.device))
        if (missing == longest).all() and (offset == first).all():
            hidden = self.body(tokens[:, first : first + longest + 1], cache)[:, -1]  # (B, D)
        else:
            rows = torch.arange(len(length), device=self.device)
            places = torch.as_tensor(offset[:, None] + np.arange(longest + 1), device=self.device)
            fed = tokens[rows[:, None], places.clamp_max(tokens.shape[1] - 1)]
            hidden = self.body(fed, cache)[rows, torch.as_tensor(missing, device=self.device)]
        cache.advance(torch.as_tensor(active * (missing + self.query_stays), device=self.device))
        return hidden


class Part:
    """The rows of a context that are fed together."""

    def __init__(self, cache: Cache, index: np.ndarray | None = None, back: int = 0):
        self.cache = cache  # of these rows
        self.index = index  # None: all rows
        self.back = back  # read the context as it was so many steps ago


def with_query(tokens: Tensor, query: Tensor, last: Tensor) -> Tensor:
    """`tokens` (B, T, D) with the query (B, T, D) of each row's step `last` (B,) in its place; one token a step."""
    rows, tokens = torch.arange(len(tokens), device=tokens.device), tokens.clone()
    tokens[rows, last] = query[rows, last]
    return tokens
