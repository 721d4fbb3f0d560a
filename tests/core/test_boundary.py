"""Final observations that the environment has overwritten are refused, wherever steps are read."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from icrl_agents.core.rollout import rollout
from icrl_agents.histories.recorder import RecordHistory
from tests.conftest import one_line
from tests.fakes import SPACES, Variant

FINAL = (ValueError, "info['final_obs'] of row 0", "NEXT_STEP")
LENGTH = 3  # steps of an episode


class Counting(gymnasium.Env):
    """Shows half the steps of an episode, in one array; `constant` leaves it at zero."""

    observation_space, action_space = SPACES["vector"]

    def __init__(self, constant: bool = False):
        self.constant, self.shown = constant, np.zeros(3)  # float64, as many environments return

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.show()

    def step(self, action):
        self.count += 1
        obs, info = self.show()
        return obs, 1.0, self.count == LENGTH, False, info

    def show(self):
        self.shown[:] = 0 if self.constant else self.count / 2
        return self.shown, {}


class Copying(Counting):
    """The same with an array a step."""

    def show(self):
        obs, info = super().show()
        return obs.copy(), info


def rows(mode: AutoresetMode, **kwargs) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Counting(**kwargs)] * 2, autoreset_mode=mode)


def recorded(env: SyncVectorEnv, steps: int) -> np.ndarray:
    """The observations of the first row after each step."""
    recorder = RecordHistory(env)
    recorder.reset()
    for _ in range(steps):
        recorder.step(np.zeros((2, 2), np.float32))
    return recorder.steps().next_obs[0, :, 0]


def remembered(env: SyncVectorEnv, steps: int) -> np.ndarray:
    agent = Variant("ad").build("vector", window=16)
    obs, _ = env.reset()
    agent.reset(env, seed=0)
    for _ in range(steps):
        result = env.step(agent.act(obs))
        agent.observe(*result)
        obs = result[0]
    return agent.context.visible().next_obs[0, :, 0]


@pytest.mark.parametrize("read", [recorded, remembered])
def test_final_observations_that_a_reset_has_overwritten_are_refused(read):
    one_line(lambda: read(rows(AutoresetMode.SAME_STEP), LENGTH + 1), *FINAL)
    assert read(rows(AutoresetMode.NEXT_STEP), LENGTH + 2).tolist() == [0.5, 1, 1.5, 0.5]


def test_a_rollout_refuses_them():
    agent = Variant("ad").build("vector")
    one_line(lambda: rollout(agent, rows(AutoresetMode.SAME_STEP), 2, seed=0), *FINAL)


@pytest.mark.parametrize("read", [recorded, remembered])
def test_an_array_that_never_changes_is_not_refused(read):
    assert not read(rows(AutoresetMode.SAME_STEP, constant=True), 3 * LENGTH).any()


@pytest.mark.parametrize("given", [True, False])
def test_a_step_after_the_end_of_an_episode_is_told_of_with_and_without_the_env(given):
    env, agent = Copying(), Variant("ad").build("vector", window=16)
    obs, _ = env.reset()
    agent.reset(env if given else None, seed=0)
    for _ in range(LENGTH):
        result = env.step(agent.act(obs))
        agent.observe(*result)
        obs = result[0]
    with pytest.warns(UserWarning, match=r"call env.reset\(\) before a new one") as told:
        agent.act(obs)
    assert ("agent.reset(env)" in str(told[0].message)) == (not given)
