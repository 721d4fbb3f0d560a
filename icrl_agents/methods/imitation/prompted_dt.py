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

from icrl_agents.core.steps import ACTION_MASK, Steps
from icrl_agents.methods.base.context import Context
from icrl_agents.methods.base.predictor import LATENT, SKILL
from icrl_agents.methods.base.recorded import check_recorded
from icrl_agents.methods.base.trainable import LABELLED, TASK
from icrl_agents.methods.imitation.episodes.demos import DONE, Demos, PromptedCache, check_room, numbered
from icrl_agents.methods.imitation.episodes.method import EpisodeConfig, EpisodeMethod
from icrl_agents.methods.imitation.episodes.segments import (
    LEARNED,
    NO_TASK,
    SEGMENT,
    cut_parts,
    follow_parts,
    mix_episodes,
    segments,
)
from icrl_agents.methods.imitation.latent_actions import LatentActions, LatentFields
from icrl_agents.nn.codecs.codec import EMBEDDING_STD
from icrl_agents.nn.codecs.distributions import Distribution

DEMOS = "demos"  # static value (B,) int64: number of demonstrations of each row
LAST = "demo_end"  # static value (B, ...): the last action, or latent action, of the demonstrations
PLACE = "demo_place"  # static value (B, demos) float32 in [0, 1): where in its episode each shown segment begins


@dataclass(frozen=True)
class PromptedDTConfig(LatentFields, EpisodeConfig):
    latent: int = 0  # size of the latent actions that it acts in, Z; 0: it acts in actions
    demos: int = 3  # maximum number of demonstrations before the live episode
    prompt: int = 240  # maximum number of steps of all demonstrations together, in whole episodes
    demo_steps: int = 0  # consecutive steps of each demonstration that are shown, drawn at random; 0: whole episodes
    burstiness: float = 1.0  # share of training rows whose sequences are of one task; in others no two episodes are

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        **EpisodeConfig.LIMITS,
        **LatentFields.LATENT_LIMITS,
        "latent": (0, 4096),
        "demos": (0, 16),
        "prompt": (1, 100_000),
        "demo_steps": (0, 100_000),
        "burstiness": (0.0, 1.0),
    }
    ADDED: ClassVar = {**EpisodeConfig.ADDED, "demo_steps": 0}
    MEANINGS: ClassVar = (*EpisodeConfig.MEANINGS, "levels")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_latents()
        if self.latent and self.predicts != "codes":
            raise ValueError(f"predicts={self.predicts!r}, but prompted-dt acts in codes: leave it out")
        if self.demo_steps > self.prompt:
            raise ValueError(
                f"demo_steps={self.demo_steps}, but all demonstrations together have at most prompt={self.prompt} "
                "steps: lower demo_steps, or leave it out to show whole episodes"
            )

    @property
    def unread(self) -> Mapping[str, str]:
        of_latents, of_demos = "without latent actions (latent=16)", "without demonstrations (demos=3)"
        return {
            **({} if self.latent else dict.fromkeys(("codes", "levels", "predicts"), of_latents)),
            **({} if self.demos else dict.fromkeys(("prompt", "demo_steps", "burstiness"), of_demos)),
        }

    @property
    def span(self) -> int:
        return self.window + (self.prompt if self.demos else 0)

    @property
    def shown(self) -> int:
        """Maximum number of demonstrated steps before the live episode."""
        whole = self.prompt if self.demos else 0
        return min(whole, self.demos * self.demo_steps) if self.demo_steps else whole


