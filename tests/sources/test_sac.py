"""SAC as a source: reproducible, recorded as it acted, training, refusing what it cannot do."""

import gymnasium
import numpy as np
import pytest

from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import find_source, make_source
from icrl_agents.sources.collection import lifetimes
from tests.sources.reach import REACH, registered

QUICK = {"learning_starts": 40, "batch_size": 64, "learning_rate": 3e-3, "gradient_steps": 1}


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def live(episodes: int = 3, seed: int = 0, **settings):
    return lifetimes(REACH, make_source("sac", REACH, {**QUICK, **settings}), np.zeros(4, int), episodes, seed)


@pytest.mark.slow
def test_it_is_reproducible_and_trains():
    one, same, still = live(), live(), live(learning_rate=0.0)
    np.testing.assert_array_equal(one.action, same.action)
    np.testing.assert_array_equal(one.action[:, :11], still.action[:, :11])  # random, then the first update
    assert not np.array_equal(one.action[:, 12:], still.action[:, 12:])
    assert one.mask.all()
    assert one.reward.shape == (4, 60)
    np.testing.assert_allclose(one.next_obs[:, :19], one.obs[:, 1:20])  # final observations, not those of the reset
    assert np.abs(one.next_obs[:, 19]).max() > 0.1
    assert "log_prob" not in one.extras
    # 40 random steps of all rows, ten of each; the first training follows the eleventh
    np.testing.assert_array_equal(one.extras["update"][0], np.maximum(np.arange(60) - 10, 0))


def test_first_actions_are_random_in_the_whole_range():
    steps = live(1, learning_starts=1000)
    low, high = steps.action.min((0, 1)), steps.action.max((0, 1))
    np.testing.assert_allclose(low, [-2, -1], atol=0.15)
    np.testing.assert_allclose(high, [1, 2], atol=0.15)


def test_presets_of_meta_world_are_the_published_ones():
    sac = find_source("sac").make("icrl/MetaWorld-peg-insert-side-v0").settings
    assert (sac.learning_rate, sac.buffer_size, sac.batch_size, sac.learning_starts) == (3e-4, 1_000_000, 128, 100)
    assert (sac.train_freq, sac.gradient_steps) == (1, 10)
    ppo = find_source("ppo").make("icrl/MetaWorld-reach-v0").settings
    assert (ppo.learning_rate, ppo.n_steps, ppo.batch_size, ppo.n_epochs, ppo.bootstrap) == (3e-4, 100, 200, 20, True)
    assert find_source("sac").make(REACH).settings.gradient_steps == -1


@pytest.mark.parametrize("env_id", ["CartPole-v1", "icrl/Darkroom3x3-v0"])
def test_other_actions_are_refused(env_id):
    with pytest.raises(ValueError, match=r"source 'sac' needs a bounded Box .* Discrete\(\d\): use 'ppo'"):
        make_source("sac", env_id).run(RecordHistory(gymnasium.make_vec(env_id, 2)), 1, 0)


def test_unbounded_actions_are_refused():
    class Free(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    env = gymnasium.vector.SyncVectorEnv([Free], autoreset_mode="SameStep")
    with pytest.raises(ValueError, match="bounded Box"):
        make_source("sac", REACH).run(RecordHistory(env), 1, 0)
