"""Lifetimes on task sets: regret or success curves, and shares of actions tried.

Axis letters: B rows, N tasks, T points of a curve (pulls with a regret, else episodes), E episodes, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from icrl_agents.core.env_actions import legal_actions
from icrl_agents.core.families import find_family, legal_mask, make_tasks
from icrl_agents.core.rollout import Learner, rollout
from icrl_agents.evaluation.evaluate import block_seeds, blocks_of

RELABEL = 0x1ABE1  # separates the random stream of new action numbers from the environments'


class Watch(VectorWrapper):
    """Records the regret of every step, and the episode of the first use of each action. For SAME_STEP."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.rows = np.arange(env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        space: Any = self.single_action_space
        self.regret: list[np.ndarray] = []  # (B,) per step
        self.first = np.full((self.num_envs, space.n), np.inf)  # (B, A) episode of the first use, inf for none
        self.episode = np.zeros(self.num_envs, np.int64)  # (B,) finished episodes
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.first[self.rows, actions] = np.minimum(self.first[self.rows, actions], self.episode)
        obs, reward, terminated, truncated, info = super().step(actions)
        if "regret" in info:  # rows that were reset have regret 0 here; that of their last step is in final_info
            last = info.get("final_info", {"regret": 0.0, "_regret": False})
            self.regret.append(np.where(last["_regret"], last["regret"], info["regret"]))
        self.episode += terminated | truncated
        return obs, reward, terminated, truncated, info


class Relabel(VectorWrapper):
    """Permutes the legal actions of each row at random; legal actions come first, before and after."""

    def __init__(self, env: VectorEnv, seed: int):
        super().__init__(env)
        self.rows, self.seed = np.arange(env.num_envs), seed

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        found = super().reset(seed=seed, options=options)
        space: Any = self.single_action_space
        drawn = np.random.default_rng([self.seed, RELABEL]).random((self.num_envs, space.n))
        legal = legal_actions(self.env)
        keys = drawn if legal is None else np.where(legal, drawn, np.inf)  # (B, A); illegal actions sort last
        self.order = keys.argsort(1, kind="stable")  # (B, A) new number -> action of the env
        return found

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return super().step(self.order[self.rows, actions])  # (B,) actions of the env


ACTION_SET = "action_set"  # task argument that defines the effect of each action


class LifetimeStats(NamedTuple):
    """Means of one learner over its lifetimes on each task."""

    curve: np.ndarray  # (N, T) cumulative regret, or success
    tried: np.ndarray  # (N,) number of different actions tried
    shares: dict[str, np.ndarray]  # (N, E) share of each group of actions tried so far


class Setup(NamedTuple):
    """Lifetimes that every learner has with the same randomness."""

    env_id: str
    tasks: Sequence[int]  # N ids
    episodes: int = 1  # of a lifetime, E
    num_seeds: int = 1  # lifetimes on each task
    seed: int = 0


def run_lifetimes(
    learner: Learner, setup: Setup, relabel: bool = False, groups: Mapping[str, np.ndarray] | None = None
) -> LifetimeStats:
    """Roll out all lifetimes of a setup.

    Args:
        relabel: renumber the actions of each lifetime at random.
        groups: groups of actions (N, A) bool whose tried shares are measured.
    """
    counts = blocks_of(setup.num_seeds, len(setup.tasks))
    blocks = [
        _block(learner, setup._replace(num_seeds=count, seed=seed), relabel, groups or {})
        for count, seed in zip(counts, block_seeds(setup.seed, len(counts)), strict=True)
    ]
    curve, tried, *shares = (
        np.concatenate(parts).reshape(setup.num_seeds, len(setup.tasks), *parts[0].shape[1:]).mean(0)
        for parts in zip(*blocks, strict=True)
    )
    return LifetimeStats(curve, tried, dict(zip(groups or {}, shares, strict=True)))


def _block(learner: Learner, setup: Setup, relabel: bool, groups: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The curves (B, T), numbers of tried actions (B,) and shares (B, E) of lifetimes that run together."""
    env_rows, options = make_tasks(setup.env_id, np.tile(setup.tasks, setup.num_seeds))
    watch = Watch(env_rows)
    env = Relabel(watch, setup.seed) if relabel else watch
    returns = rollout(learner, env, setup.episodes, seed=setup.seed, options=options)
    env.close()
    curve = np.cumsum(watch.regret, 0).T if watch.regret else returns
    tried = watch.first[:, None] <= np.arange(setup.episodes)[:, None]  # (B, E, A)
    tiled = [np.tile(group, (setup.num_seeds, 1)) for group in groups.values()]  # (B, A) each
    shares = ((tried & group[:, None]).sum(2) / group.sum(1)[:, None] for group in tiled)
    return [curve, tried[:, -1].sum(1), *shares]


def action_groups(env_id: str, tasks: Sequence[int]) -> dict[str, np.ndarray]:
    """Masks (N, A) bool of legal actions with effects from training, and of unseen ones; {} unless all tasks have both.

    Only defined for environments whose tasks have an `action_set` argument.
    """
    family = find_family(env_id)
    legal = legal_mask(family, tasks)
    if ACTION_SET not in family.task_names:
        return {}
    trained = family.task_kwargs(family.named["train"][0])[ACTION_SET]
    old = np.zeros_like(legal)
    for row, task in enumerate(tasks):
        made = family.task_kwargs(task)[ACTION_SET]
        old[row, : len(made)] = np.isin(made, trained)
    groups = {"in training": old, "unseen": legal & ~old}
    return groups if all(group.any(1).all() for group in groups.values()) else {}
