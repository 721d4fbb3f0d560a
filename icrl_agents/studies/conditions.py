"""Conditions of the robustness study: worlds that differ a little from the one that an agent was trained in.

`CONDITIONS` holds them by name; a further one is one more entry. Axis letters: B rows (lifetimes), E episodes, N tasks.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from icrl_agents.core.changing import make_changing_tasks
from icrl_agents.core.families import TaskRows, find_family, make_tasks
from icrl_agents.core.printable import printable
from icrl_agents.core.rollout import Learner

REWARDS, CHANGES = 4, 5  # separate the random streams of conditions from those of environments and agent
FOLLOWED = 2  # fewest episodes after a change, so that two in a row can be good


class Lives(NamedTuple):
    """Lifetimes that run together, before a condition changes them."""

    env_id: str
    tasks: np.ndarray  # (B,) task ids
    pool: np.ndarray  # (N,) ids of the set of tasks that they are from
    episodes: int  # of a lifetime
    change_after: int  # episodes before the task changes, if it does
    seed: int


class World(NamedTuple):
    """What lifetimes are rolled out in."""

    rows: TaskRows
    tasks: np.ndarray  # (B, E) the task of each episode


class Condition:
    """World and agent as they were in training; subclasses change one of them."""

    def why_not(self, agent: Learner, lives: Lives) -> str:
        """Why the condition does not apply to an agent and lifetimes; "" if it does."""
        return ""

    def home(self, env_id: str) -> str:
        """Environment id of the lifetimes, given that of the study."""
        return env_id

    def world(self, lives: Lives) -> World:
        """The rows that lifetimes are rolled out in; their rewards are those that are reported."""
        tasks = np.repeat(lives.tasks[:, None], lives.episodes, 1)
        return World(make_tasks(lives.env_id, lives.tasks), tasks)

    def learner(self, agent: Learner, lives: Lives) -> Learner:
        """The learner that acts in them."""
        return agent


# ---- what the agent sees, and how it acts -----------------------------------------------------------------------


class Wrapped:
    """A learner that does what `agent` does."""

    def __init__(self, agent: Any):
        self.agent = agent

    def reset(self, env: VectorEnv, *, seed: int | None = None, **options: Any) -> None:
        self.agent.reset(env, seed=seed, **options)

    def act(self, obs: Any) -> Any:
        return self.agent.act(obs)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        self.agent.observe(obs, reward, terminated, truncated, info)


class OtherRewards(Wrapped):
    """An agent that sees `scale * reward + shift`, with (B,) of both; demonstrations stay as they are."""

    def __init__(self, agent: Learner, scale: np.ndarray, shift: np.ndarray):
        super().__init__(agent)
        self.scale, self.shift = scale, shift

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        super().observe(obs, self.scale * np.asarray(reward) + self.shift, terminated, truncated, info)


class MostProbable(Wrapped):
    """An agent that takes its most probable actions."""

    def act(self, obs: Any) -> Any:
        return self.agent.act(obs, deterministic=True)


@dataclass(frozen=True)
class Rewards(Condition):
    """The agent sees `a * reward + b`, drawn for each lifetime: a log-uniform, b uniform within these bounds."""

    a: tuple[float, float] = (1.0, 1.0)
    b: tuple[float, float] = (0.0, 0.0)

    def learner(self, agent: Learner, lives: Lives) -> Learner:
        scale, shift = np.random.default_rng([lives.seed, REWARDS]).random((2, len(lives.tasks)))  # (B,) each
        low, high = self.a
        return OtherRewards(agent, low * (high / low) ** scale, self.b[0] + (self.b[1] - self.b[0]) * shift)


@dataclass(frozen=True)
class Deterministic(Condition):
    """The agent takes its most probable actions instead of samples."""

    def why_not(self, agent: Learner, lives: Lives) -> str:
        asked = "deterministic" in inspect.signature(agent.act).parameters
        return "" if asked else "the agent has no deterministic actions"

    def learner(self, agent: Learner, lives: Lives) -> Learner:
        return MostProbable(agent)


# ---- tasks and environments -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskChanges(Condition):
    """Each lifetime goes on with another task of the same set."""

    def why_not(self, agent: Learner, lives: Lives) -> str:
        if len(lives.pool) < 2:
            return f"{lives.env_id} has one task in this set"
        if lives.episodes < (fewest := lives.change_after + FOLLOWED):
            return f"a change after episode {lives.change_after} takes {fewest} or more, here are {lives.episodes}"
        try:
            make_changing_tasks(lives.env_id, lives.pool[:1], lives.pool[1:2], np.ones(1, int)).env.close()
        except ValueError as error:
            return str(error).rpartition(": ")[0]  # without the advice to leave it out
        return ""

    def world(self, lives: Lives) -> World:
        rng, count = np.random.default_rng([lives.seed, CHANGES]), len(lives.pool)
        place = (lives.pool == lives.tasks[:, None]).argmax(1)  # (B,)
        later = lives.pool[(place + rng.integers(1, count, len(place))) % count]  # (B,) never the same
        after = np.full(len(place), lives.change_after)
        rows = make_changing_tasks(lives.env_id, lives.tasks, later, after)
        begun = np.arange(lives.episodes) < lives.change_after  # (E,)
        return World(rows, np.where(begun, lives.tasks[:, None], later[:, None]))


@dataclass(frozen=True)
class Variant(Condition):
    """The same tasks in another environment, such as one with other start cells."""

    env_id: str

    def home(self, env_id: str) -> str:
        return self.env_id

    def why_not(self, agent: Learner, lives: Lives) -> str:
        own, other = find_family(lives.env_id), find_family(self.env_id)
        for kind in ("observation_space", "action_space"):
            if (ours := getattr(own, kind)) != (theirs := getattr(other, kind)):
                return f"its {kind} is {printable(theirs)}, that of {lives.env_id} is {printable(ours)}"
        for task in lives.pool.tolist():
            if task >= other.set_tasks or own.task_text(task) != other.task_text(task):
                return f"its task {task} is not that of {lives.env_id}"
        return ""


CONDITIONS: dict[str, Condition] = {
    "as trained": Condition(),
    "rewards x10": Rewards(a=(10.0, 10.0)),
    "rewards x0.1": Rewards(a=(0.1, 0.1)),
    "rewards - 0.5": Rewards(b=(-0.5, -0.5)),
    "rewards affine": Rewards(a=(0.1, 10.0), b=(-1.0, 1.0)),
    "deterministic": Deterministic(),
    "task changes": TaskChanges(),
}
"""What is measured by default, in the order of the table."""