class PromptedDT(EpisodeMethod):
    """Prompted Decision Transformer (Xu et al. 2022, arXiv 2206.13499; Raparthy et al. 2024, arXiv 2312.03801).

    Given up to `demos` demonstrations of a task, a causal transformer imitates them in the live episode that follows:
    few-shot imitation of an unseen task. It is trained on episodes of experts, several of each task, and takes any
    steps as demonstrations when acting: `reset(demo=steps)`.

    Sequence: [demo_1 ... demo_n | live episode]. Tokens of a step: one percept, obs + prev_action + timestep + number
    of the episode in the sequence (0..n), and + return to go with `return_to_go`. Timesteps restart in every episode;
    the prev_action of its first step is the last one of the episode before it in the sequence, if there is any. Loss:
    mean of -log p(action_t | the demonstrations before, percepts of the episode up to t) over all steps of all
    episodes, so each episode is a query after 0..n demonstrations.

    With `latent` latent actions take the place of actions: the agent reads those of its demonstrations, whose actions
    may be unknown, predicts their codes, and decodes them as in `la-bc`. Those of its own steps are the ones that mean
    the actions it took. Loss: -log p(code_t | ...), and that of the decoder at the known steps.

    Training windows hold the consecutive episodes of one task, cut into sequences of `demos` + 1. With probability
    1 - `burstiness` a row is filled with other sequences: episodes of other tasks in the batch, all different, before
    one of its own, so that demonstrations do not help. A mixture keeps behaviour that needs none (trajectory
    burstiness, Raparthy et al.).

    With `demo_steps` a demonstration is shown as a segment of up to that many consecutive steps of its episode, as in
    Xu et al. A segment keeps the timesteps and returns to go of its episode; its first step is marked as the first one
    of an episode. In training each episode follows segments of the earlier ones, [e_1], [s_1 e_2], [s_1 s_2 e_3], and
    only whole episodes are in the loss, as in the authors' code. The start of a segment is uniform among those that
    leave `demo_steps` steps. Training draws it for every sequence, acting for every task, by the agent's generator.

    When acting, the demonstrations stay before the current episode for the whole task, also when its oldest steps
    leave the window; a finished episode is forgotten. Without a demonstration the agent acts as after none.

    Deviations: one token per step where the papers have two or three, with the same information; whole episodes as
    demonstrations by default, where Xu et al. show segments of about 5 steps, which their code (mxu34/prompt-dt) takes
    from the end of an episode; no reward tokens, and returns to go are optional.
    """

    Config = PromptedDTConfig
    config: PromptedDTConfig
    episode_aligned = True
    needs_tasks = True
    labelled_share = 0.25
    reset_options = ("target_return", "demo")

    def __init__(self, observation_space: Any, action_space: Any, config: PromptedDTConfig | None = None):
        config = config or PromptedDTConfig()
        super().__init__(observation_space, action_space, config)
        self.segment = nn.Embedding(config.demos + 1, config.width)
        nn.init.normal_(self.segment.weight, std=EMBEDDING_STD)
        if config.latent:
            self.latent = LatentActions(config.width, config, embeds=True)

    @property
    def reads_actions(self) -> bool:  # type: ignore[override]
        return not self.config.latent

    @property
    def done(self) -> np.ndarray:
        """An example of what was done before a step: an action, or a latent action (Z,)."""
        space, size = self.action_space, self.config.latent
        return np.zeros(size, np.float32) if size else np.zeros(space.shape or (), space.dtype)

    @property
    def before_column(self) -> str:
        """Extra column (B, T, ...) of sequences: what was done before each step."""
        return "latent_before" if self.config.latent else "before_action"

    def draw_static(self, rows: int, action_mask: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Action masks (B, A), if any, default target returns (B,), no demonstrations, and where segments begin."""
        end = np.zeros((rows, *self.done.shape), self.done.dtype)
        static = {**super().draw_static(rows, action_mask, rng), DEMOS: np.zeros(rows, np.int64), LAST: end}
        if self.config.demo_steps:
            static[PLACE] = rng.random((rows, self.config.demos), np.float32)
        return static

    def static_tensors(self, steps: Steps) -> dict[str, Tensor]:
        found = super().static_tensors(steps)
        if LAST in found and not self.config.latent:
            found[LAST] = self.action.tensor(steps.static[LAST], self.device)
        return found

    # ---- training ---------------------------------------------------------------------------------------------------

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        task = steps.static.get(TASK)
        steps = steps._replace(static={name: value for name, value in steps.static.items() if name != TASK})
        if self.config.latent and SKILL in steps.extras:
            raise ValueError(
                f"these histories have {SKILL}, so a latent action may tell frames that prompted-dt must not see yet: "
                "label others with a lam without hierarchy"
            )
        if self.config.latent:
            self.latent.read(steps, "prompted-dt")
        elif LABELLED in steps.extras:
            raise ValueError(
                "labels decode latent actions, which this prompted-dt lacks: give latent, or leave them out"
            )
        if not self.config.demos:
            return steps
        known = (steps.extras.get(LABELLED, np.zeros(steps.mask.shape)) > 0).any(1)  # rows of steps, not of sequences
        if self.config.burstiness < 1:
            steps = self._mixed(steps, task, known, rng)
        return self._with_segments(steps, known, rng) if self.config.demo_steps else steps

    def _mixed(self, steps: Steps, task: np.ndarray | None, known: np.ndarray, rng: np.random.Generator) -> Steps:
        if task is None or ACTION_MASK in steps.static:
            trouble = "tasks differ in their legal actions" if task is not None else "the tasks of the rows are unknown"
            raise ValueError(f"burstiness={self.config.burstiness} mixes tasks, but {trouble}: give burstiness=1")
        mixed = rng.random(len(task)) >= self.config.burstiness
        return mix_episodes(steps, np.where(known, NO_TASK, task), self.config.demos + 1, mixed & ~known, rng)

    def _with_segments(self, steps: Steps, known: np.ndarray, rng: np.random.Generator) -> Steps:
        """Show segments in place of whole demonstrations, with the returns to go and timesteps of whole episodes."""
        numbers = steps.extras.get(SEGMENT, segments(steps.first, self.config.demos + 1))
        steps, told = super().told(self.tracked(steps))
        whole = steps.map(np.asarray)  # returns to go are tensors
        whole = whole._replace(extras={**whole.extras, SEGMENT: numbers})
        return follow_parts(whole, self.config.demo_steps, np.asarray(told), known, rng)

    def told(self, steps: Steps) -> tuple[Steps, Any]:
        """As in `DT`; rows with segments have both as columns."""
        return (steps, steps.extras[LEARNED]) if LEARNED in steps.extras else super().told(steps)

    def tokens(self, steps: Steps) -> Tensor:
        if SEGMENT in steps.extras:
            segment = steps.extras[SEGMENT]  # (B, T)
        else:  # of the live episode
            segment = steps.static[DEMOS][:, None].expand(steps.mask.shape)
        return super().tokens(steps) + self.segment(segment)[:, :, None]

    def before(self, steps: Steps) -> Tensor:
        """As in `DT`, but the first step of a later episode is told what ended the one before it in the sequence.

        The agent's own actions stand for the latent actions that mean them.
        """
        embed = self.latent.embed if self.config.latent else self.action.embed
        if self.before_column in steps.extras:
            return embed(steps.extras[self.before_column]) * ~(steps.first & (steps.extras[SEGMENT] == 0))[..., None]
        done = self.latent.of_actions(steps.prev_action, self.action) if self.config.latent else steps.prev_action
        end, none = steps.static[LAST][:, None], steps.first & (steps.static[DEMOS] == 0)[:, None]
        first = steps.first.reshape(*steps.first.shape, *[1] * (done.dim() - 2))
        return embed(torch.where(first, end.expand_as(done), done)) * ~none[..., None]

    def hidden(self, steps: Steps) -> Tensor:
        """Hidden vectors (B, T, 1, D), each sequence read by itself."""
        if SEGMENT not in steps.extras:
            numbers = segments(steps.first, self.config.demos + 1)
            steps = steps._replace(extras={**steps.extras, SEGMENT: numbers})
        if self.config.latent:
            late = nn.functional.pad(steps.extras[LATENT][:, :-1], (0, 0, 1, 0))
        else:  # the episode before another in a sequence is not always that of the history
            first = steps.first.reshape(*steps.first.shape, *[1] * (steps.action.dim() - 2))
            late = torch.where(first, torch.cat([steps.action[:, :1], steps.action[:, :-1]], 1), steps.prev_action)
        steps = steps._replace(extras={**steps.extras, self.before_column: late})
        return self.read_parts(steps, steps.first & (steps.extras[SEGMENT] == 0))

    def loss_weight(self, steps: Steps) -> Any:
        return steps.mask.sum() if self.config.latent else super().loss_weight(steps)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        if not self.config.latent:
            return super().loss(steps)
        steps, known = self.told(steps)
        if LABELLED in steps.extras:  # rows of known steps are no sequences
            known = known & (steps.extras[LABELLED] == 0)
        return self.latent.losses(self.hidden(steps)[:, :, 0], steps, self.action, known)

    def policy_at(self, hidden: Tensor) -> Distribution:
        return self.latent.policy(hidden, self.action) if self.config.latent else super().policy_at(hidden)

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
        place = context.steps.static[PLACE][index] if self.config.demo_steps else None
        told = None if demo is None else self._read_demo(demo, len(index), place)
        super().begin(context, index, target_return)
        if told is not None:
            found, end = told
            context.memory.demos = context.memory.demos.put(index, found)
            self.set_static(context, DEMOS, index, found.number)
            self.set_static(context, LAST, index, end)

    def _read_demo(self, demo: Any, rows: int, place: np.ndarray | None) -> tuple[Demos, np.ndarray]:
        """Checked demonstrations of `rows` rows, or segments of them, and what was done last in each (rows, ...).

        Args:
            place: (rows, demos) in [0, 1), where segments begin; None: whole episodes.
        """
        steps = check_recorded(self, demo, rows, "demo", acted=not self.config.latent)
        steps = numbered(steps, self._latents_of(demo, steps) if self.config.latent else steps.action)
        check_room(steps, self.config.demos, self.config.prompt)
        if place is not None:
            steps = cut_parts(steps, self.config.demo_steps, place)
        done, count = steps.extras[DONE], steps.mask.sum(1)
        begun = np.zeros_like(done[:, :1]) if self.config.latent else steps.prev_action[:, :1]  # before its first step
        end = np.zeros((rows, *self.done.shape), self.done.dtype)
        some = np.flatnonzero(count)
        end[some] = done[some, count[some] - 1]
        return Demos.of(steps, begun), end

    def _latents_of(self, demo: Steps, steps: Steps) -> np.ndarray:
        """Latent actions (B, T, Z) of a demonstration, whose actions are not read."""
        latent, shape = demo.extras.get(LATENT), (*steps.mask.shape, self.config.latent)
        if latent is None:
            raise ValueError(f"demo has no {LATENT}, in which this agent acts: label it with the lam, see Annotator")
        if np.shape(latent) != shape or latent.dtype.kind != "f" or not np.isfinite(latent[steps.mask]).all():
            raise ValueError(f"demo has {LATENT} {latent.dtype} {np.shape(latent)}, expected finite numbers {shape}")
        return np.where(steps.mask[..., None], latent, 0).astype(np.float32)

    def new_memory(self, rows: int, static: Mapping[str, np.ndarray]) -> PromptedCache:
        shown = self.config.shown
        cache = self.body.make_cache(rows, self.config.window + 1 + shown)
        return PromptedCache(cache, Demos.none(rows, shown, self.observation_space, self.done))

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
            none = np.zeros(self.action_space.shape or (), self.action_space.dtype)
            told = demos.steps(self.before_column, none)
            self.body(self.tokens(self.tensors(told))[:, :, 0], part)
            part.advance(torch.as_tensor(demos.length, device=self.device))
            if part is not cache:
                cache.assign(index, part)

    def check_restored(self, context: Context, drawn: Mapping[str, np.ndarray]) -> None:
        demos, count = context.memory.demos, context.steps.static[DEMOS]
        if count.min() < 0 or count.max() > self.config.demos:
            raise ValueError(f"{count.max()} demonstrations, expected 0..{self.config.demos}")
        held = demos.held
        after = held & ~(demos.first & (demos.segment == 0))
        if (held & ((demos.segment < 0) | (demos.segment >= count[:, None]))).any():
            raise ValueError("a demonstration with a number that it cannot have")
        self.obs.check(demos.obs[held], int(held.sum()), "obs of a demonstration")
        done, end = demos.before[after], context.steps.static[LAST][count > 0]
        if not self.config.latent:
            self.action.check(done, len(done), "an action of a demonstration")
            self.action.check(end, len(end), "the last action of a demonstration")
