"""Algorithm Distillation with a compressed memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.acting import read_cached
from icrl_agents.config import AgentConfig, check_choice, read_stages, stage_at
from icrl_agents.context import Context
from icrl_agents.nn.compressor import QUERY_STD, Compressor, Reader
from icrl_agents.nn.transformer import Cache
from icrl_agents.numerics import acting
from icrl_agents.percepts import PerceptAgent, intended_action
from icrl_agents.steps import Steps


@dataclass(frozen=True)
class CADConfig(AgentConfig):
    window: int = 60  # visible tokens, one a step, latents included
    slide: int = 34  # steps folded into the latents at once; window - latents - slide stay visible
    latents: int = 16  # vectors that hold the folded steps
    compressor_layers: int = 2  # blocks of the compressor, which folds
    compressor_heads: int = 4  # attention heads in each of its blocks
    gate: str = "gated"  # how new latents join old ones: "gated", "residual" or "replace"
    folds: int = 12  # maximum number of folds in a training window
    curriculum: str = "0:4 0.15:1000"  # pairs "share of the updates:maximum number of folds from then on"
    folds_with_gradient: int = 4  # newest folds through which the loss is propagated
    pretrain: float = 0.0  # share of the updates, the first ones, in which only the reconstruction is learned
    reconstruction: float = 0.1  # weight of the loss on reconstructed steps
    reward_weight: float = 5.0  # weight of steps after a reward in the reconstruction

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("gate", self.gate, Compressor.GATES)
        if self.width % self.compressor_heads:
            raise ValueError(f"width={self.width} must be a multiple of compressor_heads={self.compressor_heads}")
        if self.room + self.slide > self.window - 1:
            raise ValueError(
                f"latents={self.latents} and slide={self.slide} leave no step of window={self.window}: lower one"
            )
        if self.pretrain and not self.reconstruction:
            raise ValueError(f"pretrain={self.pretrain} learns the reconstruction, whose weight is 0: raise it")
        self.most_folds(0.0)

    @property
    def room(self) -> int:
        """The steps whose place the latents take."""
        return -(-self.latents // (1 + self.dynamics))

    @property
    def span(self) -> int:
        return self.window + self.folds * self.slide

    @property
    def learned(self) -> float:
        """The steps of a training window that are learned from, a mean over its numbers of folds once all may come."""
        newest = self.folds_with_gradient
        counts = [
            self.window + folds * self.slide if folds <= newest else (newest + 1) * self.slide
            for folds in range(1, self.folds + 1)
        ]
        return sum(counts) / len(counts)

    def most_folds(self, done: float) -> int:
        """The most folds in a training window when the share `done` of the training is over."""
        return min(self.folds, stage_at(read_stages("curriculum", self.curriculum, "folds"), done))


class CAD(PerceptAgent):
    """AD whose memory outlives its window: what leaves the window is folded into latents (CCCAD, tommyma3, 2026).

    Tokens: those of AD. Once `window` steps are visible, all but the newest `window - latents - slide` of them are
    read by the compressor and become the latents, which stand before the steps from then on; whenever the window is
    full again, the oldest `slide` steps and the old latents are folded into new ones. One function, `fold`, does
    this in training and acting. Latents read each other and never a step, so they are cached like any prefix.

    Loss: -log p(action_t | latents, visible percepts up to t) at every step that is decided after one of the newest
    `folds_with_gradient` folds (or before them, where there are no older ones), plus `reconstruction` times the
    negative log-likelihood of what was folded (obs, previous action and reward, beginnings of episodes), given the
    latents that it became. A training window has a number of folds that is the same for all rows of a batch, and
    begins with its lifetime wherever that is not longer than `folds` allow, as acting does.

    Deviations from the public code, which trains on one fold of any length and acts with many of another: the
    schedule; the loss at every step; raw fields are reconstructed, not moving embeddings; latents cannot read
    steps; a gate; and never is an action read at a bare query.
    """

    Config = CADConfig
    config: CADConfig
    remembers = True
    heads = True  # for the reconstruction

    def __init__(self, observation_space: Any, action_space: Any, config: CADConfig | None = None):
        config = config or CADConfig()
        super().__init__(observation_space, action_space, config)
        width, most = config.width, config.slide + config.room  # steps of the first fold, which is the longest
        sizes = (width, config.compressor_layers, config.compressor_heads, config.inner, config.dropout)
        self.compressor = Compressor(config.latents, most * len(self.slots), *sizes, config.gate)
        self.latent = nn.Parameter(torch.randn(width) * QUERY_STD)  # tells latents from steps
        self.decoder = Reader(most, *sizes)
        self.begins = nn.Linear(width, 1)

    # ---- the memory -------------------------------------------------------------------------------------------------

    def fold(self, old: Tensor | None, tokens: Tensor) -> Tensor:
        """The latents (B, Z, D) of the tokens (B, T, S, D) and, but for the first fold, of the old latents."""
        return self.compressor(old, tokens.flatten(1, 2))

    def begin(self, folds: int) -> int:
        """The first step that is visible after so many folds."""
        return self.config.room + folds * self.config.slide if folds else 0

    def end(self, folds: int) -> int:
        """The step before which the next fold comes."""
        return self.config.window + folds * self.config.slide

    # ---- training ---------------------------------------------------------------------------------------------------

    def prepare(self, steps: Steps, rng: np.random.Generator, done: float = 1.0) -> Steps:
        lengths = steps.mask.sum(1)  # of the lifetimes: one of them says how many folds there may be
        possible = self._folds(int(lengths[0] if (lengths == lengths[0]).all() else rng.choice(lengths)))
        folds = int(rng.integers(1, max(1, min(self.config.most_folds(done), possible)) + 1))
        steps = steps.window(0, self.end(folds))
        acts = np.full(steps.mask.shape, self.acts_at(done))  # a column, which micro-batches take along
        return steps._replace(extras={**steps.extras, "acts": acts})

    def acts_at(self, done: float) -> bool:
        return done >= self.config.pretrain and self.config.pretrain < 1

    def check_length(self, fewest: int, most: int) -> None:
        steps = fewest if self.config.pretrain else most  # a pretraining learns from folds alone
        if not self._folds(steps):
            raise ValueError(
                f"lifetimes of {steps} steps fit into window={self.config.window}, so that nothing would be folded: "
                f"train on longer ones (episodes=..., steps=...), or with a shorter window"
            )

    def count(self, steps: Steps) -> Any:
        return steps.mask[:, self._since(steps.mask.shape[1]) :].sum()

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        tokens, newest, count = self.tokens(steps), self.config.folds_with_gradient, self.count(steps)
        leads, made = self._memories(tokens, newest)
        terms = self._reconstruction(made, steps, count)
        if "acts" in steps.extras and not steps.extras["acts"].any():
            return terms  # of the compressor alone: what has no gradient is not decayed either
        since = self._since(steps.mask.shape[1])
        hidden, seen = self._hidden(leads, tokens, newest)[:, since:], steps.window(since, None)
        return self.loss_at(hidden, seen, intended_action(seen), count) | terms

    def hidden(self, steps: Steps) -> Tensor:
        tokens, newest = self.tokens(steps), steps.mask.shape[1]
        return self._hidden(self._memories(tokens, newest)[0], tokens, newest)

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        return self.hidden(steps)[torch.arange(len(last), device=last.device), last, 0]

    def _folds(self, length: int) -> int:
        """How many folds come before the last one of `length` steps is decided."""
        return max(0, -(-(length - self.config.window) // self.config.slide))

    def _since(self, length: int) -> int:
        """The first step of so many that is learned from."""
        before = self._folds(length) - self.config.folds_with_gradient
        return self.end(before - 1) if before > 0 else 0

    def _memories(self, tokens: Tensor, newest: int) -> tuple[list[Tensor], dict[tuple[int, int], Tensor]]:
        """The latents (B, Z, D) before and after each of the `newest` folds, the only ones with gradients.

        And what was folded then (from, to) with the latents that it became. There are none before the first fold.
        """
        folds = self._folds(tokens.shape[1])
        before = max(0, folds - newest)  # folds without gradient
        latents: Tensor | None = None
        with torch.no_grad():
            for number in range(before):
                latents = self.fold(latents, tokens[:, self.begin(number) : self.begin(number + 1)])
        leads, made = [] if latents is None else [latents], {}
        for number in range(before, folds):
            latents = self.fold(latents, tokens[:, self.begin(number) : self.begin(number + 1)])
            leads.append(latents)
            made[self.begin(number), self.begin(number + 1)] = latents
        return leads, made

    def _hidden(self, leads: list[Tensor], tokens: Tensor, newest: int) -> Tensor:
        """The hidden vectors (B, T, S, D) by the latents of `_memories`; zero before the `newest` folds."""
        steps = tokens.shape[1]
        folds = self._folds(steps)
        before = max(0, folds - newest)
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, self.end(folds) - steps))
        if before:
            parts = [torch.zeros_like(tokens[:, : self.end(before - 1)])]
        else:
            parts = [self.body(tokens[:, : self.end(0)].flatten(1, 2)).unflatten(1, (-1, tokens.shape[2]))]
        if leads:
            parts.append(self._after(leads, tokens, folds))
        return torch.cat(parts, 1)[:, :steps]

    def _after(self, leads: list[Tensor], tokens: Tensor, folds: int) -> Tensor:
        """The hidden vectors (B, C * slide, S, D) of the steps decided after each of the last C folds."""
        numbers = range(folds + 1 - len(leads), folds + 1)
        stretches = torch.stack([tokens[:, self.begin(n) : self.end(n)] for n in numbers], 1)  # (B, C, W, S, D)
        lead = torch.stack(leads, 1) + self.latent  # (B, C, Z, D)
        seen = self.body(torch.cat([lead, stretches.flatten(2, 3)], 2).flatten(0, 1))[:, self.config.latents :]
        new = seen.unflatten(1, (-1, tokens.shape[2]))[:, -self.config.slide :]  # the others were decided before
        return new.unflatten(0, (len(tokens), -1)).flatten(1, 2)

    def _reconstruction(self, made: dict[tuple[int, int], Tensor], steps: Steps, count: Tensor) -> dict[str, Tensor]:
        """How badly the latents tell what was folded into them last."""
        terms = dict.fromkeys(("rebuilt_obs", "rebuilt_action", "rebuilt_reward", "rebuilt_first"), count * 0.0)
        for (start, stop), latents in made.items():
            x, was = self.decoder(latents, stop - start), steps.window(start, stop)
            weight = 1 + (self.config.reward_weight - 1) * (was.prev_reward > 0)
            weight = self.config.reconstruction * weight * was.mask.all(1, keepdim=True)  # padding is never folded
            first = F.binary_cross_entropy_with_logits(self.begins(x)[..., 0], was.first.float(), reduction="none")
            for name, loss in (
                ("obs", -self.obs.head(x).log_prob(was.obs)),
                ("action", -self.action.head(x).log_prob(was.prev_action)),
                ("reward", -self.reward.head(x).log_prob(was.prev_reward)),
                ("first", first),
            ):
                terms[f"rebuilt_{name}"] = terms[f"rebuilt_{name}"] + (loss * weight).sum() / count.clamp_min(1)
        return terms

    # ---- acting -----------------------------------------------------------------------------------------------------

    def new_memory(self, rows: int, given: Mapping[str, np.ndarray]) -> Latents:
        cache = self.body.make_cache(rows, (self.config.window + 1) * len(self.slots) + self.config.latents)
        return Latents(cache, self.latent.new_zeros(rows, self.config.latents, self.config.width), np.zeros(rows, int))

    def make_room(self, context: Context) -> None:
        """Fold the oldest steps of the rows that are full."""
        latest = context.memory.folds > 0
        full = context.length >= self.config.window - self.config.room * latest
        for rows in (full & ~latest, full & latest):
            if rows.any():
                self._fold_rows(context, np.flatnonzero(rows))

    def _fold_rows(self, context: Context, index: np.ndarray) -> None:
        memory = context.memory
        known, at = memory.folds[index[0]] > 0, torch.as_tensor(index, device=self.device)
        count = self.begin(memory.folds[index[0]] + 1) - self.begin(memory.folds[index[0]])
        tokens = self.tokens(self.tensors(context.read(np.zeros(len(index), int), count, index)))
        folded = self.fold(memory.latents[at] if known else None, tokens)
        memory.latents, memory.folds = memory.latents.index_copy(0, at, folded), memory.folds.copy()
        memory.folds[index] += 1
        context.drop(index, count)

    def _lead(self, memory: Latents, index: np.ndarray) -> None:
        """Feed the latents of the rows `index`, of which nothing is cached, before their steps."""
        cache = memory.cache.select(index)
        self.body(memory.latents[torch.as_tensor(index, device=self.device)] + self.latent, cache)
        cache.advance(torch.full_like(cache.lengths, self.config.latents))
        memory.cache.assign(index, cache)

    @acting
    def replace_latents(self, context: Context, latents: Tensor) -> None:
        """Let the rows that have folded something remember `latents` (B, Z, D) instead, for interventions."""
        memory, index = context.memory, np.flatnonzero(context.memory.folds)
        at = torch.as_tensor(index, device=self.device)
        memory.latents[at] = latents[at]
        memory.cache.forget(index)
        if len(index):
            self._lead(memory, index)

    def attend(self, context: Context, live: np.ndarray) -> Tensor:
        memory = context.memory
        known = memory.folds > 0
        if known.any() and len(index := np.flatnonzero(known & (memory.cache.lengths.cpu().numpy() == 0))):
            self._lead(memory, index)
        before = self.config.latents * known
        return read_cached(self, context, memory.cache, live, np.zeros(context.rows, np.int64), before)

    def branch(self, context: Context) -> tuple[Cache, np.ndarray]:
        return context.memory.cache, super().branch(context)[1]

    def catch_up(self, context: Context, history: Steps) -> None:
        """Fold the history as if it had been lived, however long it is."""
        length = history.mask.sum(1)
        if not length.any():
            return
        folds = np.where(length >= self.config.window, 1 + (length - self.config.window) // self.config.slide, 0)
        memory = context.memory
        for number in range(folds.max(initial=0)):
            index = np.flatnonzero(folds > number)
            part = history.rows(index).window(self.begin(number), self.begin(number + 1))
            at = torch.as_tensor(index, device=self.device)
            old = memory.latents[at] if number else None
            memory.latents[at] = self.fold(old, self.tokens(self.tensors(part)))
        start = np.array([self.begin(number) for number in folds])
        columns = np.minimum(start[:, None] + np.arange(self.config.window), history.mask.shape[1] - 1)
        rest = history.map(lambda value: value[np.arange(len(start))[:, None], columns])
        rest = rest._replace(mask=np.arange(self.config.window) < (length - start)[:, None])
        context.load(rest)
        memory.folds, context.full = folds, folds > 0


@dataclass
class Latents:
    """The memory of every row: what was folded, and the cache of it and of the visible steps."""

    cache: Cache
    latents: Tensor  # (B, Z, D), zeros where nothing was folded yet
    folds: np.ndarray  # (B,) how many there were

    def select(self, index: np.ndarray) -> Latents:
        at = torch.as_tensor(index, device=self.latents.device)
        return Latents(self.cache.select(index), self.latents[at], self.folds[index])

    def draft(self) -> Latents:
        return Latents(self.cache.draft(), self.latents, self.folds)

    def wipe(self) -> None:
        self.cache.wipe()

    def drop(self, index: np.ndarray) -> None:
        self.cache.drop(index)

    def forget(self, index: np.ndarray) -> None:
        self.cache.forget(index)
        self.latents = self.latents.index_fill(0, torch.as_tensor(index, device=self.latents.device), 0)
        self.folds = self.folds.copy()
        self.folds[index] = 0
