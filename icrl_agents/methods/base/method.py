"""Method: the contract for tokens, predictions and acting on a context.

A method holds weights and no acting state: its hooks are functions of a `Context`, which an `ICAgent` owns.
Axis letters: B rows (environments), T environment steps, S tokens (slots) per step, L tokens, D width.
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

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.methods.base.coded import CodedModel
from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.methods.base.context import UNKNOWN, Context
from icrl_agents.methods.base.memory import Memory
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.distributions import Distribution
from icrl_agents.nn.numerics import acting
from icrl_agents.nn.transformer import Transformer

AHEAD, AHEAD_ROWS = 32, 256  # most steps, and most steps times rows, to wait for before they are encoded ahead


class Method(CodedModel):
    """A `CodedModel` that predicts actions; `ICAgent` acts with it.

    A subclass sets `Config`, `slots` and `extends`, and implements `tokens` and `loss`. The hooks under "acting" have
    defaults for methods that see a window of steps.
    """

    acts = True
    in_context = True
    slots: tuple[str, ...] = ("percept",)  # names of the tokens of a step; "percept" predicts the action
    extends: bool = True  # tokens of step t depend on step t alone, so they can be cached
    variable_actions: ClassVar[bool] = False  # acts in any set of actions 0, 1, ..., not only that of its space
    has_latents: ClassVar[bool] = False  # folds steps that leave the window into latents, see `replace_latents`
    reset_options: ClassVar[tuple[str, ...]] = ()  # keywords of `ICAgent.reset` that `begin` accepts
    extra_columns: Mapping[str, float] = MappingProxyType({})  # extra columns of a context -> default value

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, config: ModelConfig | None = None
    ):
        super().__init__(observation_space, action_space, config)
        if self.config.acting_temperature != 1 and not self.action.tempers:
            given = f"acting_temperature={self.config.acting_temperature}"
            raise ValueError(f"{given} is for Discrete actions, not {printable(action_space, 60)}: leave it out")
        self.body: Any = self.make_body()
        self.extra_columns = dict(self.reward.columns)  # a dict, since copies of a method are pickled

    def make_body(self) -> Any:
        """Network between tokens and hidden vectors: a transformer, unless a method sees one step only."""
        sizes = self.config.layers, self.config.heads, self.config.inner, self.config.dropout
        return Transformer(self.config.width, *sizes)

    @property
    def device(self) -> torch.device:
        return self.body.norm.weight.device

    @property
    def tokens_per_step(self) -> int:  # type: ignore[override]
        return len(self.slots)

    # ---- tokens and predictions ---------------------------------------------------------------------------------

    @abstractmethod
    def tokens(self, steps: Steps) -> Tensor:
        """Tokens (B, T, S, D) of complete steps (B, T)."""

    def query(self, steps: Steps) -> Tensor:
        """Query tokens (B, T, D): the action of a step is predicted at its query, after all tokens of earlier steps.

        By default the first token of the step itself, which stays in the sequence.
        """
        return self.tokens(steps)[:, :, 0]

    @property
    def query_stays(self) -> bool:
        return self.slots[0] == "percept"

    def action_distribution(self, hidden: Tensor, static: Mapping[str, Tensor]) -> Distribution:
        """Policy at hidden vectors (B, ..., D), restricted to the action mask in `static`, if there is one.

        In evaluation mode it is the policy that acts, at `acting_temperature`; in training mode the one to fit.
        """
        distribution: Any = self.policy_at(hidden)
        if ACTION_MASK in static:
            distribution = distribution.among(static[ACTION_MASK])
        if self.training or self.config.acting_temperature == 1:
            return distribution
        return distribution.tempered(self.config.acting_temperature)

    def policy_at(self, hidden: Tensor) -> Distribution:
        """Policy at hidden vectors (..., D), in any of all actions."""
        return self.action.head(hidden)

    def accepts_action_space(self, action_space: gymnasium.Space) -> bool:
        """Whether the method can act in an action space other than its own."""
        return False

    def draw_static(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the static values (B, ...) of `rows` new lifetimes; by default only the action mask (B, A), if any."""
        return {} if action_mask is None else {ACTION_MASK: action_mask}

    def hidden(self, steps: Steps) -> Tensor:
        """Hidden vectors (B, T, S, D) of whole windows of complete steps, in one pass."""
        tokens = self.tokens(steps)
        return self.body(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        """Hidden vectors (B, D) that predict the action of step `last` (B,) in each row, in one pass.

        They depend on no outcome of that step and on no later step.
        """
        rows = torch.arange(len(last), device=last.device)
        if self.query_stays:
            return self.hidden(steps)[rows, last, 0]
        return self.body(with_query(self.tokens(steps)[:, :, 0], self.query(steps), last))[rows, last]

    # ---- acting: pure functions of a context --------------------------------------------------------------------

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Memory | None:
        """Memory of a new context, such as a cache; None if the whole window is encoded again for every action."""
        return self.make_window(rows, (self.config.window + 1) * len(self.slots)) if self.extends else None

    def make_window(self, rows: int, capacity: int, outputs: bool = False) -> Cache:
        """Cache of a window that slides, see `Transformer.make_cache`, with one to encode the next window ahead."""
        cache = self.body.make_cache(rows, capacity, outputs)
        if self.config.slide > 1:  # with slide 1 nothing is left to spread
            cache.ahead = self.body.make_cache(rows, capacity, outputs)
        return cache

    def begin(self, context: Context, index: np.ndarray) -> None:
        """Hook at the start of new tasks in the rows `index`; its keywords are the method's `reset_options`."""

    def load_history(self, context: Context, history: Steps) -> None:
        """Initialise a new context from recorded steps (B, T): by default the latest ones that fit the window."""
        context.load(history, self.episode_aligned)

    def check_restored(self, context: Context, drawn: Mapping[str, np.ndarray]) -> None:
        """Refuse (ValueError) a context from a file whose static values or memory no context of this method has.

        Args:
            drawn: static values (B, ...) of a new context.
        """

    def visible(self, context: Context) -> Steps:
        """Steps of the window that can still influence an action."""
        return context.visible()

    def handle_overflow(self, context: Context) -> None:
        """Free space in rows with a full window: by default the oldest `slide` steps are dropped."""
        full = np.flatnonzero(context.length >= context.window)
        if not len(full):
            return
        cache: Any = context.memory
        kept = None if cache is None or cache.ahead is None else cache.ahead.lengths[torch.as_tensor(full)]
        context.drop(full, self.config.slide)
        if kept is not None:
            cache.take_ahead(full, kept)

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        """Hidden vectors (B, D) that predict the actions of the open steps.

        Rows outside `active` (B,) bool are computed but not cached.
        """
        if self.extends:
            begin = np.zeros(context.rows, np.int64)
            hidden = self.read_cached(context, context.memory, active, begin)
            self.look_ahead(context, context.memory, begin)
            return hidden
        seen = context.read(np.zeros(context.rows, np.int64), int(context.length.max()) + 1)
        return self.read(self.tensors(seen), torch.as_tensor(context.length, device=self.device))

    def on_action(self, context: Context, distribution: Distribution, action: Tensor) -> None:
        """Hook after each choice of actions (B, ...), which a planner may have chosen instead of `distribution`.

        A method may write to the extra columns of the open step; the default does nothing.
        """

    def replace_latents(self, context: Context, latents: Tensor) -> None:
        """Intervention: replace the latents of all rows that have any by `latents` (B, Z, D)."""
        raise ValueError(f"{type(self).__name__} has no latents: has_latents says which methods have")

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        """Start of a search: the cache that holds the open step, and the number of steps (B,) with a value estimate."""
        return context.memory, np.full(context.rows, UNKNOWN)

    def policy(self, context: Context, obs: np.ndarray, active: np.ndarray | None = None) -> Any:
        """Action distribution at `obs` (B, ...), which becomes the open step of `context`.

        Rows outside `active` (B,) bool are computed but not recorded. A failed call leaves `context` unchanged.
        """
        with context.attempt() as draft, acting(self):
            hidden = self.open_and_encode(draft, obs, np.ones(context.rows, bool) if active is None else active)
            distribution = self.action_distribution(hidden, self.static_tensors(draft.steps))
        vars(context).update(vars(draft))
        return distribution

    def encode(self, context: Context, obs: np.ndarray, active: np.ndarray | None = None) -> Tensor:
        """Hidden vectors (B, D) from which `policy` is computed."""
        with context.attempt() as draft, acting(self):
            hidden = self.open_and_encode(draft, obs, np.ones(context.rows, bool) if active is None else active)
        vars(context).update(vars(draft))
        return hidden

    def open_and_encode(self, context: Context, obs: np.ndarray, active: np.ndarray) -> Tensor:
        """`encode` for a draft context, to be called under `acting`; every encoding of a context passes through here.

        Raises:
            RuntimeError: the method is in training mode.
            ValueError: an output is not finite.
        """
        if self.training:
            raise RuntimeError("the agent is in training mode, where dropout disturbs actions: call agent.eval() first")
        self.handle_overflow(context)
        context.open(obs)
        hidden = self.encode_open_step(context, active)
        if not math.isfinite(hidden.sum()):  # any NaN or infinity makes the sum non-finite
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
        """Feed the uncached steps from column `begin` (B,) on, then the query of each row.

        Rows far behind (after a slide) are fed first, in a batch of their own.

        Args:
            active: rows (B,) bool whose tokens stay in the cache.
            before: number of leading tokens (B,) in the cache that belong to no step; None: 0.

        Returns:
            Hidden vectors (B, D) at the queries.
        """
        before = np.zeros_like(begin) if before is None else before
        closed = (context.length - begin) * len(self.slots) + before  # (B,) tokens up to the last closed step
        behind = closed - cache.lengths.cpu().numpy()  # (B,) uncached tokens
        if behind.min() < 0:  # the open step is cached with another observation: drop that token
            cache.lengths = cache.lengths.minimum(torch.as_tensor(closed, device=cache.lengths.device))
        far = behind > len(self.slots)
        if far.any() and not far.all():
            index = np.flatnonzero(far)
            part = Part(cache.select(index), index, back=1)
            # stop one step early: these steps are all closed, so their tokens stay cached also in inactive rows
            self._feed(context, part, np.ones(len(index), bool), begin[index], before[index])
            cache.assign(index, part.cache)
        return self._feed(context, Part(cache), active, begin, before)

    def look_ahead(self, context: Context, cache: Cache, before: np.ndarray) -> None:
        """Encode a part of the steps that remain after the next slide, so that no action has to wait for all of them.

        Several steps at a time, since a pass through the network takes nearly as long for one step of a few rows, at a
        pace that leaves fewer than those to the slide. The result is that of encoding them at the slide.

        Args:
            before: number of leading tokens (B,) that belong to no step, which `cache.ahead` has in rows with any.
        """
        if cache.ahead is None:
            return
        slide, slots, length = self.config.slide, len(self.slots), context.length
        done = np.maximum(cache.ahead.lengths.cpu().numpy() - before, 0) // slots  # (B,) encoded steps
        remain = context.window - slide
        pace = remain * (length - remain) // slide  # (B,) steps to be encoded by now
        goal = np.minimum(np.minimum(pace, done + slide), length - slide - 1)  # one closed step is the query
        index = np.flatnonzero(goal > done)
        if (goal - done).max() < max(1, min(AHEAD, AHEAD_ROWS // context.rows)):
            return
        whole = len(index) == context.rows
        part = Part(cache.ahead, None) if whole else Part(cache.ahead.select(index), index)
        part.back = (length - slide - goal)[index]
        self._feed(context, part, np.ones(len(index), bool), np.full(len(index), slide), before[index])
        if not whole:
            cache.ahead.assign(index, part.cache)

    def _feed(self, context: Context, part: Part, active: np.ndarray, begin: np.ndarray, before: np.ndarray) -> Tensor:
        """`read_cached` for one part of the rows.

        Rows with fewer tokens than others get arbitrary tokens after their query: attention is causal and `advance`
        does not count them, so they have no influence.
        """
        cache, index, slots = part.cache, part.index, len(self.slots)
        cached = cache.lengths.cpu().numpy() - before
        length = (context.length if index is None else context.length[index]) - part.back
        start = begin + cached // slots  # (B,) column of the first step with an uncached token
        missing = (length - begin) * slots - cached  # (B,) uncached tokens of closed steps
        offset = cached % slots  # (B,) slot of the first uncached token
        longest, first = int(missing.max()), int(offset[0])
        seen = context.read(start, int((length - start).max()) + 1, index)
        # percepts alone are fed before their steps have an outcome
        steps = self.tensors(seen, outcomes=self.slots != ("percept",))
        tokens = self.tokens(steps).flatten(1, 2)  # (B, L, D)
        if not self.query_stays:
            tokens = with_query(tokens, self.query(steps), torch.as_tensor(missing, device=self.device))
        if (missing == longest).all() and (offset == first).all():  # the usual case: rows of equal length
            hidden = self.body(tokens[:, first : first + longest + 1], cache)[:, -1]  # (B, D)
        else:
            rows = torch.arange(len(length), device=self.device)
            places = torch.as_tensor(offset[:, None] + np.arange(longest + 1), device=self.device)  # (B, L')
            fed = tokens[rows[:, None], places.clamp_max(tokens.shape[1] - 1)]
            hidden = self.body(fed, cache)[rows, torch.as_tensor(missing, device=self.device)]
        cache.advance(torch.as_tensor(active * (missing + self.query_stays), device=self.device))
        return hidden


class Part:
    """Rows of a context that are fed to the transformer in one batch."""

    def __init__(self, cache: Cache, index: np.ndarray | None = None, back: int | np.ndarray = 0):
        self.cache = cache  # cache of these rows
        self.index = index  # row numbers; None: all rows
        self.back = back  # number of latest closed steps to leave out, one or one per row


def with_query(tokens: Tensor, query: Tensor, last: Tensor) -> Tensor:
    """Copy of `tokens` (B, T, D), one per step, with the token of step `last` (B,) replaced by its query (B, T, D)."""
    rows, tokens = torch.arange(len(tokens), device=tokens.device), tokens.clone()
    tokens[rows, last] = query[rows, last]
    return tokens
