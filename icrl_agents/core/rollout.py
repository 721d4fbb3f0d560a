"""Rollout loop: an agent or a source learner acts in vector environments. Axis letter: B rows (environments)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from icrl_agents.core.arrays import check_finite, to_array
from icrl_agents.core.boundary import Boundary, autoreset_mode


@runtime_checkable
class Learner(Protocol):
    """Step-by-step interface of `ICAgent` and of every source learner that the rollout loop drives."""

    def reset(self, env: VectorEnv, *, seed: int | None = None) -> None: ...

    def act(self, obs: Any) -> Any: ...

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None: ...


def can_act(given: Any) -> TypeGuard[Learner]:
    """Whether this is an object with reset, act and observe; a class is not one."""
    return isinstance(given, Learner) and not isinstance(given, type)


@runtime_checkable
class Named(Protocol):
    """A learner with a name."""

    name: str


@runtime_checkable
class Trained(Protocol):
    """A learner with provenance: `facts`, the JSON object of its training."""

    facts: Mapping[str, Any]


# in an identity: name, SHA-256 of the weights, settings of the method, planner
AGENT, WEIGHTS, CONFIG, PLAN = "agent", "weights", "config", "plan"


@runtime_checkable
class Identified(Protocol):
    """A learner that can tell what its actions depend on."""

    def identity(self) -> Mapping[str, Any]:
        """A JSON object: `AGENT`, and `WEIGHTS`, `CONFIG` and `PLAN` if there are any."""


def identity_of(learner: Any) -> dict[str, Any]:
    """What the actions of a learner depend on, as far as it is known: at least a name, or the class in brackets."""
    name = learner.name if isinstance(learner, Named) else f"<{type(learner).__name__}>"
    return {AGENT: name, **(learner.identity() if isinstance(learner, Identified) else {})}


def facts_of(learner: Any) -> Mapping[str, Any]:
    """Provenance of a learner as JSON; empty for a learner without `facts`."""
    return learner.facts if isinstance(learner, Trained) else {}


class Moment(NamedTuple):
    """One step of all rows, as `on_step` reads it."""

    reward: np.ndarray  # (B,) 0 at the dummy steps of NEXT_STEP
    active: np.ndarray  # (B,) bool, False at these
    ended: np.ndarray  # (B,) bool: the row's episode ends
    episode: np.ndarray  # (B,) int64 number of the row's episode, from 0
    info: dict[str, Any]  # of `env.step`


def rollout(
    learner: Learner,
    env: VectorEnv,
    episodes: int,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    on_episode: Callable[[int], None] | None = None,
    on_step: Callable[[Moment], None] | None = None,
) -> np.ndarray:
    """Roll out one lifetime of `episodes` episodes in every row, in any autoreset mode.

    Args:
        seed: seed of the first environment reset and of the learner.
        options: options of the first environment reset, such as {"task": [...]}.
        on_episode: called with the number of episodes that all rows have finished.
        on_step: called at each step.

    Returns:
        Undiscounted episode returns (B, episodes).

    Raises:
        ValueError: the env reports malformed step results, see `Boundary.read`, or a reward that is not finite.
    """
    obs, info = env.reset(seed=seed, options=options)
    learner.reset(env, seed=seed)
    boundary = Boundary(env.num_envs, autoreset_mode(env), known=True)
    rows = np.arange(env.num_envs)
    returns = np.zeros((env.num_envs, episodes + 1))  # the last column absorbs surplus episodes of faster rows
    episode = np.zeros(env.num_envs, np.int64)
    done = 0
    while done < episodes:
        boundary.require_reset()
        obs, reward, terminated, truncated, info = env.step(learner.act(obs))
        learner.observe(obs, reward, terminated, truncated, info)
        _, active = boundary.read(obs, terminated, truncated, info)  # (B,) bool: False at NEXT_STEP dummy steps
        reward = to_array(reward, "reward")
        check_finite(reward, "reward")  # before a mean hides it in NaN
        reward = reward * active
        returns[rows, np.minimum(episode, episodes)] += reward
        if on_step:
            on_step(Moment(reward, active, boundary.ended, episode.copy(), info))
        episode += boundary.ended
        if boundary.ended.any() and on_episode and episode.min() > done:
            on_episode(min(int(episode.min()), episodes))
        done = int(episode.min())
        if boundary.mode == AutoresetMode.DISABLED and boundary.ended.any():  # the caller resets ended rows
            obs, _ = env.reset(options={"reset_mask": boundary.ended})
    return returns[:, :episodes]
