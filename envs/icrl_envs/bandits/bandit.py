"""Base class of the bandit families: arms, action sets smaller than the action space, regret, named task sets.

Axis letters: B rows, N tasks, A actions, W maximum number of arms of the given rows.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import as_array, check_int, short
from icrl_envs.base.rules import Rules

SEED = 0  # seed of all task sets; each set has its own child seed
FEWEST_ARMS, MOST_ARMS, MAX_ARMS = 4, 20, 1000  # range of sampled tasks, and maximum of user-defined ones
EVAL_TASKS = 200  # tasks in every set except "train"
EXTRA_TASKS = 2000  # tasks in every set train_k

BAR, PULLED, GROUND = (60, 170, 90), (38, 84, 160), (236, 236, 232)  # RGB
WIDTH, HEIGHT = 12, 96  # size of an arm's bar in pixels


class Tasks(NamedTuple):
    """Table of tasks."""

    arms: np.ndarray  # (N,) int64 number of arms; actions 0 to arms - 1 are legal
    values: np.ndarray  # (N, A, ...) parameters of each arm; padding repeats the first arm
    best: np.ndarray  # (N,) expected reward of the best arm


class BanditRules(Rules):
    """Bandit dynamics. State: (A + 1) * noise position + (last arm + 1, or 0 at the start of an episode).

    An illegal arm has the expected reward of the task's worst arm.

    Args:
        num_arms: number of arms in every task, and of actions; None: tasks of 4 to 20 arms, and sets of more arms.
        horizon: pulls in an episode.
    """

    action_space: spaces.Discrete
    stochastic = True
    bandit = True
    render_modes = ("ansi", "rgb_array")
    capabilities = frozenset(Capability) - {Capability.BELIEF}
    lifetime = 1
    train_tasks: ClassVar[int] = 10_000
    eval_names: ClassVar[tuple[str, ...]]  # held-out sets with the same numbers of arms as in training
    eval_arms: ClassVar[tuple[int, ...]]  # k of the sets num_k
    arm_shape: ClassVar[tuple[int, ...]] = ()  # shape of an arm's parameters
    limits: ClassVar[tuple[float, float]]  # range of each parameter

    def __init__(self, num_arms: int | None = None, horizon: int = 300):
        mixed = num_arms is None and bool(self.eval_arms)
        self.num_arms = None if mixed else check_int(num_arms, "num_arms", 2, MAX_ARMS)
        self.horizon = check_int(horizon, "horizon", 1, 10**6)
        self.action_space = spaces.Discrete(self.num_arms or max(self.eval_arms))
        names = ["train", *self.eval_names, *(f"num_{k}" for k in self.eval_arms if mixed)]
        starts = [0, *range(self.train_tasks, self.train_tasks + EVAL_TASKS * len(names), EVAL_TASKS)]
        self.named = {name: range(*starts[i : i + 2]) for i, name in enumerate(names)}
        self.num_tasks = starts[len(names)]
        exact = [f"train_{k}" for k in self.eval_arms if mixed]
        ends = range(self.num_tasks, self.num_tasks + EXTRA_TASKS * (len(exact) + 1), EXTRA_TASKS)
        self.extra = {name: range(*ends[i : i + 2]) for i, name in enumerate(exact)}
        self.training = tuple(self.extra)
        self._ids: dict[bytes, int] = {}  # ids of user-defined tasks
        self._given: list[Tasks] = []  # user-defined tasks that are not yet in the table
        self._table: Tasks | None = None

    @classmethod
    @abstractmethod
    def draw(cls, name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Sample the arm parameters (N, A, ...) of a task set, with (N, A) = `shape`."""

    @classmethod
    @abstractmethod
    def best_mean(cls, values: np.ndarray) -> np.ndarray:
        """Return the expected reward (N,) of the best arm, given arm parameters `values` (N, A, ...)."""

    @abstractmethod
    def means(self, position: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the expected rewards (B, W) of arms with parameters `values` (B, W, ...)."""

    @abstractmethod
    def reward(self, position: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Sample rewards (B,) with expected values `mean` (B,)."""

    @abstractmethod
    def random_return(self, task: np.ndarray) -> np.ndarray:
        """Return the expected return (B,) of uniformly random pulls of legal arms."""

    @property
    def known_tasks(self) -> int:
        """Number of tasks, user-defined ones included."""
        return self.set_tasks + len(self._ids)

    @property
    def table(self) -> Tasks:
        """All tasks: those of the sets, then user-defined ones."""
        if self._table is None:
            self._table = drawn_tasks(type(self), self.num_arms)
        if self._given:
            self._table = Tasks(*map(np.concatenate, zip(self._table, *self._given, strict=True)))
            self._given = []
        return self._table

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return the arm parameters of a task as a tuple."""
        arms = self.table.values[task_id, : self.table.arms[task_id]].tolist()
        return {self.task_names[0]: tuple(map(tuple, arms)) if self.arm_shape else tuple(arms)}

    def find_task(self, **task: Any) -> int:
        ((name, given),), most = task.items(), int(self.action_space.n)
        value, (low, high) = as_array(given), self.limits
        fits = value.ndim == 1 + len(self.arm_shape) and value.shape[1:] == self.arm_shape and 2 <= len(value) <= most
        if not fits or value.dtype.kind not in "iuf" or not ((low <= value) & (value <= high)).all():
            what = f"lists of {self.arm_shape[0]} numbers" if self.arm_shape else "numbers"
            raise ValueError(f"{name}={short(given)}: give from 2 to {most} arms, {what} from {low:g} to {high:g}.")
        value = value.astype(np.float64)
        key, known = value.tobytes(), task_ids(type(self), self.num_arms)  # a user-defined task may equal a sampled one
        if key not in known and key not in self._ids:
            self._ids[key] = self.set_tasks + len(self._ids)
            # the table grows on its next use, so several new tasks cost one concatenation
            self._given.append(complete(type(self), value[None], np.array([len(value)]), most))
        return known[key] if key in known else self._ids[key]

    def action_mask(self, task: np.ndarray) -> np.ndarray:
        """Return (N, A) int8, 1 for legal arms."""
        return (np.arange(self.action_space.n) < self.table.arms[task, None]).astype(np.int8)

    def start(self, task: np.ndarray) -> np.ndarray:
        """Return states (B,) at noise position 0; `begin` uses a random position."""
        return np.zeros(len(task), np.int64)

    def begin(self, position: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return states (B,) at a random noise position."""
        return self.resume(position, task)

    def resume(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return states (B,) at the noise position after the last one of the previous episode."""
        return (self.position(state) + 1) * self.stride

    @property
    def stride(self) -> int:
        """Number of states at one noise position, A + 1."""
        return int(self.action_space.n) + 1

    def position(self, state: np.ndarray) -> np.ndarray:
        """Return the noise positions (B,) of states (B,)."""
        return state // self.stride

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pull arms `action` (B,); return the next states (B,) and rewards (B,) float64."""
        position = self.position(state)
        mean = self._of(self._arm_means(position, task), action)
        return (position + 1) * self.stride + action + 1, self.reward(position, mean)

    def regret(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) the expected reward of the best arm minus that of the last arm; 0 before a pull."""
        means, last = self._arm_means(self.position(state) - 1, task), state % self.stride - 1  # (B, W), (B,)
        return np.where(last < 0, 0.0, means.max(1) - self._of(means, last))

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the last pull was of the best arm."""
        return (state % self.stride > 0) & (self.regret(state, task) == 0)

    def facts(self, state: np.ndarray, task: np.ndarray) -> dict[str, np.ndarray]:
        """Return infos: success, optimal return, regret of the last pull (B,) and action mask (B, A)."""
        regret, pulled = self.regret(state, task), state % self.stride > 0
        facts = {"success": pulled & (regret == 0), "optimal_return": self.optimal_return(task)}
        return {**facts, "regret": regret, "action_mask": self.action_mask(task)}

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return the expected return (N,) of always pulling the best arm; in expectation over contexts, if any."""
        return self.horizon * self.table.best[task]

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the arm (B,) with the highest expected reward."""
        return self._arm_means(self.position(state), task).argmax(1)

    def _arm_means(self, position, task):
        """Expected rewards (B, W), -inf for illegal arms."""
        arms = self.table.arms[task]  # (B,)
        width = np.arange(arms.max())
        means = self.means(position, self.table.values[task, : len(width)])  # (B, W)
        return np.where(width < arms[:, None], means, -np.inf)

    def _of(self, means, action):
        """Expected rewards (B,) of arms `action` (B,) from `means` (B, W); illegal arms get the worst legal one's."""
        rows, width = np.arange(len(action)), means.shape[1]
        paid = np.where(action < width, means[rows, np.minimum(action, width - 1)], -np.inf)
        return np.where(np.isfinite(paid), paid, np.where(np.isfinite(means), means, np.inf).min(1))

    def frame(self, state: int, task: int) -> np.ndarray:
        """Draw one bar per arm with its expected reward as height; the last arm is blue."""
        means, last = self._picture(state, task)
        frame = np.full((HEIGHT, WIDTH * self.action_space.n, 3), GROUND, np.uint8)
        share = (means - min(0, means.min())) / max(np.ptp([*means, 0, 1]), 1e-9)
        for arm, height in enumerate(np.ceil(share * (HEIGHT - 1)).astype(int) + 1):
            frame[HEIGHT - height :, WIDTH * arm + 1 : WIDTH * (arm + 1) - 1] = PULLED if arm == last else BAR
        return frame

    def text(self, state: int, task: int) -> str:
        """Write one line per arm with its expected reward; > marks the last arm, * the best one."""
        means, last = self._picture(state, task)
        lines = [
            f"{'>' if arm == last else ' '}{arm:3} {mean:6.2f}{' *' if mean == means.max() else ''}\n"
            for arm, mean in enumerate(means)
        ]
        return "".join(lines)

    def _picture(self, state, task):
        """Expected rewards (W,) of a row's legal arms at its last pull (at the start: the next), and the last arm."""
        last = state % self.stride - 1
        position = np.array([state // self.stride - (last >= 0)])
        return self._arm_means(position, np.array([task]))[0], last


class PlainBandit(BanditRules):
    """A bandit without contexts: the only parameter of an arm is its expected reward."""

    task_names = ("means",)
    observation_space = spaces.Discrete(1)

    @classmethod
    def best_mean(cls, values: np.ndarray) -> np.ndarray:
        """Return the highest mean (N,)."""
        return values.max(1)

    def means(self, position: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return `values` (B, W): the means are constant."""
        return values

    def random_return(self, task: np.ndarray) -> np.ndarray:
        """Return the horizon times the average mean of the legal arms, (N,)."""
        legal = self.action_mask(task)
        return self.horizon * (self.table.values[task] * legal).sum(1) / legal.sum(1)

    def observe(self, state: np.ndarray) -> np.ndarray:
        """Return constant observations 0, (B,)."""
        return np.zeros(len(state), np.int64)


@lru_cache(maxsize=16)
def drawn_tasks(rules_class: type[BanditRules], num_arms: int | None) -> Tasks:
    """Sample all task sets of a family; cached, so environments share them."""
    rules = rules_class(num_arms)
    parts, arms = [], []
    children = np.random.SeedSequence(SEED).spawn(len(rules.sets))
    for (name, ids), child in zip(rules.sets.items(), children, strict=True):
        rng = np.random.default_rng(child)
        law, _, number = name.rpartition("_")  # "num_50" or "train_50": a distribution and a number of arms
        law, exact = (law, int(number)) if number.isdigit() else (name, num_arms)
        values = rules_class.draw(law, (len(ids), exact or MOST_ARMS), rng)
        # number of arms: (N,), or one int for all tasks
        counts = rng.integers(FEWEST_ARMS, MOST_ARMS, len(ids), endpoint=True) if exact is None else exact
        arms.append(np.broadcast_to(counts, len(ids)))
        parts.append(complete(rules_class, values, arms[-1], int(rules.action_space.n)))
    return Tasks(*map(np.concatenate, zip(*parts, strict=True)))


def complete(rules_class: type[BanditRules], values: np.ndarray, arms: np.ndarray, most: int) -> Tasks:
    """Build a table of tasks with the first `arms` (N,) arms of `values` (N, A', ...), padded to `most` arms."""
    legal = np.arange(most) < arms[:, None]  # (N, A)
    index = np.where(legal, np.arange(most), 0)
    values = values[np.arange(len(values))[:, None], index]  # (N, A, ...)
    return Tasks(arms.astype(np.int64), values, rules_class.best_mean(values))


@lru_cache(maxsize=16)
def task_ids(rules_class: type[BanditRules], num_arms: int | None) -> dict[bytes, int]:
    """Map the arm parameters of sampled tasks, as bytes, to their ids."""
    tasks = drawn_tasks(rules_class, num_arms)
    return {tasks.values[i, :arms].tobytes(): i for i, arms in enumerate(tasks.arms.tolist())}
