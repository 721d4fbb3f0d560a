"""Headless-AD: Algorithm Distillation for actions it has never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.acting import read_cached
from icrl_agents.action_sets import draw_vectors
from icrl_agents.agent import ICAgent
from icrl_agents.codecs import EMBEDDING_STD, ActionVectors
from icrl_agents.config import AgentConfig, check_choice
from icrl_agents.context import Context
from icrl_agents.distributions import Categorical
from icrl_agents.nn.transformer import Cache
from icrl_agents.percepts import intended_action, masked_nll
from icrl_agents.steps import Steps


@dataclass(frozen=True)
class HeadlessADConfig(AgentConfig):
    vector_size: int = 128  # K; so many actions have orthonormal vectors
    vectors: str = "orthonormal"  # or "normal": independent standard normal entries
    drawn: str = "sequence"  # anew for each "sequence"; "batch": one for all of a training batch, as published
    prompt: bool = True  # whether the action set is told before the first step
    objective: str = "nce"  # "nce": -log softmax of the similarities; "mse": distance to the action's vector
    temperature: float = 1.0  # of the similarities in training
    acting_temperature: float = 0.0  # and in acting; 0: the same (the published code leaves it out: 1)

    VECTORS: ClassVar = ("orthonormal", "normal")
    DRAWN: ClassVar = ("sequence", "batch")
    OBJECTIVES: ClassVar = ("nce", "mse")
    LIMITS: ClassVar = {
        **AgentConfig.LIMITS,
        "vector_size": (2, 8192),
        "temperature": (1e-3, 1e3),
        "acting_temperature": (0.0, 1e3),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("vectors", self.vectors, self.VECTORS)
        check_choice("drawn", self.drawn, self.DRAWN)
        check_choice("objective", self.objective, self.OBJECTIVES)
        if self.dynamics:
            raise ValueError("headless-ad predicts no rewards or observations: leave dynamics out")


class HeadlessAD(ICAgent):
    """AD without a head, which fixes the actions (Sinii et al. 2024, arXiv 2312.13327).

    Each lifetime has vectors of its own for its actions, drawn at random, so what an action does can only be found
    out in context, and any set of actions will do. The model's output is compared with the vectors of the legal ones.

    Tokens: one for each legal action, in random order, which stay whatever leaves the window; then one a step, obs +
    first, and what came before: prev_obs + vector of prev_action + prev_reward. Loss: -log of the softmax of
    output . vector / temperature over the legal actions (InfoNCE), at every step.

    Deviations from the public code: illegal actions are left out, where there they keep zero vectors in the prompt
    and logits of 0 in the loss; the prompt's order is random, as its positions would otherwise tell actions apart; no
    dropout when acting; one token a step, and none for "no action yet": nothing is added instead.
    """

    Config = HeadlessADConfig
    config: HeadlessADConfig
    action: ActionVectors

    def __init__(self, observation_space: Any, action_space: Any, config: HeadlessADConfig | None = None):
        config = config or HeadlessADConfig()
        super().__init__(observation_space, action_space, config)
        self.first = nn.Embedding(2, config.width)
        self.before = nn.Linear(config.width, config.width, bias=False)  # tells the previous obs from the one now
        self.offer = nn.Parameter(torch.randn(config.width) * EMBEDDING_STD)  # tells the prompt from steps
        nn.init.normal_(self.first.weight, std=EMBEDDING_STD)

    def action_codec(self, space: gymnasium.Space) -> ActionVectors:
        return ActionVectors(space, self.config.width, self.config.vector_size)

    # ---- what a lifetime is given -----------------------------------------------------------------------------------

    def fits(self, action_space: gymnasium.Space) -> bool:
        return ActionVectors.fits(action_space)

    def give(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Besides the action sets (B, A), vectors for the actions (B, A, K) and the order (B, A) of the prompt."""
        if action_mask is None:
            action_mask = np.ones((rows, self.action.count), bool)
        sizes = rows, action_mask.shape[1], self.config.vector_size
        order = np.where(action_mask, rng.random(action_mask.shape), np.inf).argsort(1)  # legal ones first
        vectors = draw_vectors(*sizes, rng, normal=self.config.vectors == "normal")
        return {"action_mask": action_mask, "action_vectors": vectors, "prompt_order": order}

    def prepare(self, steps: Steps, rng: np.random.Generator, done: float = 1.0) -> Steps:
        given = self.give(len(steps.mask), steps.given.get("action_mask"), rng)
        if self.config.drawn == "batch":
            given["action_vectors"] = given["action_vectors"][:1].repeat(len(steps.mask), 0)
        return steps._replace(given=given)

    # ---- the model --------------------------------------------------------------------------------------------------

    def tokens(self, steps: Steps) -> Tensor:
        vectors = look_up(steps.given["action_vectors"], steps.prev_action)
        before = self.action.embed(vectors) + self.reward.embed(steps.prev_reward)
        before = before + self.before(self.obs.embed(steps.prev_obs))
        percept = self.obs.embed(steps.obs) + self.first(steps.first.long())
        return (percept + before * ~steps.start[..., None])[:, :, None]

    def prompt(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The tokens (B, P, D) that tell the action sets, and how many (B,) of them each row has."""
        count = given["action_mask"].sum(1) * self.config.prompt
        order = given["prompt_order"][:, : int(count.max())]
        return self.action.embed(look_up(given["action_vectors"], order)) + self.offer, count

    def hidden(self, steps: Steps) -> Tensor:
        """The hidden vectors (B, T, 1, D): the steps of each row follow its own prompt at once."""
        prompt, count = self.prompt(steps.given)
        tokens = torch.cat([prompt, self.tokens(steps)[:, :, 0]], 1)
        rows = torch.arange(len(count), device=count.device)[:, None]
        place = torch.arange(tokens.shape[1], device=count.device).expand(len(count), -1)
        shift = torch.where(place < count[:, None], 0, prompt.shape[1] - count[:, None])
        packed = tokens[rows, (place + shift).clamp_max(tokens.shape[1] - 1)]
        return self.body(packed)[rows, count[:, None] + place[:, : steps.mask.shape[1]]][:, :, None]

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        return self.hidden(steps)[torch.arange(len(last), device=last.device), last, 0]

    def choices(self, hidden: Tensor, given: Mapping[str, Tensor]) -> Categorical:
        return self._compare(hidden, given, self.config.acting_temperature or self.config.temperature)

    def _compare(self, hidden: Tensor, given: Mapping[str, Tensor], temperature: float) -> Categorical:
        vectors, out = given["action_vectors"], self.action.head(hidden).mean
        similarity = torch.einsum("b...k,bak->b...a", out, vectors)
        if self.config.objective == "mse":  # minus the mean squared difference, but for what all actions share
            norms = vectors.square().sum(-1).reshape(len(vectors), *[1] * (hidden.dim() - 2), -1)
            similarity = (2 * similarity - norms) / vectors.shape[-1]
        return Categorical(similarity / temperature).among(given["action_mask"])

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        hidden, action, count = self.hidden(steps)[:, :, 0], intended_action(steps), steps.mask.sum()
        if self.config.objective == "nce":
            choices = self._compare(hidden, steps.given, self.config.temperature)
            return {"action": masked_nll(choices, action, steps.mask, count)}
        target = look_up(steps.given["action_vectors"], action)
        return {"vector": masked_nll(self.action.head(hidden), target, steps.mask, count)}  # squares, and a constant

    # ---- acting -----------------------------------------------------------------------------------------------------

    def new_memory(self, rows: int, given: Mapping[str, np.ndarray]) -> Cache:
        most = int(given["action_mask"].sum(1).max()) if self.config.prompt else 0
        return self.body.make_cache(rows, self.config.window + 1 + most)

    def attend(self, context: Context, live: np.ndarray) -> Tensor:
        cache: Cache = context.memory
        lead = context.steps.given["action_mask"].sum(1) * self.config.prompt
        if lead.any() and len(index := np.flatnonzero(cache.lengths.cpu().numpy() == 0)):
            prompt, count = self.prompt(self.given(context.steps.rows(index)))
            part = cache.select(index)
            self.body(prompt, part)
            part.advance(count)
            cache.assign(index, part)
        return read_cached(self, context, cache, live, np.zeros(context.rows, np.int64), lead)

    def catch_up(self, context: Context, history: Steps) -> None:
        count = context.steps.given["action_mask"].shape[1]
        if history.mask.any() and history.action[history.mask].max() >= count:
            raise ValueError(f"history has actions from {count} on, outside the action set: give num_actions= as well")
        super().catch_up(context, history)


def look_up(vectors: Tensor, action: Tensor) -> Tensor:
    """The vectors (B, T, K) of actions (B, T), among those of their rows (B, A, K)."""
    return vectors[torch.arange(len(action), device=action.device)[:, None], action]
