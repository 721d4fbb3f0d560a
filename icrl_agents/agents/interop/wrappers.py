"""Wrappers that show every step to an agent, so that a loop has `act` and `step` and no `observe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from icrl_agents.agents.acting import begin_episodes
from icrl_agents.agents.holder import alone

if TYPE_CHECKING:
    from icrl_agents.agents.agent import ICAgent


class ObserveWrapper(gymnasium.Wrapper):
    """Calls `agent.observe` after every step of an environment.

        env = ObserveWrapper(gymnasium.make("icrl/Darkroom-v0"), agent)
        obs, info = env.reset(seed=0)
        while True:
            obs, reward, terminated, truncated, info = env.step(agent.act(obs))
            if terminated or truncated:
                obs, info = env.reset()

    The first `reset` begins a task with an empty context, later ones begin episodes of it, and truncate one that goes
    on. For another task reset the env, then call `agent.reset(env)`. It must be the outermost wrapper: the agent
    remembers the actions it chose.

    Args:
        env: environment to act in.
        agent: agent that acts in it.
        options: other arguments of the first `agent.reset`, such as `seed` or `target_return`.

    Raises:
        ValueError: at the first `reset`, where the spaces of env and agent differ; at `step`, for an action that is not
            the agent's.
        RuntimeError: `step` without `agent.act(obs)`.
    """

    def __init__(self, env: gymnasium.Env, agent: ICAgent, **options: Any):
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"{env} is no single environment: use ObserveVectorWrapper for a vector environment")
        super().__init__(env)
        self._watch = _Watch(agent, options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the first time, begin a task."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._watch.begin(self.env, np.ones(1, bool))
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and show the result to the agent."""
        check_chosen(self._watch.agent, action)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._watch.agent.observe(obs, reward, terminated, truncated, info)
        return obs, reward, terminated, truncated, info


class ObserveVectorWrapper(VectorWrapper):
    """`ObserveWrapper` for vector environments, in all autoreset modes. Axis letter: B rows.

    Args:
        env: vector environment; each row has a task and a context of its own.
        agent: agent that acts in all rows.
        options: as in `ObserveWrapper`.
    """

    def __init__(self, env: VectorEnv, agent: ICAgent, **options: Any):
        if not isinstance(env, VectorEnv):
            raise TypeError(f"{env} is no vector environment: use ObserveWrapper for a single one")
        super().__init__(env)
        self._watch = _Watch(agent, options)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all rows, or those of `options["reset_mask"]` (B,) bool; the first time, begin a task in every row."""
        rows = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        obs, info = self.env.reset(seed=seed, options=options)
        self._watch.begin(self.env, rows)
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all rows and show the results to the agent."""
        check_chosen(self._watch.agent, actions)
        obs, reward, terminated, truncated, info = self.env.step(actions)
        self._watch.agent.observe(obs, reward, terminated, truncated, info)
        return obs, reward, terminated, truncated, info


class _Watch:
    """The agent of a wrapper, whose first task begins once."""

    def __init__(self, agent: ICAgent, options: Mapping[str, Any]):
        self.agent, self._options, self._begun = agent, options, False

    def begin(self, env: gymnasium.Env | VectorEnv, rows: np.ndarray) -> None:
        """After a reset of `rows` (B,) bool: the first begins a task, whose legal actions are known now."""
        if self._begun:
            _begin_episodes(self.agent, rows)
        else:
            self.agent.reset(env, **self._options)
        self._begun = True


def check_chosen(agent: ICAgent, action: Any) -> None:
    """Refuse an action that the agent did not choose: it would remember another one."""
    chosen = agent.session.acted
    if chosen is None:
        raise RuntimeError("step() without agent.act(obs): this wrapper is for the actions of its agent")
    chosen = chosen if agent.session.num_envs else chosen[0]
    if not np.array_equal(np.asarray(action), chosen):
        raise ValueError(
            f"step({np.asarray(action).tolist()!r:.80}): the agent chose {chosen.tolist()!r:.80}; pass what "
            "agent.act(obs) returned, with this wrapper outermost"
        )


@alone
def _begin_episodes(agent: ICAgent, rows: np.ndarray) -> None:
    begin_episodes(agent.session, rows)
