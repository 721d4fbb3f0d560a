"""Compressed AD (CAD): Algorithm Distillation with a memory of latents beyond the window.

Axis letters: B rows, T steps, S tokens per step, Z latents, C folds, W steps after a fold, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.core.checks import read_stages, stage_at
from icrl_agents.core.steps import HEAD_NOISE, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.fold_schedule import FoldSchedule
from icrl_agents.methods.base.latents import Latents
from icrl_agents.methods.base.percepts import PerceptMethod, intended_action
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.compressor import QUERY_STD, Compressor, Reader
from icrl_agents.nn.numerics import acting


@dataclass(frozen=True)
class CADConfig(AgentConfig):
    window: int = 60  # visible tokens, one per step, latents included
    slide: int = 34  # number of steps per fold into the latents; window - latents - slide steps stay visible
    latents: int = 16  # number of vectors that hold the folded steps
    compressor_layers: int = 2  # number of blocks in the compressor, which folds steps
    compressor_heads: int = 4  # number of attention heads per block of the compressor
    prev_obs: bool = False  # whether tokens have the previous obs too, beside which a last reward was earned
    gate: str = "gated"  # update of the latents: "gated", "hard", which can keep them exactly, "residual" or "replace"
    folds: int = 12  # maximum number of folds in a training window
    curriculum: str = "0:4 0.15:1000"  # pairs "share of the updates:maximum number of folds from then on"
    folds_with_gradient: int = 4  # number of newest folds with gradients
    pretrain: float = 0.0  # initial share of the updates that trains only the reconstruction
    reconstruction: float = 0.1  # weight of the reconstruction loss
    reward_weight: float = 5.0  # weight of steps after a reward in the reconstruction loss

    LIMITS: ClassVar = {
        **AgentConfig.LIMITS,
        "latents": (1, 4096),
        "compressor_layers": (1, 128),
        "compressor_heads": (1, 128),
        "folds": (1, 100_000),
        "folds_with_gradient": (1, 100_000),
        "pretrain": (0.0, 1.0),
        "reconstruction": (0.0, 1e6),
        "reward_weight": (0.0, 1e6),
    }
    CHOICES: ClassVar = {**AgentConfig.CHOICES, "gate": Compressor.GATES}
    ADDED: ClassVar = {**AgentConfig.ADDED, "prev_obs": False}
    MEANINGS: ClassVar = (*AgentConfig.MEANINGS, "compressor_heads", "gate")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.compressor_heads:
            raise ValueError(f"width={self.width} must be a multiple of compressor_heads={self.compressor_heads}")
        if self.latents + self.slide > self.window - 1:
            raise ValueError(
                f"latents={self.latents} and slide={self.slide} leave no step of window={self.window}: lower one"
            )
        if self.pretrain and not self.reconstruction:
            raise ValueError(f"pretrain={self.pretrain} learns the reconstruction, whose weight is 0: raise it")
        self.most_folds(0.0)

    @property
    def span(self) -> int:
        return self.window + self.folds * self.slide

    @property
    def learned(self) -> float:
        """Mean number of steps in the loss of a training window, over its numbers of folds after the curriculum."""
        newest = self.folds_with_gradient
        counts = [
            self.window + folds * self.slide if folds <= newest else (newest + 1) * self.slide
            for folds in range(1, self.folds + 1)
        ]
        return sum(counts) / len(counts)

    def most_folds(self, progress: float) -> int:
        """Maximum number of folds in a training window at `progress`, the share of finished updates."""
        return min(self.folds, stage_at(read_stages("curriculum", self.curriculum, "folds"), progress))


class CAD(PerceptMethod):
    """AD with a memory beyond its window: steps that leave it are folded into latents (CCCAD, tommyma3, 2026).

    Tokens: those of AD. Once `window` steps are visible, the compressor reads all but the newest
    `window - latents - slide` of them and outputs the latents, which precede the visible steps from then on; whenever
    the window is full again, the oldest `slide` steps and the old latents are folded into new latents. Training and
    acting use the same function, `fold`. Latents attend to each other but not to steps, so they are cached as a prefix.

    Loss: -log p(action_t | latents, visible percepts up to t) at every step after the oldest of the newest
    `folds_with_gradient` folds (at all steps, if there are no older folds), plus `reconstruction` times the negative
    log-likelihood of the folded steps (obs, previous action and reward, episode starts) given the resulting latents.
    All training windows of a batch have the same number of folds and, as in acting, begin with the lifetime wherever it
    is no longer than `folds` allows.

    Deviations from the public code, which trains on one fold of any length and acts with many folds of another length:
    the schedule; the loss at every step; raw columns are reconstructed, not embeddings that move during training;
    latents cannot attend to steps; a gate; no action is predicted at a query without context.
    """

    Config = CADConfig
    config: CADConfig
    has_memory = True
    has_latents = True
    always_predicts = True  # the reconstruction uses the heads of obs and reward

    def __init__(self, observation_space: Any, action_space: Any, config: CADConfig | None = None):
        config = config or CADConfig()
        super().__init__(observation_space, action_space, config)
        width, most = config.width, config.slide + config.latents  # most: steps of the first fold, the longest
        sizes = (width, config.compressor_layers, config.compressor_heads, config.inner, config.dropout)
        self.schedule = FoldSchedule(config.window, config.slide, config.latents)
        self.compressor = Compressor(Reader(config.latents, *sizes), most * len(self.slots), config.gate)
        self.latent = nn.Parameter(torch.randn(width) * QUERY_STD)  # type vector of latents before steps
        self.before = nn.Linear(width, width, bias=False) if config.prev_obs else None  # tells prev_obs from obs
        self.decoder = Reader(most, *sizes)  # one query per folded step
        self.begins = nn.Linear(width, 1)  # logit that an episode begins at the step

    def tokens(self, steps: Steps) -> Tensor:
        tokens = super().tokens(steps)  # (B, T, S, D)
        if self.before is None:
            return tokens
        return tokens + self.before(self.obs.embed(steps.prev_obs))[:, :, None]

    # ---- the memory -------------------------------------------------------------------------------------------------

    def fold(self, old: Tensor | None, tokens: Tensor) -> Tensor:
        """New latents (B, Z, D) from the tokens (B, T, S, D) and the old latents (None at the first fold)."""
        return self.compressor(old, tokens.flatten(1, 2))

    def folded(
        self, spans: list[tuple[int, int]], tokens: Callable[[int, int], Tensor], no_gradient: int = 0
    ) -> Iterator[Tensor]:
        """Latents (B, Z, D) after each fold of a lifetime, in order.

        Args:
            spans: steps (start, stop) of each fold.
            tokens: function from start and stop to the tokens (B, T, S, D).
            no_gradient: number of oldest folds without gradients.
        """
        latents: Tensor | None = None
        for number, span in enumerate(spans):
            with torch.set_grad_enabled(number >= no_gradient and torch.is_grad_enabled()):
                latents = self.fold(latents, tokens(*span))
            yield latents

    # ---- training ---------------------------------------------------------------------------------------------------

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        lengths = steps.mask.sum(1)  # (B,) steps of each lifetime; a random row limits the number of folds
        possible = self.schedule.folds(int(lengths[0] if (lengths == lengths[0]).all() else rng.choice(lengths)))
        folds = int(rng.integers(1, max(1, min(self.config.most_folds(progress), possible)) + 1))
        steps = steps.window(0, self.schedule.end(folds))
        acts = np.full(steps.mask.shape, self.trains_policy(progress))  # a column, so that micro-batches inherit it
        return steps._replace(extras={**steps.extras, "acts": acts})

    def trains_policy(self, progress: float) -> bool:
        return progress >= self.config.pretrain and self.config.pretrain < 1

    def check_length(self, fewest: int, most: int) -> None:
        steps = fewest if self.config.pretrain else most  # windows without a fold have no pretraining loss
        if not self.schedule.folds(steps):
            raise ValueError(
                f"lifetimes of {steps} steps fit into window={self.config.window}, so that nothing would be folded: "
                f"train on longer ones (episodes=..., steps=...), or with a shorter window"
            )

    def loss_weight(self, steps: Steps) -> Any:
        return steps.mask[:, self.since(steps) :].sum()

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        tokens, newest, count = self.tokens(steps), self.config.folds_with_gradient, self.loss_weight(steps)
        leads, made = self.memories(tokens, newest)
        terms = self.reconstruction_terms(made, steps, count)
        if "acts" in steps.extras and not steps.extras["acts"].any():
            return terms  # pretraining: parameters without gradients get no weight decay either
        since = self.since(steps)
        hidden, seen = self.hidden_after(leads, tokens, newest)[:, since:], steps.window(since, None)
        return self.loss_at(hidden, seen, intended_action(seen), count) | terms

    def hidden(self, steps: Steps) -> Tensor:
        tokens, newest = self.tokens(steps), steps.mask.shape[1]
        return self.hidden_after(self.memories(tokens, newest)[0], tokens, newest)

    def since(self, steps: Steps) -> int:
        """First step in the loss."""
        return self.schedule.since(steps.mask.shape[1], self.config.folds_with_gradient)

    def memories(self, tokens: Tensor, newest: int) -> tuple[list[Tensor], dict[tuple[int, int], Tensor]]:
        """Latents (B, Z, D) before and after each of the `newest` folds; and span (start, stop) -> latents of each.

        Only these folds have gradients. Before the first fold of a lifetime there are no latents.
        """
        folds = self.schedule.folds(tokens.shape[1])
        spans, before = self.schedule.spans(folds), max(0, folds - newest)
        after = list(self.folded(spans, lambda start, stop: tokens[:, start:stop], before))
        return after[max(0, before - 1) :], dict(zip(spans[before:], after[before:], strict=True))

    def hidden_after(self, leads: list[Tensor], tokens: Tensor, newest: int) -> Tensor:
        """Hidden vectors (B, T, S, D) given the latents `leads` of `memories`; zeros before the `newest` folds."""
        steps = tokens.shape[1]
        folds = self.schedule.folds(steps)
        before = max(0, folds - newest)
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, self.schedule.end(folds) - steps))
        if before:
            parts = [torch.zeros_like(tokens[:, : self.schedule.end(before - 1)])]
        else:
            parts = [self.body(tokens[:, : self.schedule.end(0)].flatten(1, 2)).unflatten(1, (-1, tokens.shape[2]))]
        if leads:
            parts.append(self._after(leads, tokens, folds))
        return torch.cat(parts, 1)[:, :steps]

    def _after(self, leads: list[Tensor], tokens: Tensor, folds: int) -> Tensor:
        """Hidden vectors (B, C * slide, S, D) of the new steps after each of the last C folds."""
        begin, end = self.schedule.begin, self.schedule.end
        numbers = range(folds + 1 - len(leads), folds + 1)
        stretches = torch.stack([tokens[:, begin(n) : end(n)] for n in numbers], 1)  # (B, C, W, S, D)
        lead = torch.stack(leads, 1) + self.latent  # (B, C, Z, D)
        # (B * C, Z + W * S, D): one sequence per fold, latents first
        seen = self.body(torch.cat([lead, stretches.flatten(2, 3)], 2).flatten(0, 1))[:, self.config.latents :]
        new = seen.unflatten(1, (-1, tokens.shape[2]))[:, -self.config.slide :]  # earlier steps belong to older folds
        return new.unflatten(0, (len(tokens), -1)).flatten(1, 2)

    def reconstruction_terms(
        self, made: dict[tuple[int, int], Tensor], steps: Steps, count: Tensor
    ) -> dict[str, Tensor]:
        """Reconstruction NLL of folded steps given latents; `made` maps spans (start, stop) to latents (B, Z, D)."""
        terms = dict.fromkeys(("rebuilt_obs", "rebuilt_action", "rebuilt_reward", "rebuilt_first"), count * 0.0)
        for (start, stop), latents in made.items():
            x, was = self.decoder(latents, stop - start), steps.window(start, stop)  # (B, stop - start, D), steps
            weight = 1 + (self.config.reward_weight - 1) * (was.prev_reward > 0)
            weight = self.config.reconstruction * weight * was.mask.all(1, keepdim=True)  # acting never folds padding
            first = F.binary_cross_entropy_with_logits(self.begins(x)[..., 0], was.first.float(), reduction="none")
            for name, loss in (
                ("obs", self.obs.head(x).loss(was.obs)),
                ("action", self.action.head(x).loss(was.prev_action, was.extras.get(HEAD_NOISE))),
                ("reward", self.reward.head(x).loss(was.prev_reward)),
                ("first", first),
            ):
                terms[f"rebuilt_{name}"] = terms[f"rebuilt_{name}"] + (loss * weight).sum() / count.clamp_min(1)
        return terms

    # ---- acting -----------------------------------------------------------------------------------------------------

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Latents:
        cache = self.body.make_cache(rows, (self.config.window + 1) * len(self.slots) + self.config.latents)
        return Latents(cache, self.latent.new_zeros(rows, self.config.latents, self.config.width), np.zeros(rows, int))

    def handle_overflow(self, context: Context) -> None:
        """Fold the oldest steps of rows with a full window."""
        latest = context.memory.folds > 0
        full = context.length >= self.config.window - self.config.latents * latest
        for rows in (full & ~latest, full & latest):
            if rows.any():
                self._fold_rows(context, np.flatnonzero(rows))

    def _fold_rows(self, context: Context, index: np.ndarray) -> None:
        """Fold once in the rows `index`, of which either all or none have latents already."""
        memory, at = context.memory, torch.as_tensor(index, device=self.device)
        start, stop = self.schedule.span(int(memory.folds[index[0]]))
        steps = context.read(np.zeros(len(index), int), stop - start, index)
        folded = self.fold(memory.latents[at] if start else None, self.tokens(self.tensors(steps)))
        memory.latents, memory.folds = memory.latents.index_copy(0, at, folded), memory.folds.copy()
        memory.folds[index] += 1
        context.drop(index, stop - start)

    def _lead(self, memory: Latents, index: np.ndarray) -> None:
        """Feed the latents of the rows `index`, whose cache is empty, as the prefix of their steps."""
        cache = memory.cache.select(index)
        self.body(memory.latents[torch.as_tensor(index, device=self.device)] + self.latent, cache)
        cache.advance(torch.full_like(cache.lengths, self.config.latents))
        memory.cache.assign(index, cache)

    def replace_latents(self, context: Context, latents: Tensor) -> None:
        """Intervention: replace the latents of all rows with a fold by `latents` (B, Z, D)."""
        memory, index = context.memory, np.flatnonzero(context.memory.folds)
        at = torch.as_tensor(index, device=self.device)
        with acting(self):
            memory.latents[at] = latents[at]
            memory.cache.forget(index)
            if len(index):
                self._lead(memory, index)

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        memory = context.memory
        known = memory.folds > 0
        if known.any() and len(index := np.flatnonzero(known & (memory.cache.lengths.cpu().numpy() == 0))):
            self._lead(memory, index)
        before = self.config.latents * known  # (B,) prefix tokens
        return self.read_cached(context, memory.cache, active, np.zeros(context.rows, np.int64), before)

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        return context.memory.cache, super().branch(context)[1]

    def load_history(self, context: Context, history: Steps) -> None:
        """Initialise a new context from a history of any length, folded on the same schedule as in acting."""
        length = history.mask.sum(1)
        if not length.any():
            return
        folds = np.array([self.schedule.folds(count + 1) for count in length])  # (B,) folds before the next action
        memory = context.memory
        for count in np.unique(folds[folds > 0]):  # rows with equally many folds are folded in one batch
            index = np.flatnonzero(folds == count)
            rows, at = history.rows(index), torch.as_tensor(index, device=self.device)
            *_, memory.latents[at] = self.folded(self.schedule.spans(count), partial(self._tokens_of, rows))
        start = np.array([self.schedule.begin(number) for number in folds])  # (B,) first step that stays visible
        columns = np.minimum(start[:, None] + np.arange(self.config.window), history.mask.shape[1] - 1)
        rest = history.map(lambda value: value[np.arange(len(start))[:, None], columns])
        rest = rest._replace(mask=np.arange(self.config.window) < (length - start)[:, None])
        context.load(rest)
        memory.folds, context.full = folds, folds > 0

    def _tokens_of(self, steps: Steps, start: int, stop: int) -> Tensor:
        return self.tokens(self.tensors(steps.window(start, stop)))
