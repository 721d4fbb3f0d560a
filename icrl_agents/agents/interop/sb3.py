"""Agents in Stable-Baselines3: a model with `predict`, and a VecEnv that shows rewards to the agent.

SB3's loops pass observations to `predict` and keep rewards for themselves; an agent that learns in its context needs
both. Axis letter: B rows (environments).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from icrl_agents.agents.inputs import check_spaces
from icrl_agents.agents.interop.wrappers import check_chosen
from icrl_agents.core.env_actions import has_action_masks, read_mask
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import need

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

    from icrl_agents.agents.agent import ICAgent
else:
    VecEnvWrapper = need("stable_baselines3.common.vec_env", "train").VecEnvWrapper


class Bridge(NamedTuple):
    """What SB3's `evaluate_policy(model, env)` takes."""

    model: AgentModel
    env: ObserveVecEnv


def sb3_policy(agent: ICAgent, vec_env: VecEnv, *, seed: int | None = None) -> Bridge:
    """Model and VecEnv for SB3's `evaluate_policy`, and for other loops of `predict` and `step`.

        model, env = sb3_policy(agent, make_vec_env("icrl/Darkroom-v0", 4))
        returns, lengths = evaluate_policy(
            model, env, n_eval_episodes=40, deterministic=False, return_episode_rewards=True
        )

    Each `env.reset()`, so each `evaluate_policy`, begins a lifetime with an empty context in every row. The episodes of
    a row are a learning curve, not independent samples: their mean depends on how many there are.

    SB3's default `deterministic=True` takes the most probable actions, see `ICAgent.act`; agents are measured with
    `deterministic=False`.

    Args:
        agent: agent to evaluate.
        vec_env: any SB3 VecEnv (Dummy or Subproc, wrapped or not) with the agent's spaces.
        seed: seed of the sampled actions of every lifetime; None: random.

    Raises:
        ValueError: the spaces of env and agent differ, or `vec_env` is another kind of environment.
        ImportError: Stable-Baselines3 is not installed.
    """
    if not isinstance(vec_env, need("stable_baselines3.common.vec_env", "train").VecEnv):
        raise ValueError(f"vec_env is {printable(vec_env)}, expected a VecEnv of SB3: make_vec_env(id, 4) makes one")
    return Bridge(AgentModel(agent), ObserveVecEnv(vec_env, agent, seed))


class AgentModel:
    """An agent with SB3's `predict`; its VecEnv must be the `ObserveVecEnv` of the same agent."""

    def __init__(self, agent: ICAgent):
        self.agent = agent

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions (B, ...) at `observation` (B, ...), and `state` as it is: the context is the agent's own.

        Args:
            episode_start: not used, because an episode that begins does not end the task.

        Raises:
            RuntimeError: twice without a step of the `ObserveVecEnv`, which shows the rewards.
        """
        if self.agent.session.acted is not None:
            raise RuntimeError("predict() twice without env.step(): evaluate in the env that sb3_policy returned")
        return self.agent.act(observation, deterministic=deterministic), state


class ObserveVecEnv(VecEnvWrapper):
    """VecEnv that shows every step to an agent, with the final observations of SB3's `terminal_observation`."""

    def __init__(self, venv: VecEnv, agent: ICAgent, seed: int | None = None):
        check_spaces(agent.method, venv.observation_space, venv.action_space)
        super().__init__(venv)
        self.agent, self._seed = agent, seed

    def reset(self) -> Any:
        """Reset all rows and begin a lifetime with an empty context in each."""
        obs = self.venv.reset()
        sets, mode = _action_sets(self.venv), AutoresetMode.SAME_STEP
        self.agent.reset(num_envs=self.num_envs, seed=self._seed, action_set=sets, autoreset_mode=mode)
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step with the actions that the agent chose; others are refused, as by `ObserveWrapper`."""
        check_chosen(self.agent, actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """Finish a step and show it to the agent."""
        obs, reward, done, infos = self.venv.step_wait()
        truncated = done & np.array([bool(info.get("TimeLimit.truncated")) for info in infos])  # (B,)
        final = [info.get("terminal_observation") for info in infos]
        self.agent.observe(obs, reward, done & ~truncated, truncated, {"final_obs": final, "_final_obs": done})
        return obs, reward, done, infos


def _action_sets(venv: VecEnv) -> np.ndarray | None:
    """Legal-action masks (B, A) of rows that were reset; None where they have no `action_mask()`."""
    if not venv.has_attr("action_mask") or not _masked(venv):
        return None
    return read_mask(venv.env_method("action_mask"), venv.num_envs, venv.action_space)


def _masked(venv: VecEnv) -> bool:
    """Whether the `action_mask` of the rows is one of their tasks; rows of worker processes are not inspectable."""
    rows = getattr(venv.unwrapped, "envs", None)
    if rows is not None:
        return has_action_masks(rows[0])
    spec = venv.get_attr("spec")[0] if venv.has_attr("spec") else None
    if spec is None:
        raise ValueError(
            "the rows have an action_mask() and no id to make another one by, which would tell what it masks: use a "
            "DummyVecEnv, or make them with gymnasium.make"
        )
    kwargs = {name: value for name, value in spec.kwargs.items() if name != "render_mode"}  # no second window
    row = gymnasium.make(spec.id, **kwargs)
    found = has_action_masks(row)
    row.close()
    return found
