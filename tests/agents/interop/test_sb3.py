"""Stable-Baselines3's `evaluate_policy` with an agent: the agent sees what it sees in a Gymnasium loop."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from icrl_agents.agents.interop.sb3 import sb3_policy
from icrl_agents.core.families import find_family
from icrl_agents.core.rollout import rollout
from tests.conftest import one_line
from tests.fakes import Variant

POLE = "CartPole-v1"
EPISODES = 3


@pytest.fixture
def pole_agent(tiny_agent):
    env = gymnasium.make(POLE)
    agent = tiny_agent(env.observation_space, env.action_space, window=200, slide=50)
    agent.facts = {}
    return agent


def reference(agent, rows: int, seed: int) -> np.ndarray:
    """Returns (rows, EPISODES) of a Gymnasium vector env, whose steps stay in the agent's context."""
    env = SyncVectorEnv([lambda: gymnasium.make(POLE)] * rows, autoreset_mode=AutoresetMode.SAME_STEP)
    return rollout(agent, env, EPISODES, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_the_context_is_that_of_a_gymnasium_loop(pole_agent, kind):
    expected = reference(pole_agent, 2, seed=7)
    wanted = pole_agent.context.steps
    start = {"start_method": "fork"} if kind is SubprocVecEnv else {}  # SB3's default imports torch in each process
    venv = make_vec_env(POLE, 2, seed=7, vec_env_cls=kind, vec_env_kwargs=start)
    model, env = sb3_policy(pole_agent, venv, seed=7)
    returns, _ = evaluate_policy(model, env, 2 * EPISODES, deterministic=False, return_episode_rewards=True)
    env.close()
    assert sorted(returns) == sorted(expected.ravel().tolist())
    found = pole_agent.context.steps
    assert found.terminated.sum() >= 2 * EPISODES
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "mask"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


def test_time_limits_are_truncations(tiny_agent):
    agent = tiny_agent()
    model, env = sb3_policy(agent, make_vec_env("icrl/Darkroom-v0", 2, seed=1))
    evaluate_policy(model, env, 4, deterministic=False)
    steps = agent.context.steps
    assert steps.truncated[steps.mask].any()
    assert not steps.terminated[steps.mask].any()


def test_every_reset_begins_a_lifetime(tiny_agent):
    agent = tiny_agent()
    model, env = sb3_policy(agent, make_vec_env("icrl/Darkroom-v0", 2, seed=1), seed=3)
    first = evaluate_policy(model, env, 2, deterministic=False)
    env.reset()
    assert not agent.context.steps.mask.any()
    assert evaluate_policy(model, env, 2, deterministic=False) == first


def test_actions_of_others_are_refused_before_the_step(tiny_agent):
    agent = tiny_agent()
    model, env = sb3_policy(agent, make_vec_env("icrl/Darkroom-v0", 2, seed=1), seed=3)
    obs = env.reset()
    one_line(lambda: env.step(np.zeros(2, np.int64)), RuntimeError, "without agent.act")
    action, _ = model.predict(obs)
    one_line(lambda: env.step((action + 1) % 5), ValueError, "the agent chose", "outermost")
    env.step(action)
    assert agent.context.visible().action[:, 0].tolist() == action.tolist()


def test_deterministic_is_the_callers_choice(tiny_agent):
    agent = tiny_agent()
    model, env = sb3_policy(agent, make_vec_env("icrl/Darkroom-v0", 1, seed=1))
    obs = env.reset()
    chosen, state = model.predict(obs, state="kept", deterministic=True)
    agent.reset(num_envs=1)
    assert chosen == agent.act(obs, deterministic=True)
    assert state == "kept"


@pytest.mark.slow
def test_action_sets_of_a_family_are_kept():
    env_id = "icrl/DarkroomMacro-v0"
    family = find_family(env_id)
    agent = Variant("ad").build("grid")
    agent.method = type(agent.method)(family.observation_space, family.action_space, agent.method.config).eval()
    venv = make_vec_env(env_id, 3, seed=2)
    sb3_policy(agent, venv, seed=0).env.reset()
    masks = np.stack(venv.env_method("action_mask")).astype(bool)
    assert not masks.all()
    np.testing.assert_array_equal(agent.context.steps.static["action_mask"], masks)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_action_masks_are_heeded_without_a_family(masked_env, tiny_agent, kind):
    row = gymnasium.make(masked_env)
    agent = tiny_agent(row.observation_space, row.action_space)
    start = {"start_method": "fork"} if kind is SubprocVecEnv else {}
    _, env = sb3_policy(agent, make_vec_env(masked_env, 2, vec_env_cls=kind, vec_env_kwargs=start), seed=0)
    env.reset()
    env.close()
    np.testing.assert_array_equal(agent.context.steps.static["action_mask"], [[True, False, True]] * 2)


def test_action_masks_are_heeded_without_an_id(masked_env, tiny_agent):
    """Environments made of a class have no spec to make another one by."""
    kind = type(gymnasium.make(masked_env).unwrapped)
    agent = tiny_agent(kind.observation_space, kind.action_space)
    sb3_policy(agent, make_vec_env(kind, 2), seed=0).env.reset()
    np.testing.assert_array_equal(agent.context.steps.static["action_mask"], [[True, False, True]] * 2)
    workers = SubprocVecEnv([kind] * 2, start_method="fork")
    try:
        one_line(lambda: sb3_policy(agent, workers).env.reset(), ValueError, "action_mask()", "DummyVecEnv")
    finally:
        workers.close()


def test_a_mask_of_states_is_none_of_the_task(tiny_agent):
    taxi = "Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"
    row = gymnasium.make(taxi)
    agent = tiny_agent(row.observation_space, row.action_space)
    sb3_policy(agent, make_vec_env(taxi, 1), seed=0).env.reset()
    assert agent.context.steps.static.get("action_mask", np.True_).all()


def test_another_env_is_refused(tiny_agent):
    agent = tiny_agent()
    one_line(lambda: sb3_policy(agent, make_vec_env(POLE, 1)), ValueError, "observation_space", "trained on")
    model, env = sb3_policy(agent, make_vec_env("icrl/Darkroom-v0", 1))
    obs = env.reset()
    model.predict(obs)
    one_line(lambda: model.predict(obs), RuntimeError, "sb3_policy")


def test_an_environment_of_gymnasium_is_refused(pole_agent):
    one_line(lambda: sb3_policy(pole_agent, gymnasium.make(POLE)), ValueError, "CartPole-v1", "make_vec_env")
