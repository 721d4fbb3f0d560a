"""The one loop in which anything - an agent or a source learner - meets vector environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from icrl_agents.core.arrays import to_array
from icrl_agents.core.steps import Boundary, autoreset_mode


@runtime_checkable
class Learner(Protocol):
    """A learner that acts step by step: `ICAgent` and every step-driven source."""

    def reset(self, env: VectorEnv, *, seed: int | None = None) -> None: ...

    def act(self, obs: Any) -> Any: ...

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None: ...


@runtime_checkable
class Named(Protocol):
    """A learner that says what it is called."""

    name: str


@runtime_checkable
class Trained(Protocol):
    """A learner that says what it was trained on."""

    facts: Mapping[str, Any]


def facts_of(learner: Any) -> Mapping[str, Any]:
    """What a learner was trained on, as JSON; nothing for one that does not say."""
    return learner.facts if isinstance(learner, Trained) else {}


def rollout(
    learner: Learner,
    env: VectorEnv,
    episodes: int,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    on_episode: Callable[[int], None] | None = None,
    on_step: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> np.ndarray:
    """One lifetime of `episodes` episodes in every row, in any autoreset mode; gives the returns (B, episodes).

    Args:
        seed: of the environments' reset and of the learner.
        options: of the environments' first reset, such as {"task": [...]}.
        on_episode: called with the number of episodes that all rows have finished.
        on_step: called with the rewards (B,) of each step and the rows (B,) bool whose episodes it ended.
    """
    obs, info = env.reset(seed=seed, options=options)
    learner.reset(env, seed=seed)
    boundary = Boundary(env.num_envs, autoreset_mode(env), known=True)
    rows = np.arange(env.num_envs)
    returns = np.zeros((env.num_envs, episodes + 1))  # the last column takes what rows ahead of others do beyond
    episode = np.zeros(env.num_envs, np.int64)
    done = 0
    while done < episodes:
        boundary.require_reset()
        obs, reward, terminated, truncated, info = env.step(learner.act(obs))
        learner.observe(obs, reward, terminated, truncated, info)
        _, active = boundary.read(obs, terminated, truncated, info)
        reward = to_array(reward, "reward")
        returns[rows, np.minimum(episode, episodes)] += reward * active
        episode += boundary.ended
        if on_step:
            on_step(reward * active, boundary.ended)
        if boundary.ended.any() and on_episode and episode.min() > done:
            on_episode(min(int(episode.min()), episodes))
        done = int(episode.min())
        if boundary.mode == AutoresetMode.DISABLED and boundary.ended.any():
            obs, _ = env.reset(options={"reset_mask": boundary.ended})
    return returns[:, :episodes]
