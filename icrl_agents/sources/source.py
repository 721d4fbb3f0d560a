"""Source: interface of learners that generate histories, and base class of step-driven ones. Axis letter: B rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from icrl_agents.core.action_masks import choose_any
from icrl_agents.core.boundary import Boundary, autoreset_mode
from icrl_agents.core.checks import as_kinds, check_fields, check_known
from icrl_agents.core.env_actions import legal_actions
from icrl_agents.core.printable import printable
from icrl_agents.core.rollout import rollout
from icrl_agents.core.spaces import num_actions
from icrl_agents.histories.experts import Expert
from icrl_agents.histories.recorder import RecordHistory

GENERATOR = 1  # separates a source's random stream from the environments', which have the same seed


@dataclass(frozen=True)
class SourceSettings:
    """Settings of a source. Subclasses add fields, and to LIMITS the range (low, high) of each; default (0, 1)."""

    changes: float = 0.0  # share of lifetimes in which the task changes once, at an episode drawn at random
    late: float = 0.0  # share of lifetimes that pay nothing before an episode drawn at random, to search again

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {}
    # fields that make histories richer and returns lower
    DISTURBANCES: ClassVar[tuple[str, ...]] = ("changes", "late")

    def __post_init__(self) -> None:
        check_fields(self, self.LIMITS, usual=(0.0, 1.0))
        if self.changes + self.late > 1:
            raise ValueError(f"changes={self.changes} + late={self.late} exceeds 1: lower one of them")


class Source(ABC):
    """A learner that generates histories, one lifetime per row. Subclasses declare their prior knowledge."""

    assumes: ClassVar[str]  # prior knowledge of the learner, one sentence
    Settings: ClassVar[type[SourceSettings]] = SourceSettings
    one_task: ClassVar[bool] = False  # all rows share one learner, so they must have the same task
    needs_bandit: ClassVar[bool] = False  # assumes that an action influences its own reward and nothing else
    packages: ClassVar[tuple[str, ...]] = ()  # packages whose versions affect the histories

    hypotheses: np.ndarray | None = None  # (N,) ids of the training tasks, of a source that acts as their experts
    expert: Expert | None = None  # replaces the environment's expert, in the histories and in what the source does

    def __init__(self, settings: SourceSettings | None = None):
        self.settings: Any = self.Settings() if settings is None else settings

    @classmethod
    def make(cls, env_id: str, settings: Mapping[str, Any] | None = None) -> Self:
        """The source with its presets for an environment, overridden by `settings`.

        Raises:
            ValueError: unknown setting or bad value.
        """
        settings = settings or {}
        check_known(settings, (field.name for field in fields(cls.Settings)), "setting")
        return cls(cls.Settings(**as_kinds({**cls.preset(env_id), **settings}, fields(cls.Settings))))

    def undisturbed(self) -> Self:
        """The source without what makes its histories richer and its returns lower: the learner that agents imitate."""
        return type(self)(replace(self.settings, **dict.fromkeys(self.Settings.DISTURBANCES, 0.0)))

    @classmethod
    def preset(cls, env_id: str) -> Mapping[str, Any]:
        """Settings for this environment that differ from the defaults."""
        return {}

    def described(self) -> dict[str, Any]:
        """The settings and a given expert, as JSON."""
        return asdict(self.settings) | ({} if self.expert is None else self.expert.described())

    @abstractmethod
    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        """Roll out one lifetime of `episodes` episodes in every row, from a reset with `seed` and `options`."""


class Step(NamedTuple):
    """Result of one `env.step` in all rows."""

    active: np.ndarray  # (B,) bool, false for a step that only resets the row
    obs: np.ndarray  # (B, ...)
    action: np.ndarray  # (B,)
    reward: np.ndarray  # (B,)
    next_obs: np.ndarray  # (B, ...), the final observation at the end of an episode
    terminated: np.ndarray  # (B,) bool


class StepSource(Source):
    """A source driven by the shared rollout loop, step by step and in any autoreset mode.

    Subclasses implement `prepare`, `choose` and, if they learn, `learn`.
    """

    episodes = 1  # episodes in the lifetime; set by `run`, for schedules

    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        self.episodes = episodes
        rollout(self, env, episodes, seed=seed, options=options)

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        """Discard all learning: new lifetimes begin in all rows of the vector env."""
        self.env = env
        self.boundary = Boundary(env.num_envs, autoreset_mode(env), known=True)
        self.rng = np.random.default_rng(None if seed is None else [seed, GENERATOR])
        self.rows = np.arange(env.num_envs)
        self.starts = np.ones(env.num_envs, bool)  # (B,) rows whose next action is the first of an episode
        self.episode = np.zeros(env.num_envs, np.int64)  # (B,) finished episodes
        self.allowed = legal_actions(env)  # (B, A) bool; None if the env has no action masks
        self.prepare(env)

    def act(self, obs: Any) -> np.ndarray:
        """Choose actions (B,) on observations (B, ...)."""
        self.obs = np.asarray(obs)
        self.action = self.choose(self.obs)
        return self.action

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        """Learn from the return values of `env.step`."""
        next_obs, active = self.boundary.read(obs, terminated, truncated, info)
        self.learn(Step(active, self.obs, self.action, np.asarray(reward), next_obs, np.asarray(terminated)))
        self.episode += self.boundary.ended
        # NEXT_STEP: an inactive step has just reset its row. Other modes: the row of an ended episode is reset already.
        self.starts = self.boundary.ended & ~self.boundary.resetting | ~active

    @abstractmethod
    def prepare(self, env: Any) -> None:
        """Set up for `env.num_envs` new lifetimes."""

    @abstractmethod
    def choose(self, obs: np.ndarray) -> np.ndarray:
        """Actions (B,); `self.starts` (B,) marks the rows at the start of an episode."""

    def learn(self, step: Step) -> None:
        """Learn from one step of all rows."""

    @property
    def progress(self) -> np.ndarray:
        """(B,) from 0 in the first episode of the lifetime to 1 in the last."""
        return np.minimum(self.episode / max(self.episodes - 1, 1), 1.0)

    def note(self, **columns: Any) -> None:
        """Add columns (B, ...) of the current step to the history, if one is recorded."""
        if isinstance(self.env, RecordHistory):
            self.env.note(**columns)

    def legal_actions(self) -> np.ndarray:
        """Legal-action mask (B, A) bool, A up to the last action legal in any row; all true without action masks."""
        if self.allowed is None:
            return np.ones((self.env.num_envs, self.env.single_action_space.n), bool)
        return self.allowed[:, : int(np.flatnonzero(self.allowed.any(0))[-1]) + 1]

    def explore(self, greedy: np.ndarray, chance: np.ndarray, actions: int) -> np.ndarray:
        """Actions (B,): `greedy` (B,), replaced by a uniformly random legal action with probability `chance` (B,)."""
        if self.allowed is None:
            random = self.rng.integers(0, actions, len(greedy))
        else:
            random = choose_any(self.allowed, self.rng)
        return np.where(self.rng.random(len(greedy)) < chance, random, greedy)

    def epsilon_greedy(self, best: np.ndarray, legal: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
        """Actions (B,) among the `best` (B, A), with probability `epsilon` (B,) among all `legal` (B, A) ones.

        Records their `log_prob`.
        """
        random = self.rng.random(len(epsilon)) < epsilon
        action = choose_any(np.where(random[:, None], legal, best), self.rng)
        # exploration reaches greedy actions too; ties share the greedy probability
        probability = epsilon / legal.sum(1) + (1 - epsilon) * best[self.rows, action] / best.sum(1)
        self.note(log_prob=np.log(probability).astype(np.float32))
        return action


def count_actions(env: Any, name: str) -> int:
    """Number n of actions; ValueError for an env whose actions are not 0, 1, ..., n-1."""
    space = env.single_action_space
    if not (count := num_actions(space)):
        raise ValueError(
            f"source {name!r} needs actions Discrete(n), the env has {printable(space)}: choose another source"
        )
    return count
