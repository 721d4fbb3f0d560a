"""Headless-AD: Algorithm Distillation for unseen action sets.

Axis letters: B rows, T steps, A actions, P prompt tokens, L = P + T tokens, Q queries, K vector size, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icrl_agents.core.action_masks import actions_in, padded
from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.percepts import intended_action, masked_nll
from icrl_agents.methods.base.transforms import packed
from icrl_agents.nn.cache import Cache
from icrl_agents.nn.codecs.action_vectors import ActionVectors, draw_vectors
from icrl_agents.nn.codecs.codec import EMBEDDING_STD
from icrl_agents.nn.codecs.distributions import Categorical
from icrl_agents.nn.votes import Votes

VECTORS, ORDER = "action_vectors", "prompt_order"  # static values: (B, A, K) float32 and (B, A) action numbers


@dataclass(frozen=True)
class HeadlessADConfig(AgentConfig):
    vector_size: int = 128  # size of action vectors, K; up to K actions have orthonormal vectors
    vectors: str = "orthonormal"  # distribution of action vectors: "orthonormal", or "normal" with independent entries
    drawn: str = "sequence"  # unit that shares random vectors: a "sequence", or a training "batch" as published
    prompt: bool = True  # whether a prompt lists the action set before the first step
    illegal: str = "absent"  # treatment of illegal actions: "absent", or "zero" vectors in prompt and loss (published)
    votes: bool = True  # whether tokens add to the scores of their own actions; published: no
    similarity: str = "dot"  # similarity of output and vector: "dot", or "cosine", which ignores the output's norm
    objective: str = "nce"  # loss: -log softmax of the similarities ("nce"), or squared distance to the vector ("mse")
    temperature: float = 1.0  # softmax temperature of the scores in training
    choice: str = "sample"  # how to act: "sample", or "mode", the action of the highest score (published with "mse")

    CHOICES: ClassVar = {
        **AgentConfig.CHOICES,
        "vectors": ("orthonormal", "normal"),
        "drawn": ("sequence", "batch"),
        "illegal": ("absent", "zero"),
        "similarity": ("dot", "cosine"),
        "objective": ("nce", "mse"),
        "choice": ("sample", "mode"),
    }
    LIMITS: ClassVar = {**AgentConfig.LIMITS, "vector_size": (2, 8192), "temperature": (1e-3, 1e3)}
    MEANINGS: ClassVar = (*AgentConfig.MEANINGS, "vectors", "objective", "prompt", "illegal", "similarity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamics:
            raise ValueError("headless-ad predicts no rewards or observations: leave dynamics out")
        if self.votes and self.illegal == "zero":
            raise ValueError("illegal='zero' puts actions into the prompt that have no votes: give votes=false with it")
        if self.similarity == "cosine" and self.objective == "mse":
            raise ValueError("objective='mse' learns distances: leave similarity='cosine' out")
        if self.votes and self.objective == "mse":
            raise ValueError("objective='mse' learns vectors, and votes are none: give votes=false with it")

    @property
    def unread(self) -> Mapping[str, str]:
        return {} if self.choice == "sample" else {"acting_temperature": "without choice='sample'"}


class HeadlessAD(Method):
    """AD without an output head, which would fix the number of actions (Sinii et al. 2024, arXiv 2312.13327).

    Each lifetime represents its actions by new random vectors, so the effect of an action can only be learned in
    context, and any action set is supported. The output is compared with the vectors of the legal actions.

    Tokens: a prompt of one token per legal action, in random order, which never leaves the window; then one per step,
    obs + first + previous step: prev_obs + vector of prev_action + prev_reward. Loss: -log softmax of
    output . vector / temperature over the legal actions (InfoNCE), at every step.

    Deviations from the public code: illegal actions are absent; there they keep zero vectors in the prompt and logits
    of 0 in the loss (`illegal="zero"`, for the whole action space); the prompt order is random, because its positions
    would otherwise identify actions; no dropout when acting; one token per step, and none for "no action yet": nothing
    is added instead. With `votes`, ours, the score of an action is the similarity of its vector to the output plus the
    sum of the votes of its own tokens (see `Votes`). Without votes, trainings of minutes do not learn to distinguish an
    action that failed once from one that was never tried.
    """

    Config = HeadlessADConfig
    variable_actions = True
    config: HeadlessADConfig
    action: ActionVectors

    def __init__(self, observation_space: Any, action_space: Any, config: HeadlessADConfig | None = None):
        config = config or HeadlessADConfig()
        super().__init__(observation_space, action_space, config)
        self.first = nn.Embedding(2, config.width)
        self.before = nn.Linear(config.width, config.width, bias=False)  # distinguishes prev_obs from obs
        self.offer = nn.Parameter(torch.randn(config.width) * EMBEDDING_STD)  # type vector of prompt tokens
        nn.init.normal_(self.first.weight, std=EMBEDDING_STD)
        self.votes = Votes(config.width) if config.votes else None

    def action_codec(self, space: gymnasium.Space) -> ActionVectors:
        return ActionVectors(space, self.config.width, self.config.vector_size)

    # ---- static values of a lifetime ---------------------------------------------------------------------------------

    def accepts_action_space(self, action_space: gymnasium.Space) -> bool:
        return ActionVectors.accepts(action_space)

    def draw_static(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Action masks (B, A), random action vectors (B, A, K) and the prompt order (B, A)."""
        return self._draw_static(rows, action_mask, rng, rows)

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        rows = len(steps.mask)
        draws = 1 if self.config.drawn == "batch" else rows
        return steps._replace(static=self._draw_static(rows, steps.static.get(ACTION_MASK), rng, draws))

    def _draw_static(
        self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator, draws: int
    ) -> dict[str, np.ndarray]:
        if action_mask is None:
            action_mask = np.ones((rows, self.action.count), bool)
        if self.config.illegal == "zero":
            action_mask = padded(action_mask, self.action.count)  # regardless of the other rows of the batch
        order = np.where(action_mask, rng.random(action_mask.shape), np.inf).argsort(1)  # (B, A) legal actions first
        sizes = draws, action_mask.shape[1], self.config.vector_size
        vectors = draw_vectors(*sizes, rng, normal=self.config.vectors == "normal")
        place = (~action_mask).argsort(1, kind="stable").argsort(1)  # (B, A) legal actions get the first basis
        vectors = vectors[np.arange(rows)[:, None] % draws, place]  # (B, A, K)
        if self.config.illegal == "zero":
            vectors = vectors * action_mask[..., None]
        return {ACTION_MASK: action_mask, VECTORS: vectors, ORDER: order}

    # ---- the model --------------------------------------------------------------------------------------------------

    def tokens(self, steps: Steps) -> Tensor:
        vectors = look_up(steps.static[VECTORS], steps.prev_action)  # (B, T, K)
        before = self.action.embed(vectors) + self.reward.before(steps)
        before = before + self.before(self.obs.embed(steps.prev_obs))
        percept = self.obs.embed(steps.obs) + self.first(steps.first.long())
        return (percept + before * ~steps.start[..., None])[:, :, None]  # (B, T, 1, D)

    def prompt(self, static: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Prompt tokens (B, P, D) that list the action sets, and their number (B,) in each row."""
        order, count = self.offered(static)
        return self.action.embed(look_up(static[VECTORS], order)) + self.offer, count

    def offered(self, static: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Actions (B, P) of the prompt tokens, and their number (B,) in each row."""
        count = self.lead(static[ACTION_MASK])
        return static[ORDER][:, : int(count.max())], count

    def lead(self, action_mask: Any) -> Any:
        """Number of prompt tokens (B,) before the steps of each row, for an array or tensor (B, A)."""
        told = action_mask if self.config.illegal == "absent" else action_mask | True
        return told.sum(1) * self.config.prompt

    def outputs(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Transformer outputs (B, L, D) of prompt and steps, and the position (B, T) of each step among them."""
        prompt, count = self.prompt(steps.static)
        outputs = self.body(packed(prompt, self.tokens(steps)[:, :, 0], count))
        return outputs, count[:, None] + torch.arange(steps.mask.shape[1], device=count.device)

    def hidden(self, steps: Steps) -> Tensor:
        """Scores (B, T, 1, A) of all actions, which this method uses in place of hidden vectors."""
        outputs, place = self.outputs(steps)
        told = self.told(steps.prev_action, steps.start, steps.static)
        return self.scores(outputs.take_along_dim(place[..., None], 1), outputs, place, told, steps.static)[:, :, None]

    def read(self, steps: Steps, last: Tensor) -> Tensor:
        outputs, place = self.outputs(steps)
        told, at = self.told(steps.prev_action, steps.start, steps.static), place.gather(1, last[:, None])
        return self.scores(outputs.take_along_dim(at[..., None], 1), outputs, at, told, steps.static)[:, 0]

    def told(self, prev_action: Tensor, start: Tensor, static: Mapping[str, Tensor]) -> Tensor:
        """Action (B, P + T) of each token: listed by the prompt, or `prev_action` (B, T) of steps; -1 for none."""
        order, count = self.offered(static)
        return packed(order, prev_action.masked_fill(start, -1), count)

    def scores(
        self, query: Tensor, outputs: Tensor | None, place: Tensor, told: Tensor, static: Mapping[str, Tensor]
    ) -> Tensor:
        """Scores (B, Q, A) of all actions.

        Args:
            query: transformer outputs (B, Q, D) at which actions are chosen.
            outputs: transformer outputs (B, L, D) of all tokens, for votes; None: no votes.
            place: position (B, Q) of each query among all tokens.
            told: action (B, L) of each token, -1 for none.
            static: static values of the rows.
        """
        vectors = static[VECTORS]  # (B, A, K)
        output = self.action.head(query).mean  # (B, Q, K)
        if self.config.similarity == "cosine":
            output = F.normalize(output, dim=-1)
        scores = torch.einsum("bqk,bak->bqa", output, vectors)
        if self.config.objective == "mse":  # minus half the squared distance, up to a constant over actions
            scores = scores - vectors.square().sum(-1)[:, None] / 2
        if self.votes is None or outputs is None:
            return scores
        seen = torch.arange(outputs.shape[1], device=place.device) <= place[..., None]  # (B, Q, L)
        return scores + self.votes(query, outputs, told, seen, vectors.shape[1])

    def policy_at(self, hidden: Tensor) -> Categorical:
        return Categorical(hidden / self.config.temperature)

    def action_distribution(self, hidden: Tensor, static: Mapping[str, Tensor]) -> Categorical:
        """Policy over legal actions from scores (B, ..., A), as a softmax or as uniform over the best actions."""
        found: Any = super().action_distribution(hidden, static)
        if self.config.choice == "mode":
            best = found.logits == found.logits.amax(-1, keepdim=True)
            return Categorical(best.log())
        return found

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        action, count = intended_action(steps), steps.mask.sum()
        if self.config.objective == "nce":
            choices = self.policy_at(self.hidden(steps)[:, :, 0])
            if self.config.illegal == "absent":
                choices = choices.among(steps.static[ACTION_MASK])
            return {"action": masked_nll(choices, action, steps.mask, count)}
        outputs, place = self.outputs(steps)
        predicted = self.action.head(outputs.take_along_dim(place[..., None], 1))
        target = look_up(steps.static[VECTORS], action)
        return {"vector": masked_nll(predicted, target, steps.mask, count)}  # half the squared distance + constant

    # ---- acting -----------------------------------------------------------------------------------------------------

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> Cache:
        most = static[ACTION_MASK].shape[1] if self.config.prompt else 0  # a row's next task may have more actions
        return self.make_window(rows, self.config.window + 1 + most, outputs=self.config.votes)

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        cache: Cache = context.memory
        static = self.static_tensors(context.steps)
        lead = self.lead(context.steps.static[ACTION_MASK])
        if lead.any():
            self._feed_prompt(context, cache, np.ones(context.rows, bool))
        query = self.read_cached(context, cache, active, np.zeros(context.rows, np.int64), lead)[:, None]  # (B, 1, D)
        if lead.any() and cache.ahead is not None:
            self._feed_prompt(context, cache.ahead, context.length > self.config.slide)
        self.look_ahead(context, cache, lead)
        seen = context.steps.window(0, int(context.length.max()) + 1)
        prev_action = self.action.tensor(seen.prev_action, self.device)
        told = self.told(prev_action, torch.as_tensor(seen.start, device=self.device), static)
        outputs = None if cache.outputs is None else cache.outputs[:, : told.shape[1]]
        place = torch.as_tensor(lead + context.length, device=self.device)[:, None]
        return self.scores(query, outputs, place, told, static)[:, 0]

    def _feed_prompt(self, context: Context, cache: Cache, rows: np.ndarray) -> None:
        """Feed the prompt of those of the `rows` (B,) bool whose cache is empty."""
        index = np.flatnonzero(rows & (cache.lengths.cpu().numpy() == 0))
        if len(index):
            prompt, count = self.prompt(self.static_tensors(context.steps.rows(index)))
            part = cache if len(index) == context.rows else cache.select(index)
            self.body(prompt, part)
            part.advance(count)
            if part is not cache:
                cache.assign(index, part)

    def load_history(self, context: Context, history: Steps) -> None:
        count = context.steps.static[ACTION_MASK].shape[1]
        if actions_in(history) > count:
            raise ValueError(f"history has actions from {count} on, outside the action set: give num_actions= as well")
        super().load_history(context, history)

    def check_restored(self, context: Context, drawn: Mapping[str, np.ndarray]) -> None:
        if (np.sort(context.steps.static[ORDER], -1) != np.sort(drawn[ORDER], -1)).any():
            raise ValueError(f"{ORDER} is no order that could be drawn")


def look_up(vectors: Tensor, action: Tensor) -> Tensor:
    """Vectors (B, T, K) of the actions (B, T), from the `vectors` (B, A, K) of each row."""
    return vectors[torch.arange(len(action), device=action.device)[:, None], action]
