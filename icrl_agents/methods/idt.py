"""In-context Decision Transformer (IDT).

Axis letters: B rows, T steps, C chunks, Z latent size, R review size (2 Z), N chunks of all rows, n selected rows,
D width, S tokens per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.checks import per_row
from icrl_agents.core.reward_range import range_before, with_reward_range
from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.decisions import Decisions
from icrl_agents.methods.base.percepts import PerceptMethod, Transition, intended_action
from icrl_agents.methods.base.transforms import Chunks, asked_return, best_return, sort_by_return
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.box import ReturnCodec
from icrl_agents.nn.transformer import Transformer

TARGET, NOISE, LATENT = "target_return", "noise", "latent"  # names of extra columns (B, T), (B, T, Z), (B, T, Z)
REVIEW = "review"  # extra column (B, T, R) of a context: at the first step of a chunk, the review of the chunk before


@dataclass(frozen=True)
class IDTConfig(AgentConfig):
    chunk: int = 10  # maximum number of steps per decision of the high level
    latent: int = 8  # size of the decision z of the high level
    order: str = "time"  # order of the episodes in training: "time", as recorded, or by ascending "return", published

    CHOICES: ClassVar = {**AgentConfig.CHOICES, "order": ("return", "time")}
    ADDED: ClassVar = {**AgentConfig.ADDED, "order": "return"}
    LIMITS: ClassVar = {**AgentConfig.LIMITS, "chunk": (1, 1000), "latent": (1, 4096)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk + self.slide > self.window:
            raise ValueError(f"chunk={self.chunk} and slide={self.slide} do not fit window={self.window}: lower one")

    @property
    def reorders(self) -> str:
        return "" if self.order == "time" else "order='return' sorts the episodes of a window: give order='time'"


class IDT(PerceptMethod):
    """In-context decision transformer with one high-level decision per chunk (Huang et al. 2024, arXiv 2405.20692).

    Three transformers: the *reviewer* encodes a finished chunk of up to `chunk` steps as a vector; the *high level*
    reads one token per chunk, target return + first obs of the chunk + review of the previous chunk, and outputs a
    latent z; the *low level* reads the percepts of the current chunk alone, each with z added, and predicts
    actions. Training episodes stay in the order of time, in which histories of a learner improve by themselves; with
    `order="return"`, as published, they are sorted by return, so that any data set shows improvement.

    Loss: -log p(action_t | z, percepts of the chunk up to t) at every step; z ~ N(mean, std) in training, with
    gradients through both (reparameterised), and its mean when acting.

    Target return: in half of the training windows the best return of the window, as published; in the other half the
    best return of the episodes before. When acting, the default is the best return in the window, and
    `reset(target_return=...)` sets another. The published evaluation uses the true optimum of the environment, which
    reveals the task. For an episode longer than the window only the visible rewards count. With `rewards="running"`
    returns are sums of rewards relative to the range of rewards up to each step, and so are targets.

    Deviations: one token per chunk and one per step, where the published code has three and four; one z per
    chunk instead of one sample per step; chunks and windows begin with an episode in training and acting.
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
        self.review = nn.Linear(width, 2 * config.latent)  # reviewer output -> review of a chunk
        self.recall = nn.Linear(2 * config.latent, width)  # embeds the review of the previous chunk
        self.decision = nn.Linear(width, 2 * config.latent)  # mean and log std of z
        self.heed = nn.Linear(config.latent, width)  # projects z into the percepts

    # ---- training ---------------------------------------------------------------------------------------------------

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        if self.config.order == "return":
            steps = with_reward_range(sort_by_return(steps), range_before(steps))  # as of a lifetime in this order
        best = best_return(self.reward.seen(steps.map(torch.as_tensor)))
        target = np.where(rng.random(len(steps.mask)) < 0.5, best, np.float32(np.nan))
        columns = np.repeat(target[:, None], steps.mask.shape[1], 1)
        noise = rng.standard_normal((*steps.mask.shape, self.config.latent), np.float32)  # used at chunk starts only
        return steps._replace(extras={**steps.extras, TARGET: columns, NOISE: noise})

    def fit_normalization(self, steps: Steps) -> None:
        super().fit_normalization(steps)
        self.to_go.fit_normalization(asked_return(steps, steps.extras[TARGET][:, 0])[steps.mask])

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        return self.loss_at(self.hidden(steps), steps, intended_action(steps))

    def tokens(self, steps: Steps) -> Tensor:
        return super().tokens(steps) + self.heed(steps.extras[LATENT])[:, :, None]

    def hidden(self, steps: Steps) -> Tensor:
        chunks = Chunks.of(steps.first, steps.mask, self.config.chunk)
        questions = self._questions(steps, chunks, self._reviews_before(steps, chunks))
        mean, log_std = self.decide(self.high(questions))  # (B, C, Z)
        z = mean + log_std.exp() * chunks.firsts(steps.extras[NOISE]) if self.training else mean  # (B, C, Z)
        parts = chunks.split(steps)
        latent = {LATENT: z.flatten(0, 1)[:, None].expand(-1, chunks.size, -1)}
        parts = parts._replace(extras={**parts.extras, **latent})
        rendered = self.tokens(parts)  # (B * C, chunk, S, D)
        return chunks.join(self.body(rendered.flatten(1, 2)).unflatten(1, rendered.shape[1:3]))  # (B, T, S, D)

    def _reviews_before(self, steps: Steps, chunks: Chunks) -> Tensor:
        """Review (B, C, R) of the chunk before each chunk, zeros for the first."""
        reviews = self._review(chunks.split(steps), chunks.real.sum(-1).flatten()).unflatten(0, chunks.begin.shape)
        return nn.functional.pad(reviews[:, :-1], (0, 0, 1, 0))

    def _questions(self, steps: Steps, chunks: Chunks, before: Tensor) -> Tensor:
        """High-level token (B, C, D) of each chunk, from the steps and the reviews `before` (B, C, R) each chunk."""
        target = steps.extras.get(TARGET, torch.full_like(steps.reward, torch.nan))[:, 0]
        return self._question(chunks.firsts(asked_return(steps, target)), chunks.firsts(steps.obs), before)

    def _review(self, parts: Steps, length: Tensor) -> Tensor:
        """Encode chunks (N, chunk), whose first `length` (N,) steps are real, as reviews (N, R)."""
        seen = self.reviewer(self.transition(self, parts))  # (N, chunk, D)
        return self.review(seen[torch.arange(len(length), device=length.device), (length - 1).clamp_min(0)])

    def _question(self, asked: Tensor, obs: Tensor, before: Tensor) -> Tensor:
        """High-level tokens (B, C, D) from target returns `asked` (B, C), first obs and previous reviews (B, C, R)."""
        return self.to_go.embed(asked) + self.obs.embed(obs) + self.recall(before)

    def decide(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std (..., Z) of z at high-level outputs (..., D)."""
        mean, log_std = self.decision(hidden).chunk(2, -1)
        return mean, log_std.clamp(-8, 2)

    # ---- acting -----------------------------------------------------------------------------------------------------

    reset_options = ("target_return",)

    def begin(self, context: Context, index: np.ndarray, target_return: Any = None) -> None:
        """Set the target of new tasks in the rows `index`.

        Args:
            target_return: target return of every episode, one number or one per row (B,), in the unit of the rewards
                that the method sees; None: the best return of the complete episodes in the window, 0 for the first.

        Raises:
            ValueError: not a finite number, or not one per row.
        """
        target = per_row("target_return", target_return, context.rows)
        if LATENT not in context.steps.extras:  # in every column: z of the current chunk
            sizes = {LATENT: self.config.latent, REVIEW: 2 * self.config.latent}
            added = {name: np.zeros((*context.steps.mask.shape, size), np.float32) for name, size in sizes.items()}
            context.steps = context.steps._replace(extras={**context.steps.extras, **added})
        asked = context.memory.target.copy()
        asked[index] = target[index]
        context.memory.target = asked

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Decisions:
        return Decisions(
            high=self.high.make_cache(rows, self.config.window + 1),  # worst case: every episode is one step, one chunk
            low=self.body.make_cache(rows, (2 * self.config.chunk + 1) * len(self.slots)),  # chunks of rows may differ
            begin=np.full(rows, -1),
            target=np.full(rows, np.nan, np.float32),
            reviewed=np.zeros(rows, bool),
            chunk=self.config.chunk,
        )

    def handle_overflow(self, context: Context) -> None:
        full = np.flatnonzero(context.length >= context.window)
        if len(full):
            context.drop(full, np.array([self._leaving(context.steps.first[row]) for row in full]))

    def _leaving(self, first: np.ndarray) -> int:
        """Number of steps to drop: `slide` or more, up to the next episode start, or else to the next chunk start."""
        begins = np.flatnonzero(first)
        later = begins[begins >= self.config.slide]
        if len(later):
            return int(later[0])
        begin = begins.max(initial=0)
        chunks = -(-(self.config.slide - begin) // self.config.chunk)
        return int(begin + chunks * self.config.chunk)

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        memory, length = context.memory, context.length
        stale = active & (memory.begin == length)  # (B,) a chunk was decided here, but at another observation
        if stale.any():
            memory.forget(np.flatnonzero(stale))
        undecided = active & (memory.begin < 0)  # (B,) nothing is cached: ask about all chunks of the window
        over = context.steps.first[np.arange(context.rows), length] | (length - memory.begin >= self.config.chunk)
        finished = active & ~undecided & over  # (B,) the last step ended the chunk: review it and ask about the next
        for rows, decide in ((undecided, self._decide_from_window), (finished, self._decide_next)):
            if rows.any():
                index = np.flatnonzero(rows)
                context.steps.extras[LATENT][index] = decide(context, index).cpu().numpy()[:, None]
                memory.low.forget(index)
        begin = np.where(memory.begin < 0, length, memory.begin)  # rows that are resetting have no chunk to feed
        return self.read_cached(context, memory.low, active, begin)

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        """Cache of the low level, and the steps left in its chunk: beyond it the high level decides on a new z."""
        return context.memory.low, context.memory.begin + self.config.chunk - 1 - context.length

    def _decide_next(self, context: Context, index: np.ndarray) -> Tensor:
        """Review the finished chunk of the rows `index` and decide z (n, Z) of the next one, with the cached tokens."""
        memory, length = context.memory, context.length[index]
        review = self._review_finished(context, index, memory.begin[index], length)
        context.steps.extras[REVIEW][index, length] = review.cpu().numpy()
        seen = self._seen(context, index)
        now = torch.arange(len(index), device=self.device), torch.as_tensor(length, device=self.device)
        asked = asked_return(seen, seen.extras[TARGET][:, 0])[now]  # (n,)
        question = self._question(asked, seen.obs[now], review)[:, None]  # (n, 1, D)
        memory.start(index, length)
        return self._decide(memory, index, question, torch.zeros_like(now[1]))

    def _decide_from_window(self, context: Context, index: np.ndarray) -> Tensor:
        """Decide z (n, Z) of the current chunk of the rows `index`, after a slide or with a history.

        A slide changes the positions and target returns of the chunks that stay, but not their reviews.
        """
        memory, seen = context.memory, self._seen(context, index)
        now = torch.arange(len(index), device=self.device), torch.as_tensor(context.length[index], device=self.device)
        known = torch.arange(seen.mask.shape[1], device=self.device) <= now[1][:, None]
        chunks = Chunks.of(seen.first, known, self.config.chunk)
        current = now[0], chunks.place[now] // chunks.size  # numbers of the current chunks
        begin = chunks.begin[current].cpu().numpy()  # (n,)
        if memory.reviewed[index].all():
            before = chunks.firsts(seen.extras[REVIEW])  # (n, C, R)
            previous = chunks.begin[now[0], (current[1] - 1).clamp_min(0)].cpu().numpy()
            before[current] = self._review_finished(context, index, previous, begin)
            before[:, 0] = 0  # the chunk before the first has left the window
        else:
            before = self._reviews_before(seen, chunks)
        row, number = chunks.real[..., 0].nonzero(as_tuple=True)
        column = index[row.cpu().numpy()], chunks.begin[row, number].cpu().numpy()
        context.steps.extras[REVIEW][column] = before[row, number].cpu().numpy()
        memory.review(index)
        memory.start(index, begin)
        return self._decide(memory, index, self._questions(seen, chunks, before), current[1])

    def _decide(self, memory: Decisions, index: np.ndarray, questions: Tensor, number: Tensor) -> Tensor:
        """Feed questions (n, C, D) to the high level, the first `number` + 1 (n,) of each row; z (n, Z) at the last."""
        whole = len(index) == len(memory.begin)
        cache = memory.high if whole else memory.high.select(index)
        hidden = self.high(questions, cache)[torch.arange(len(index), device=self.device), number]
        cache.advance(number + 1)
        if not whole:
            memory.high.assign(index, cache)
        return self.decide(hidden)[0]

    def _review_finished(self, context: Context, index: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Tensor:
        """Reviews (n, R) of the chunks of columns `begin` to `end` (n,) in the rows `index`."""
        chunk = self.tensors(context.read(begin, max(int((end - begin).max()), 1), index))
        return self._review(chunk, torch.as_tensor(end - begin, device=self.device))

    def _seen(self, context: Context, index: np.ndarray) -> Steps:
        """Visible steps (n, T) of the rows `index` as tensors, the open step and the target returns included."""
        steps = context.read(np.zeros(len(index), np.int64), int(context.length[index].max()) + 1, index)
        target = np.repeat(context.memory.target[index, None], steps.mask.shape[1], 1)
        return self.tensors(steps._replace(extras={**steps.extras, TARGET: target}))
