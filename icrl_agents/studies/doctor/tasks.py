"""Rewards, returns and whether tasks differ: can a policy that knows the task beat one that does not?

Axis letters: N tasks, T steps, E episodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.families import Family
from icrl_agents.core.process.terminal import counted
from icrl_agents.core.steps import Steps
from icrl_agents.sources.collection import lifetimes
from icrl_agents.sources.source import Source
from icrl_agents.studies.doctor.contract import random_steps
from icrl_agents.studies.doctor.findings import Finding, fail, note, ok

OTHERS = 5  # number of other tasks in which the actions of a task are replayed
SPARSE = 0.02  # share of rewarded steps below which random play hardly ever sees a reward


class Returns(NamedTuple):
    """Mean returns of an episode on each task (N,)."""

    random: np.ndarray
    first: np.ndarray  # of the source's first episode
    last: np.ndarray  # of its last fifth of episodes


def check_rewards(family: Family, tasks: np.ndarray) -> Iterable[Finding]:
    """Scale, sparsity and variation of the rewards of random play."""
    steps = random_steps(family, tasks, 200)
    reward = steps.reward[steps.mask]
    low, high = float(reward.min()), float(reward.max())
    usual = float(np.median(reward))
    odd = float((reward != usual).mean())  # share of steps with another reward than the usual one
    scale = f"from {low:.4g} to {high:.4g} in {len(reward):,} random steps"
    alike = f"every reward is {low:.4g} in {len(reward):,} random steps"
    if low == high and np.ptp(episode_returns(steps, int(steps.ended.sum(1).min()))) > 0:
        yield ok("rewards", f"{alike}; returns differ by the length of episodes")
    elif low == high:  # not yet a failure: a source may find what random play does not
        yield note("rewards", f"{alike}, which do not tell good actions from bad ones: a source must find out more")
    elif odd < SPARSE:
        yield note("rewards", f"{scale}; sparse: {odd:.1%} of the steps differ from the usual {usual:.4g}")
    else:
        yield ok("rewards", scale)


def check_returns(returns: Returns, source: str) -> Iterable[Finding]:
    """The source must beat random play, and improve within its lifetime."""
    gain, better = returns.last.mean() - returns.random.mean(), (returns.last > returns.random).mean()
    text = (
        f"random {returns.random.mean():.2f}, {source} from {returns.first.mean():.2f} to {returns.last.mean():.2f}; "
        f"better than random on {better:.0%} of {len(returns.random)} tasks"
    )
    if gain <= 0:
        yield fail("source", f"{text}: there is nothing to imitate, choose another --source")
    elif returns.last.mean() - returns.first.mean() < 0.1 * gain:
        yield note("source", f"{text}; it hardly improves within its lifetime, so histories show no learning")
    else:
        yield ok("source", text)


def source_returns(family: Family, source: Source, tasks: np.ndarray, episodes: int, seed: int = 0) -> Returns:
    """Returns of random play and of the source on the tasks (N,)."""
    groups = np.split(tasks, len(tasks)) if source.one_task else [tasks]
    runs = [episode_returns(lifetimes(family.env_id, source, group, episodes, seed), episodes) for group in groups]
    learned = np.concatenate(runs)  # (N, E)
    tail = max(1, episodes // 5)
    played = random_steps(family, tasks, 10 * family.horizon)
    count = int(played.ended.sum(1).min())
    return Returns(episode_returns(played, count).mean(1), learned[:, 0], learned[:, -tail:].mean(1))


def episode_returns(steps: Steps, episodes: int) -> np.ndarray:
    """Returns (N, E) of the first episodes of each row."""
    number = np.cumsum(steps.first & steps.mask, 1) - 1  # (N, T)
    returns = np.zeros((len(number), episodes))
    for episode in range(episodes):
        returns[:, episode] = (steps.reward * ((number == episode) & steps.mask)).sum(1)
    return returns


def check_difference(family: Family, source: Source, tasks: np.ndarray, episodes: int) -> Iterable[Finding]:
    """Plays the last actions of each task in other tasks: where knowing the task pays, they earn less there."""
    if len(tasks) < 2:
        yield note("tasks", f"{counted(len(tasks), 'training task')}: there is no other one to compare with")
        return
    plans = last_plans(family, source, tasks, episodes)
    own = [_replay(family, task, plan) for task, plan in zip(tasks, plans, strict=True)]
    others = [
        [_replay(family, task, plan) for task, plan in zip(np.roll(tasks, shift), plans, strict=True)]
        for shift in range(1, min(OTHERS, len(tasks) - 1) + 1)
    ]
    if all(mine.trace == theirs.trace for other in others for mine, theirs in zip(own, other, strict=True)):
        yield fail("tasks", "the same actions have the same outcome in every task: the task arguments change nothing")
        return
    mine = np.array([run.total for run in own])  # (N,)
    loss = mine - np.mean([[run.total for run in other] for other in others], 0)
    text = f"a task's own actions earn {mine.mean():.2f}, those of other tasks {(mine - loss).mean():.2f}"
    if loss.mean() > 2 * loss.std() / len(loss) ** 0.5:
        yield ok("tasks", f"{text}: knowing the task pays")
    else:
        within = f"within the noise of {counted(len(loss), 'task')} (--sample measures more)"
        yield note("tasks", f"{text}, {within}: no sign yet that knowing the task pays")


def last_plans(family: Family, source: Source, tasks: np.ndarray, episodes: int, seed: int = 0) -> list[np.ndarray]:
    """Actions of the source's last episode on each of the tasks (N,)."""
    groups = np.split(tasks, len(tasks)) if source.one_task else [tasks]
    return [plan for group in groups for plan in _last_actions(lifetimes(family.env_id, source, group, episodes, seed))]


def _last_actions(steps: Steps) -> list[np.ndarray]:
    """Actions of the last complete episode of each row."""
    found = []
    for row in range(len(steps.mask)):
        ends = np.flatnonzero(steps.ended[row])
        starts = np.flatnonzero(steps.first[row] & steps.mask[row])
        begin = starts[starts <= ends[-1]][-1]
        found.append(steps.action[row, begin : ends[-1] + 1])
    return found


class Replay(NamedTuple):
    """Outcome of one replayed episode."""

    total: float  # return
    trace: bytes  # observations and rewards


def _replay(family: Family, task: int, actions: np.ndarray, seed: int = 0) -> Replay:
    """Replay actions without looking, from a seeded reset: exact in deterministic environments."""
    env: Any = family.make(int(task))
    obs, _ = env.reset(seed=seed)
    total, trace = 0.0, [np.asarray(obs).tobytes()]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        trace.append(np.asarray(obs).tobytes() + np.float64(reward).tobytes())
        if terminated or truncated:
            break
    env.close()
    return Replay(total, b"".join(trace))
