"""In-context Decision Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.percepts import PerceptMethod, Transition, intended_action
from icrl_agents.methods.base.transforms import Chunks, asked_return, best_return, sort_by_return
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.box import ReturnCodec
from icrl_agents.nn.transformer import Transformer

TARGET, NOISE, LATENT = "target_return", "noise", "latent"  # extra columns (B, T), (B, T, Z) and (B, T, Z)


@dataclass(frozen=True)
class IDTConfig(AgentConfig):
    chunk: int = 10  # steps that follow one decision of the high level
    latent: int = 8  # numbers in a decision of the high level

    LIMITS: ClassVar = {**AgentConfig.LIMITS, "chunk": (1, 1000), "latent": (1, 4096)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk + self.slide > self.window:
            raise ValueError(f"chunk={self.chunk} and slide={self.slide} do not fit window={self.window}: lower one")


class IDT(PerceptMethod):
    """In-context decision transformer: decide for a stretch of steps at a time (Huang et al. 2024, arXiv 2405.20692).

    Three transformers share the work. A finished chunk of at most `chunk` steps is *reviewed* into a vector; the
    *high level* sees one token a chunk, the return asked for + the chunk's first obs + the review of the chunk
    before, and decides on a latent z; the *low level* sees the percepts (and actions) of the current chunk alone,
    each with z added, and acts. Its histories are sorted by return, so that they look like learning whatever made
    them.

    Loss: -log p(action_t | z, the chunk's percepts up to t) at every step; z ~ N(mean, std) while training, with
    gradients through both, its mean when acting.

    The return asked for: in half of the training windows an episode is asked for the best return of its window, as
    published; in the other half for the best return of the episodes before it. Without a target an agent asks
    for the best in its window; `reset(target_return=...)` asks for something else. The published evaluation reads the
    environment's true optimum, which gives the task away. Of an episode longer than the window only what is visible
    counts.

    Deviations: one token a chunk and one or two a step, where the published code has three and four; one z for a
    chunk instead of one drawn for each step; chunks and windows begin with an episode in training and acting.
    """

    Config = IDTConfig
    config: IDTConfig
    extends = False
    episode_aligned = True

    def __init__(self, observation_space: Any, action_space: Any, config: IDTConfig | None = None):
        config = config or IDTConfig()
        super().__init__(observation_space, action_space, config)
        width, sizes = config.width, (config.width, config.layers, config.heads, config.inner, config.dropout)
        self.reviewer, self.high = Transformer(*sizes), Transformer(*sizes)
        self.transition = Transition(width)
        self.to_go = ReturnCodec(width, predicts=config.dynamics)
        self.review = nn.Linear(width, 2 * config.latent)
        self.recall = nn.Linear(2 * config.latent, width)
        self.decision = nn.Linear(width, 2 * config.latent)  # mean and log std of z
        self.heed = nn.Linear(config.latent, width)

    # ---- training ---------------------------------------------------------------------------------------------------

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        steps = sort_by_return(steps)
        target = np.where(rng.random(len(steps.mask)) < 0.5, best_return(steps), np.float32(np.nan))
        columns = np.repeat(target[:, None], steps.mask.shape[1], 1)
        noise = rng.standard_normal((*steps.mask.shape, self.config.latent), np.float32)  # read where chunks begin
        return steps._replace(extras={**steps.extras, TARGET: columns, NOISE: noise})

    def fit_normalization(self, steps: Steps) -> None:
        super().fit_normalization(steps)
        self.to_go.fit_normalization(asked_return(steps, steps.extras[TARGET][:, 0])[steps.mask])

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        return self.loss_at(self.hidden(steps), steps, intended_action(steps))

    def tokens(self, steps: Steps) -> Tensor:
        tokens = super().tokens(steps)
        return torch.cat([tokens[:, :, :1] + self.heed(steps.extras[LATENT])[:, :, None], tokens[:, :, 1:]], 2)

    def hidden(self, steps: Steps) -> Tensor:
        chunks, tokens = self._outline(steps, steps.mask)
        mean, log_std = self.decide(self.high(tokens))  # (B, C, Z)
        z = mean + log_std.exp() * chunks.firsts(steps.extras[NOISE]) if self.training else mean
        parts = chunks.split(steps)._replace(extras={LATENT: z.flatten(0, 1)[:, None].expand(-1, chunks.size, -1)})
        rendered = self.tokens(parts)  # (B * C, chunk, S, D)
        return chunks.join(self.body(rendered.flatten(1, 2)).unflatten(1, rendered.shape[1:3]))

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        return self.hidden(steps)[torch.arange(len(last), device=last.device), last, 0]

    def _outline(self, steps: Steps, known: Tensor) -> tuple[Chunks, Tensor]:
        """How the steps fall into chunks, and the high level's token (B, C, D) for each.

        `known` (B, T) marks the steps that have begun; `steps.mask` those of which it is known what came of them.
        """
        chunks = Chunks.of(steps.first, known, self.config.chunk)
        parts = chunks.split(steps)
        reviews = self._review(parts, chunks.real.sum(-1).flatten()).unflatten(0, chunks.begin.shape)  # (B, C, R)
        target = steps.extras.get(TARGET, torch.full_like(steps.reward, torch.nan))[:, 0]
        asked, first = chunks.firsts(asked_return(steps, target)), chunks.firsts(steps.obs)
        return chunks, self._question(asked, first, nn.functional.pad(reviews[:, :-1], (0, 0, 1, 0)))

    def _review(self, parts: Steps, length: Tensor) -> Tensor:
        """What is worth knowing (N, R) of chunks (N, chunk), of which `length` (N,) steps are real."""
        seen = self.reviewer(self.transition(self, parts))
        return self.review(seen[torch.arange(len(length), device=length.device), (length - 1).clamp_min(0)])

    def _question(self, asked: Tensor, obs: Tensor, before: Tensor) -> Tensor:
        """The high level's tokens (B, C, D) for chunks that begin at `obs`, after the reviews `before` (B, C, R)."""
        return self.to_go.embed(asked) + self.obs.embed(obs) + self.recall(before)

    def decide(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std (..., Z) of the decisions."""
        mean, log_std = self.decision(hidden).chunk(2, -1)
        return mean, log_std.clamp(-8, 2)

    # ---- acting -----------------------------------------------------------------------------------------------------

    reset_options = ("target_return",)

    def begin(self, context: Context, index: np.ndarray, target_return: Any = None) -> None:
        """`target_return`: the return to ask for in every episode, a number or one a row (B,).

        Without it an episode is asked for the best return of those in the window, the first one for 0.
        """
        target = check_target(target_return, context.rows)
        asked = context.memory.target.copy()
        asked[index] = target[index]
        context.memory.target = asked

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Decisions:
        return Decisions(
            high=self.high.make_cache(rows, self.config.window + 1),  # an episode, and so a chunk, may be a single step
            low=self.body.make_cache(rows, (2 * self.config.chunk + 1) * len(self.slots)),  # rows may be out of step
            begin=np.full(rows, -1),
            target=np.full(rows, np.nan, np.float32),
        )

    def handle_overflow(self, context: Context) -> None:
        full = np.flatnonzero(context.length >= context.window)
        if len(full):
            context.drop(full, np.array([self._leaving(context.steps.first[row]) for row in full]))

    def _leaving(self, first: np.ndarray) -> int:
        """The oldest `slide` steps go, with what remains of their last episode; where that is long, of its chunk."""
        begins = np.flatnonzero(first)
        later = begins[begins >= self.config.slide]
        if len(later):
            return int(later[0])
        begin = begins.max(initial=0)
        chunks = -(-(self.config.slide - begin) // self.config.chunk)
        return int(begin + chunks * self.config.chunk)

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        memory, length = context.memory, context.length
        if LATENT not in context.steps.extras:
            column = np.zeros((*context.steps.mask.shape, self.config.latent), np.float32)
            context.steps = context.steps._replace(extras={LATENT: column})  # of a row's current chunk everywhere
        again = active & (memory.begin == length)  # it has been decided at another observation
        if again.any():
            memory.forget(np.flatnonzero(again))
        over = context.steps.first[np.arange(context.rows), length] | (length - memory.begin >= self.config.chunk)
        lost = active & (memory.begin < 0)
        over &= active & ~lost & (memory.begin < length)
        for rows, decide in ((lost, self._decide_anew), (over, self._decide_next)):
            if rows.any():
                index = np.flatnonzero(rows)
                context.steps.extras[LATENT][index] = decide(context, index).cpu().numpy()[:, None]
                memory.low.forget(index)
        begin = np.where(memory.begin < 0, length, memory.begin)  # nothing is fed for rows that wait for their reset
        return self.read_cached(context, memory.low, active, begin)

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        """The low level's cache; what comes after its chunk is for the high level to decide, and to value."""
        return context.memory.low, context.memory.begin + self.config.chunk - 1 - context.length

    def _decide_next(self, context: Context, index: np.ndarray) -> Tensor:
        """Review the chunk that the rows `index` have finished; decide (n, Z) on the next one."""
        memory, length = context.memory, context.length[index]
        count = length - memory.begin[index]
        progress = self.tensors(context.read(memory.begin[index], int(count.max()), index))
        review = self._review(progress, torch.as_tensor(count, device=self.device))
        seen = self._seen(context, index)
        now = torch.arange(len(index), device=self.device), torch.as_tensor(length, device=self.device)
        asked = asked_return(seen, seen.extras[TARGET][:, 0])[now]
        question = self._question(asked, seen.obs[now], review)[:, None]
        cache = memory.high if len(index) == context.rows else memory.high.select(index)
        hidden = self.high(question, cache)[:, 0]
        cache.advance(torch.ones_like(cache.lengths))
        if cache is not memory.high:
            memory.high.assign(index, cache)
        memory.start(index, length)
        return self.decide(hidden)[0]

    def _decide_anew(self, context: Context, index: np.ndarray) -> Tensor:
        """Decide (n, Z) on the current chunk of the rows `index` from all that they still know."""
        memory, seen = context.memory, self._seen(context, index)
        now = torch.arange(len(index), device=self.device), torch.as_tensor(context.length[index], device=self.device)
        known = torch.arange(seen.mask.shape[1], device=self.device) <= now[1][:, None]
        chunks, tokens = self._outline(seen, known)
        number = chunks.place[now] // chunks.size  # (n,) of the current chunk
        cache = self.high.make_cache(len(index), memory.high.capacity)
        hidden = self.high(tokens, cache)[now[0], number]
        cache.advance(number + 1)
        memory.high.assign(index, cache)
        memory.start(index, chunks.begin[now[0], number].cpu().numpy())
        return self.decide(hidden)[0]

    def _seen(self, context: Context, index: np.ndarray) -> Steps:
        """The visible steps (n, T) of the rows `index`, the open one included, with the returns they are asked for."""
        steps = context.read(np.zeros(len(index), np.int64), int(context.length[index].max()) + 1, index)
        target = np.repeat(context.memory.target[index, None], steps.mask.shape[1], 1)
        return self.tensors(steps._replace(extras={TARGET: target}))


@dataclass
class Decisions:
    """The memory of both levels, one entry a row."""

    high: Cache  # of the tokens of the chunks so far, the current one included
    low: Cache  # of the tokens of the current chunk
    begin: np.ndarray  # (B,) the column at which the current chunk begins, -1 where nothing is decided
    target: np.ndarray  # (B,) the return to ask for, NaN for the best seen

    def select(self, index: np.ndarray) -> Decisions:
        caches = self.high.select(index), self.low.select(index)
        return Decisions(*caches, self.begin[index], self.target[index])

    def draft(self) -> Decisions:
        return Decisions(self.high.draft(), self.low.draft(), self.begin, self.target)

    def wipe(self) -> None:
        self.high.wipe()
        self.low.wipe()

    def start(self, index: np.ndarray, column: Any) -> None:
        """The current chunks of the rows `index` begin at `column` (n,)."""
        self.begin = self.begin.copy()
        self.begin[index] = column

    def drop(self, index: np.ndarray) -> None:
        self.high.drop(index)
        self.low.drop(index)
        self.start(index, -1)

    def forget(self, index: np.ndarray) -> None:
        """Forget what was computed; the return to ask for stays."""
        self.high.forget(index)
        self.low.forget(index)
        self.start(index, -1)


def check_target(value: Any, rows: int) -> np.ndarray:
    """The returns to ask for (B,), as given by one number or one a row; NaN for None, the best seen.

    Raises:
        ValueError: it is no such number.
    """
    if value is None:
        return np.full(rows, np.nan)
    try:
        target = np.asarray(value, np.float64)
        fits = np.asarray(value).dtype.kind in "iuf" and bool((abs(target) < 1e30).all())
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not (fits and target.shape in ((), (rows,))):
        raise ValueError(f"target_return={printable(value)}: give a finite number, or one for each of the {rows} rows")
    return np.broadcast_to(target, rows)
