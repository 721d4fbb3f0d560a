"""Memory probe: rewards are visible in the first episodes of a history only; the agent's later return is measured.

The history of every row starts with episodes of a noisy expert with visible rewards, followed by a walk without
rewards: random actions, whose rewards are hidden, or those of them that pay nothing (`walks`). Then the agent acts for
one episode, and its true return is measured; after hidden rewards those of this episode are hidden as well. Axis
letters: B rows (tasks x lifetimes), T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from icrl_agents.core.checks import check_choice, check_value, whole
from icrl_agents.core.families import find_family, make_tasks
from icrl_agents.core.rollout import rollout
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.evaluation.evaluate import block_seeds, blocks_of, learner_splits, optimal_returns, random_returns
from icrl_agents.evaluation.intervals import Interval, Sample, bootstrap, ratio_of_means
from icrl_agents.sources.collection import lifetimes, seed_of
from icrl_agents.sources.noise import Noise
from icrl_agents.studies.memory.latents import INTERVENTIONS, LatentIntervention, check_change, has_latents
from icrl_agents.studies.memory.walks import UNREWARDED, WALKS, make_walk

EXPERT_NOISE = 0.3  # probability of a random action in episodes with visible rewards
FOLDS = 1, 5, 20  # default history lengths in folds, for agents with latents
SHOWN, EPISODES = 2, (3, 10, 36)  # defaults for other agents, equal to those of `icrl/cad-blind-darkroom`
EXPERT, WALK = 6, 7  # separate the random streams of the parts of a history from that of the agent's episode


class Recall(NamedTuple):
    """Return of the agent after a history of `episodes` episodes."""

    shown: int  # number of first episodes with visible rewards
    episodes: int  # episodes in the history
    steps: int  # steps in the history
    folds: int  # folds before the agent acts; 0 without latents
    share: Interval  # mean return divided by the mean optimum, of costs scaled as in `share_of_optimum`
    random: float  # the same of random actions
    over: str  # resampled levels of the interval


def probe(
    agent: Any,
    env_id: str,
    episodes: Sequence[int] | None = None,
    change: str = "none",
    shown: int | None = None,
    split: str = "test",
    num_seeds: int = 10,
    seed: int = 0,
    walk: str = "random",
) -> list[Recall]:
    """Measure the return of an agent after histories of several lengths.

    Args:
        agent: the agent.
        env_id: environment id; its family needs an expert.
        episodes: lengths of the histories; default those of `usual_histories`.
        change: intervention on the latents before the agent acts, a name in `INTERVENTIONS`.
        shown: number of first episodes with visible rewards; default that of `usual_histories`.
        split: split or named set of tasks.
        num_seeds: histories on every task.
        seed: seed of histories, environments and sampled actions.
        walk: what happens after the visible rewards, a name in `WALKS`.

    Raises:
        ValueError: unknown change or walk, a change for an agent without latents or for histories without a fold; an
            environment without an expert or a known optimum, with lifetimes of a single episode, or whose episodes
            share more than the task.
    """
    check_choice("walk", walk, WALKS)
    check_value("shown", "int | None", shown, (1, 2**31 - 1))
    num_seeds, seed = whole("num_seeds", num_seeds, 1), whole("seed", seed, 0)
    shown, usual = usual_histories(agent, env_id, shown)
    episodes = usual if episodes is None else episodes
    if not episodes or min(episodes) < shown:
        raise ValueError(f"episodes={list(episodes)}, expected numbers from shown={shown} on")
    ids = learner_splits(agent, env_id).pick(split).ids
    optimal = optimal_returns(env_id, ids)  # (N,)
    if not np.isfinite(optimal).all():
        raise ValueError(f"{env_id} does not say what is the best return of its tasks, so nothing has a share of it")
    check_change(agent, change, len(ids))
    if change != "none" and min(episodes) * find_family(env_id).horizon < agent.method.schedule.end(0):
        raise ValueError(
            f"the first fold comes after {agent.method.schedule.end(0)} steps, and change={change!r} before: ask later"
        )
    blocks = [np.tile(ids, count) for count in blocks_of(num_seeds, len(ids))]  # (lifetimes * tasks,) task ids each
    seeds = block_seeds(seed, len(blocks))
    random, found = random_returns(env_id, ids, seed), []  # (N,)
    # a sum of costs has no share: there 0 is random play
    base = np.where(optimal > 0, 0.0, random)
    possible = optimal - base
    over = str(Sample(1, len(ids), num_seeds))
    for count in episodes:
        parts = [
            ask(agent, env_id, rows, shown, count, change, own, walk) for rows, own in zip(blocks, seeds, strict=True)
        ]
        returns, steps, folds = zip(*parts, strict=True)
        earned = np.concatenate(returns).reshape(num_seeds, len(ids)) - base  # (lifetimes, N)
        share = bootstrap(ratio_of_means, earned, np.broadcast_to(possible, earned.shape))
        chance = float((random - base).mean() / possible.mean())
        found.append(Recall(shown, count, max(steps), max(folds), share, chance, over))
    return found


def changes_of(agent: Any, change: str, tasks: int) -> list[str]:
    """Names in `INTERVENTIONS`: [change], or for "all" those that apply to the agent on `tasks` tasks."""
    check_choice("change", change, ("all", *INTERVENTIONS))
    if change != "all":
        return [change]
    if not has_latents(agent):
        return ["none"]
    return [name for name in INTERVENTIONS if name != "swapped" or tasks > 1]


def usual_histories(agent: Any, env_id: str, shown: int | None = None) -> tuple[int, tuple[int, ...]]:
    """Default number of episodes with visible rewards, and default lengths of histories in episodes.

    For agents with latents the first fold compresses all episodes with visible rewards, and the lengths correspond to
    `FOLDS`.

    Args:
        shown: overrides the first number; histories are at least as long.

    Raises:
        ValueError: unknown id, lifetimes of a single episode, or, unless `shown` is given, a first fold of less than
            an episode.
    """
    family = find_family(env_id)
    if family.lifetime == 1:
        raise ValueError(f"{env_id} has lifetimes of one episode, after which nothing is left to remember: try another")
    if family.lasting:
        raise ValueError(f"a history is put together from lifetimes, and {env_id} {family.lasting}: try another")
    if not has_latents(agent):
        usual, lengths = SHOWN, EPISODES
    else:
        schedule = agent.method.schedule
        usual = schedule.begin(1) // family.horizon
        if not usual and shown is None:
            raise ValueError(
                f"the first fold takes {schedule.begin(1)} steps, less than an episode of {family.horizon}, so no "
                "episode with rewards is before it: give shown=1, of which some stays visible"
            )
        lengths = tuple(math.ceil(schedule.end(folds - 1) / family.horizon) for folds in FOLDS)
    shown = usual if shown is None else shown
    return shown, tuple(dict.fromkeys(max(shown, length) for length in lengths))


def ask(
    agent: Any, env_id: str, rows: np.ndarray, shown: int, episodes: int, change: str, seed: int, walk: str = "random"
) -> tuple[np.ndarray, int, int]:
    """Returns (B,) on the tasks `rows` (B,), and maximum steps and folds of the histories.

    Raises:
        ValueError: a change of latents in rows whose history has no fold.
    """
    history = make_history(env_id, rows, shown, episodes, seed, walk)
    learner = InformedAgent(agent, history, change, hides=walk != UNREWARDED)
    env, options = make_tasks(env_id, rows)
    earned = rollout(learner, env, 1, seed=seed, options=options)[:, 0]
    env.close()
    if change != "none" and not learner.folds.all():
        raise ValueError(f"change={change!r}, but some histories of {episodes} episodes end before a fold: ask later")
    return earned, int(history.mask.sum(1).max()), learner.known


def make_history(env_id: str, tasks: np.ndarray, shown: int, episodes: int, seed: int, walk: str = "random") -> Steps:
    """Histories (B, T): `shown` episodes of a noisy expert, then episodes of a walk with rewards set to 0."""
    parts = [lifetimes(env_id, Noise.constant(env_id, EXPERT_NOISE), tasks, shown, seed_of(seed, EXPERT))]
    if episodes > shown:
        rest = lifetimes(env_id, make_walk(walk, env_id), tasks, episodes - shown, seed_of(seed, WALK))
        parts.append(rest._replace(reward=np.zeros_like(rest.reward)))
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "mask")
    columns: Any = {name: np.concatenate([getattr(part, name) for part in parts], 1) for name in names}
    order = np.argsort(~columns["mask"], axis=1, kind="stable")  # (B, T): padding of the first part goes to the end
    return stack_steps(**{name: value[np.arange(len(tasks))[:, None], order] for name, value in columns.items()})


class InformedAgent(LatentIntervention):
    """A learner: an agent with a history as its context and changed latents; with `hides` it sees rewards of 0."""

    def __init__(self, agent: Any, history: Steps, change: str, hides: bool):
        super().__init__(agent, change)
        self.history, self.hides, self.known = history, hides, 0

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        agent = self.agent
        if not has_latents(agent):
            return agent.reset(env, seed=seed, history=self.history)
        # reset with the first fold's part of the history, to get the latents after the first fold
        before = self.history.mask & (np.arange(self.history.mask.shape[1]) < agent.method.schedule.end(0))  # (B, T)
        agent.reset(env, history=self.history._replace(mask=before))
        first = agent.context.memory.latents
        agent.reset(env, seed=seed, history=self.history)
        self.known = int(agent.context.memory.folds.max())
        self.begin(first)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        super().observe(obs, np.zeros_like(reward) if self.hides else reward, terminated, truncated, info)
