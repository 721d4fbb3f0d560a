"""The wrappers that call `observe`: the same context as the loop that calls it by hand, in every autoreset mode."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from icrl_agents.agents.interop.wrappers import ObserveVectorWrapper, ObserveWrapper
from icrl_agents.core.families import find_family
from icrl_agents.histories.recorder import RecordHistory
from tests.conftest import one_line
from tests.fakes import Variant

ROOM = "icrl/Darkroom3x3-v0"


def rooms(mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gymnasium.make(ROOM)] * 2, autoreset_mode=mode)


def small_agent(tiny_agent):
    agent = tiny_agent(find_family(ROOM).observation_space, window=40, slide=10)
    agent.facts = {}
    return agent


def same_steps(one, other) -> None:
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_a_loop_without_observe(tiny_agent):
    agent, env = small_agent(tiny_agent), gymnasium.make(ROOM)
    obs, _ = env.reset(seed=4)
    agent.reset(env, seed=1)
    for _ in range(15):
        obs, reward, terminated, truncated, info = env.step(agent.act(obs))
        agent.observe(obs, reward, terminated, truncated, info)
        if truncated:
            obs, _ = env.reset()
    by_hand = agent.context.steps
    env = ObserveWrapper(gymnasium.make(ROOM), agent, seed=1)
    obs, _ = env.reset(seed=4)
    for _ in range(15):
        obs, _, _, truncated, _ = env.step(agent.act(obs))
        if truncated:
            obs, _ = env.reset()
    assert agent.context.steps.mask.sum() == 15
    assert agent.context.steps.truncated.sum() == 2
    same_steps(agent.context.steps, by_hand)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_environments(tiny_agent, mode):
    agent = small_agent(tiny_agent)
    found = []
    for wrapped in (False, True):
        env = rooms(mode)
        env = ObserveVectorWrapper(env, agent, seed=1) if wrapped else env
        obs, _ = env.reset(seed=4)
        if not wrapped:
            agent.reset(env, seed=1)
        for _ in range(15):
            obs, reward, terminated, truncated, info = env.step(agent.act(obs))
            if not wrapped:
                agent.observe(obs, reward, terminated, truncated, info)
            if truncated.any() and mode == AutoresetMode.DISABLED:
                obs, _ = env.reset(options={"reset_mask": truncated})
        found.append(agent.context.steps)
    assert found[0].truncated.sum() == 4
    same_steps(*found)


@pytest.mark.parametrize("learn", [True, False])
def test_a_reset_in_the_middle_of_an_episode_truncates_it(tiny_agent, learn):
    agent = small_agent(tiny_agent)
    env = ObserveWrapper(gymnasium.make(ROOM), agent, seed=1, learn=learn)
    obs, _ = env.reset(seed=4)
    for step in range(9):
        agent.act(obs)  # its outcome never comes where a reset is next
        if step in (0, 2, 3, 6):
            obs, _ = env.reset()
            agent.act(obs)
        obs, _, _, truncated, _ = env.step(agent.session.acted[0])
        assert not truncated
    env.reset()
    assert agent.context.steps.first[0, agent.context.length[0]]
    if learn:
        seen = agent.context.visible()
        assert seen.truncated[0].tolist() == [step in (1, 2, 5, 8) for step in range(9)]
        assert seen.first[0].tolist() == [step in (0, 2, 3, 6) for step in range(9)]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_environments_that_are_reset_in_the_middle_of_episodes(tiny_agent, mode):
    """The record is that of a recorder, also where the first observation of an episode equals the last one."""
    agent = small_agent(tiny_agent)
    agent.method = type(agent.method)(Same.observation_space, Same.action_space, agent.config).eval()
    recorder = RecordHistory(SyncVectorEnv([lambda ends=ends: Same(ends) for ends in (2, 5)], autoreset_mode=mode))
    env = ObserveVectorWrapper(recorder, agent, seed=1)
    obs, _ = env.reset(seed=4)
    for step in range(12):
        obs, _, _, truncated, _ = env.step(agent.act(obs))
        if step in (1, 4, 8):
            obs, _ = env.reset()
        elif step == 6:
            obs, _ = env.reset(options={"reset_mask": np.array([True, False]) | truncated})
        elif truncated.any() and mode == AutoresetMode.DISABLED:
            obs, _ = env.reset(options={"reset_mask": truncated})
    same_steps(agent.context.visible(), recorder.steps())


class Same(gymnasium.Env):
    """One observation; every episode ends after the same number of steps."""

    observation_space, action_space = gymnasium.spaces.Discrete(1), gymnasium.spaces.Discrete(3)

    def __init__(self, ends):
        self.ends = ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        return 0, float(action), False, self.steps == self.ends, {}


def test_action_sets_are_known_after_the_first_reset():
    family = find_family("icrl/DarkroomMacro-v0")
    agent = Variant("ad").build("grid")
    agent.method = type(agent.method)(family.observation_space, family.action_space, agent.method.config).eval()
    env = ObserveWrapper(gymnasium.make("icrl/DarkroomMacro-v0"), agent)
    env.reset(seed=0)
    np.testing.assert_array_equal(agent.context.steps.static["action_mask"][0], env.unwrapped.action_mask())


def test_actions_of_others_are_refused_before_the_step(tiny_agent):
    agent = small_agent(tiny_agent)
    env = ObserveWrapper(gymnasium.make(ROOM), agent)
    obs, _ = env.reset(seed=0)
    one_line(lambda: env.step(0), RuntimeError, "agent.act(obs)")
    action = agent.act(obs)
    one_line(lambda: env.step((action + 1) % 5), ValueError, "the agent chose", "outermost")
    env.step(int(action))
    assert agent.context.steps.mask.sum() == 1


@pytest.mark.parametrize(
    ("wrapper", "env"), [(ObserveWrapper, rooms(AutoresetMode.SAME_STEP)), (ObserveVectorWrapper, gymnasium.make(ROOM))]
)
def test_the_other_kind_of_env_is_refused(tiny_agent, wrapper, env):
    one_line(lambda: wrapper(env, small_agent(tiny_agent)), TypeError, "use Observe")
