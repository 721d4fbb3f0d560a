"""How long an agent remembers: it sees rewards for a few episodes, then none, and is asked later what it still knows.

Every row's history begins with episodes of a noisy expert, whose rewards are seen; episodes of random actions follow,
without rewards. Nothing in them tells the task. Then the agent lives one episode itself, still without seeing a reward,
and its true return is measured. Axis letters: B rows (tasks x runs), T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from icrl_agents.cards import Row
from icrl_agents.collection import lifetimes
from icrl_agents.config import check_choice, check_value
from icrl_agents.curves import Curve, Interval
from icrl_agents.evaluation import learner_splits, optimal_returns, random_returns
from icrl_agents.rollout import rollout
from icrl_agents.sources import make_source
from icrl_agents.steps import Steps, stack_steps

EXPERT_NOISE = 0.3  # chance of a random action while rewards are seen


class Recall(NamedTuple):
    """What was left after a history of so many episodes."""

    episodes: int
    steps: int
    folds: int  # of an agent with latents, else 0
    share: Interval  # of the optimal return
    random: float  # what random actions earn, likewise


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda latents, first: latents,
    "zeroed": lambda latents, first: torch.zeros_like(latents),
    "swapped": lambda latents, first: latents.roll(1, 0),  # with those of another task
    "shuffled": lambda latents, first: latents.roll(1, 1),  # within a row
    "frozen": lambda latents, first: first,  # as the first fold left them
}


def probe(
    agent: Any,
    env_id: str,
    episodes: Sequence[int] = (3, 10, 36),
    change: str = "none",
    shown: int = 2,
    split: str = "test",
    num_seeds: int = 10,
    seed: int = 0,
) -> list[Recall]:
    """Measure what an agent still knows after histories of so many `episodes`.

    Args:
        change: what is done to latents before the agent acts: a name in `CHANGES`.
        shown: the first episodes of a history, in which rewards are seen.
        num_seeds: histories of every task.

    Raises:
        ValueError: an unknown change, or one for an agent without latents; the environment has no expert.
    """
    check_choice("change", change, CHANGES)
    if change != "none" and not hasattr(agent, "replace_latents"):
        raise ValueError(f"change={change!r} is for agents with latents, such as cad: leave it out")
    for name, value, least in (("shown", shown, 1), ("num_seeds", num_seeds, 1), ("seed", seed, 0)):
        check_value(name, "int", value, (least, 2**31 - 1))
    if not episodes or min(episodes) < shown:
        raise ValueError(f"episodes={list(episodes)}, expected numbers from shown={shown} on")
    ids = learner_splits(agent, env_id).pick(split).ids
    if change == "swapped" and len(ids) < 2:
        raise ValueError(f"change='swapped' takes latents of another task, {split} has one: give another split")
    rows = np.tile(ids, num_seeds)
    history = make_history(env_id, rows, shown, max(episodes), seed)
    ended = history.terminated | history.truncated
    number = np.cumsum(ended, 1) - ended  # (B, T) of each step's episode
    found = []
    for count in episodes:
        seen = history._replace(mask=history.mask & (number < count))
        learner = Blind(agent, seen, CHANGES[change])
        env = gymnasium.make_vec(env_id, num_envs=len(rows))
        optimal = optimal_returns(env, rows)[: len(ids)]
        earned = rollout(learner, env, 1, seed=seed, options={"task": rows}).reshape(num_seeds, len(ids), 1)
        env.close()
        curve = Curve(env_id, split, tuple(ids.tolist()), earned, optimal, random_returns(env_id, ids, seed))
        share = Interval(*(value / optimal.mean() for value in curve.at(1)))
        random = float(curve.random.mean() / optimal.mean())
        found.append(Recall(count, int(seen.mask.sum(1).max()), learner.folds, share, random))
    return found


def card_rows(found: Mapping[str, Sequence[Recall]], shown: int, split: str) -> list[Row]:
    """What the card of an agent tells, by what was done to its latents."""
    rows = []
    for change, recalls in found.items():
        for recall in recalls:
            name = f"remembered after {recall.steps} steps" + (f", latents {change}" if change != "none" else "")
            value, low, high = (round(number, 4) for number in recall.share)
            note = f"{shown} episodes with rewards, {split} tasks; {recall.folds} folds; random {recall.random:.2f}"
            rows.append(Row(name, value, low, high, "share of optimum", note))
    return rows


def make_history(env_id: str, tasks: np.ndarray, shown: int, episodes: int, seed: int) -> Steps:
    """Histories (B, T) of a noisy expert for the `shown` first episodes, then of random actions without rewards."""
    expert = make_source("noise", env_id, {"start": EXPERT_NOISE, "end": EXPERT_NOISE})
    parts = [lifetimes(env_id, expert, tasks, shown, seed)]
    if episodes > shown:
        random = make_source("noise", env_id, {"start": 1.0, "end": 1.0})
        rest = lifetimes(env_id, random, tasks, episodes - shown, seed + 1)
        parts.append(rest._replace(reward=np.zeros_like(rest.reward)))
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "mask")
    columns: Any = {name: np.concatenate([getattr(part, name) for part in parts], 1) for name in names}
    return stack_steps(**columns)


class Blind:
    """An agent that begins with a history, has its latents changed, and sees no reward."""

    def __init__(self, agent: Any, history: Steps, change: Callable[[Tensor, Tensor], Tensor]):
        self.agent, self.history, self.change = agent, history, change
        self.folds = 0

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        agent = self.agent
        if not hasattr(agent, "replace_latents"):
            return agent.reset(env, seed=seed, history=self.history)
        before = self.history.mask & (np.arange(self.history.mask.shape[1]) < agent.end(0))
        agent.reset(env, history=self.history._replace(mask=before))
        first = agent.context.memory.latents.clone()
        agent.reset(env, seed=seed, history=self.history)
        memory = agent.context.memory
        self.folds = int(memory.folds.max())
        agent.replace_latents(agent.context, self.change(memory.latents.clone(), first))

    def act(self, obs: Any) -> Any:
        return self.agent.act(obs)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        self.agent.observe(obs, np.zeros_like(reward), terminated, truncated, info)
