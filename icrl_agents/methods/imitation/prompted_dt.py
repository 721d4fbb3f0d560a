"""Prompted Decision Transformer: few-shot imitation from demonstrations in the context.

Axis letters: B rows, T steps, P capacity of a prompt in steps, L steps, n selected rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import ACTION_MASK, TIMESTEP, Steps
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.recorded import check_recorded
from icrl_agents.methods.base.trainable import TASK
from icrl_agents.methods.base.transforms import return_to_go
from icrl_agents.methods.imitation.episodes.demos import Demos, PromptedCache
from icrl_agents.methods.imitation.episodes.method import EpisodeConfig, EpisodeMethod
from icrl_agents.methods.imitation.episodes.segments import SEGMENT, mix_episodes, segments
from icrl_agents.nn.codecs.codec import EMBEDDING_STD

DEMOS = "demos"  # static value (B,) int64: number of demonstrations of each row


@dataclass(frozen=True)
class PromptedDTConfig(EpisodeConfig):
    demos: int = 3  # maximum number of demonstrations before the live episode
    prompt: int = 240  # maximum number of steps of all demonstrations together
    burstiness: float = 1.0  # share of training rows whose sequences are of one task; in others no two episodes are

    LIMITS: ClassVar = {**EpisodeConfig.LIMITS, "demos": (0, 16), "prompt": (1, 100_000), "burstiness": (0.0, 1.0)}

    @property
    def span(self) -> int:
        return self.window + (self.prompt if self.demos else 0)


class PromptedDT(EpisodeMethod):
    """Prompted Decision Transformer (Xu et al. 2022, arXiv 2206.13499; Raparthy et al. 2024, arXiv 2312.03801).

    Given up to `demos` demonstrations of a task, a causal transformer imitates them in the live episode that follows:
    few-shot imitation of an unseen task. It is trained on episodes of experts, several of each task, and takes any
    steps as demonstrations when acting: `reset(demo=steps)`.

    Sequence: [demo_1 ... demo_n | live episode]. Tokens of a step: one percept, obs + prev_action + timestep + number
    of the episode in the sequence (0..n), and + return to go with `return_to_go`. Timesteps restart in every episode,
    whose first step has no prev_action. Loss: mean of -log p(action_t | the demonstrations before, percepts of the
    episode up to t) over all steps of all episodes, so each episode is a query after 0..n demonstrations.

    Training windows hold the consecutive episodes of one task, cut into sequences of `demos` + 1. With probability
    1 - `burstiness` a row is filled with other sequences: episodes of other tasks in the batch, all different, before
    one of its own, so that demonstrations do not help. A mixture keeps behaviour that needs none (trajectory
    burstiness, Raparthy et al.).

    When acting, the demonstrations stay before the current episode for the whole task, also when its oldest steps
    leave the window; a finished episode is forgotten. Without a demonstration the agent acts as after none.

    Deviations: one token per step where the papers have two or three, with the same information; whole episodes as
    demonstrations, where Xu et al. use pieces of about 5 steps; no reward tokens, and returns to go are optional.
    """

    Config = PromptedDTConfig
    config: PromptedDTConfig
    episode_aligned = True
    needs_tasks = True
    reset_options = ("target_return", "demo")

    def __init__(self, observation_space: Any, action_space: Any, config: PromptedDTConfig | None = None):
        config = config or PromptedDTConfig()
        super().__init__(observation_space, action_space, config)
        self.segment = nn.Embedding(config.demos + 1, config.width)
        nn.init.normal_(self.segment.weight, std=EMBEDDING_STD)

    def draw_static(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Action masks (B, A), if any, default target returns (B,), and no demonstrations."""
        return {**super().draw_static(rows, action_mask, rng), DEMOS: np.zeros(rows, np.int64)}

    # ---- training ---------------------------------------------------------------------------------------------------

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        task = steps.static.get(TASK)
        steps = steps._replace(static={name: value for name, value in steps.static.items() if name != TASK})
        if self.config.burstiness == 1 or not self.config.demos:
            return steps
        if task is None or ACTION_MASK in steps.static:
            trouble = "tasks differ in their legal actions" if task is not None else "the tasks of the rows are unknown"
            raise ValueError(f"burstiness={self.config.burstiness} mixes tasks, but {trouble}: give burstiness=1")
        mixed = rng.random(len(task)) >= self.config.burstiness
        return mix_episodes(steps, task, self.config.demos + 1, mixed, rng)

    def tokens(self, steps: Steps) -> Tensor:
        if SEGMENT in steps.extras:
            segment = steps.extras[SEGMENT]  # (B, T)
        else:  # of the live episode
            segment = steps.static[DEMOS][:, None].expand(steps.mask.shape)
        return super().tokens(steps) + self.segment(segment)[:, :, None]

    def hidden(self, steps: Steps) -> Tensor:
        """Hidden vectors (B, T, 1, D), each sequence read by itself."""
        if SEGMENT not in steps.extras:
            numbers = segments(steps.first, self.config.demos + 1)
            steps = steps._replace(extras={**steps.extras, SEGMENT: numbers})
        return self.read_parts(steps, steps.first & (steps.extras[SEGMENT] == 0))

    # ---- acting -----------------------------------------------------------------------------------------------------

    def begin(self, context: Context, index: np.ndarray, target_return: Any = None, demo: Any = None) -> None:
        """Set the demonstrations and the target of new tasks in the rows `index`.

        Args:
            target_return: as in `DT`.
            demo: NumPy steps (n, T), such as those of a store or of a recorded rollout: one or several episodes for
                each of the rows that begin a task, one row for a single environment; None: no demonstrations.

        Raises:
            ValueError: the steps do not fit the spaces, or are too many episodes or too long.
        """
        found = None if demo is None else self._read_demo(demo, len(index))
        super().begin(context, index, target_return)
        if found is not None:
            context.memory.demos = context.memory.demos.put(index, found)
            count = np.where(found.length > 0, found.segment.max(1, initial=0) + 1, 0)
            self.set_static(context, DEMOS, index, count)

    def _read_demo(self, demo: Any, rows: int) -> Demos:
        """Checked demonstrations of `rows` rows."""
        steps = check_recorded(self, demo, rows, "demo")
        length, config = steps.mask.sum(1), self.config
        segment = np.where(steps.mask, segments(steps.first & steps.mask, 1 << 30), 0)
        count = np.where(length > 0, segment.max(1, initial=0) + 1, 0)
        if (count > config.demos).any():
            raise ValueError(
                f"demo has {count.max()} episodes in row {count.argmax()}, the agent takes at most demos="
                f"{config.demos}: give fewer, such as those of demo.window(0, steps)"
            )
        if (length > config.prompt).any():
            raise ValueError(
                f"demo has {length.max()} steps in row {length.argmax()}, the agent takes at most prompt="
                f"{config.prompt}: give fewer or shorter episodes"
            )
        to_go, _ = return_to_go(steps.map(torch.as_tensor))
        columns = (steps.obs, steps.prev_action, steps.first, steps.extras[TIMESTEP], segment, to_go.numpy())
        return Demos(length, *columns)

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> PromptedCache:
        prompt = self.config.prompt if self.config.demos else 0
        cache = self.body.make_cache(rows, self.config.window + 1 + prompt)
        return PromptedCache(cache, Demos.none(rows, prompt, self.observation_space, self.action_space))

    def encode_open_step(self, context: Context, active: np.ndarray) -> Tensor:
        memory: PromptedCache = context.memory
        self._feed_prompt(memory)
        return self.read_episode(context, memory.cache, active, memory.demos.length)

    def _feed_prompt(self, memory: PromptedCache) -> None:
        """Feed the demonstrations of those rows whose cache is empty."""
        cache = memory.cache
        index = np.flatnonzero((cache.lengths.cpu().numpy() == 0) & (memory.demos.length > 0))
        if len(index):
            demos = memory.demos.rows(index)
            part = cache if len(index) == len(cache.lengths) else cache.select(index)
            self.body(self.tokens(self.tensors(demos.steps()))[:, :, 0], part)
            part.advance(torch.as_tensor(demos.length, device=self.device))
            if part is not cache:
                cache.assign(index, part)

    def check_restored(self, context: Context, drawn: Mapping[str, np.ndarray]) -> None:
        demos, count = context.memory.demos, context.steps.static[DEMOS]
        if count.min() < 0 or count.max() > self.config.demos:
            raise ValueError(f"{count.max()} demonstrations, expected 0..{self.config.demos}")
        held, after = demos.held, demos.held & ~demos.first
        if (held & ((demos.segment < 0) | (demos.segment >= count[:, None]))).any():
            raise ValueError("a demonstration with a number that it cannot have")
        self.obs.check(demos.obs[held], int(held.sum()), "obs of a demonstration")
        self.action.check(demos.prev_action[after], int(after.sum()), "prev_action of a demonstration")
