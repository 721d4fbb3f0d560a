"""What is particular to the continuous families; tests/envs/test_envs.py has the contract of all ids."""

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES, find_family
from icrl_envs.continuous.pendulum_mass import MASSES

from icrl_agents.core.families import make_tasks
from icrl_agents.core.rollout import rollout
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes

DENSE, SPARSE, PENDULUM = "icrl/PointRobot-v0", "icrl/PointRobotSparse-v0", "icrl/PendulumMass-v0"


class Expert:
    """Takes the environment's expert actions, for the task's number `task` where it is given."""

    def __init__(self, task=None):
        self.task = task

    def reset(self, env, *, seed=None):
        self.rules, self.state = env.unwrapped.rules, None
        self.env = env

    def act(self, obs):
        if self.task is None:
            return self.env.unwrapped.expert_action()
        angle = np.arctan2(obs[:, 1], obs[:, 0])
        return self.rules.expert_action(np.stack([angle, obs[:, 2]], 1), np.full(len(obs), self.task))

    def observe(self, *result):
        pass


def returns(learner, env_id, ids, episodes=1):
    env, options = make_tasks(env_id, ids)
    return rollout(learner, env, episodes, seed=0, options=options)


@pytest.mark.parametrize(("env_id", "best"), [(DENSE, -0.769), (SPARSE, 18.465)])
def test_the_best_return_of_the_point_robot(env_id, best):
    family = find_family(env_id)
    assert family.num_tasks == 7845
    assert family.optimal_return(np.arange(family.num_tasks)).mean() == pytest.approx(best, abs=1e-3)


def test_a_goal_on_the_way_is_reached_in_the_steps_of_the_longer_axis():
    env = gymnasium.make(SPARSE, goal=(0.6, -0.2))
    env.reset()
    rewards = [env.step(env.unwrapped.expert_action())[1] for _ in range(3)]
    assert rewards == [0, 1, 1]
    np.testing.assert_allclose(env.unwrapped.rules.observe(np.array([[0.6, -0.2]])), [[0.6, -0.2]], rtol=1e-6)


def test_rewards_of_both_versions():
    task = np.array([find_family(DENSE).task_id(goal=(0.0, 0.0))])
    far, action = np.array([[0.3, 0.4]]), np.array([[0.0, 0.0]], np.float32)
    assert find_family(DENSE).step(far, action, task)[1] == pytest.approx(-0.5)
    assert find_family(SPARSE).step(far, action, task)[1] == 0


@pytest.mark.parametrize("goal", [(0.99, 0.99), (0.31, 0.0), (0.1,), "ab", (np.nan, 0), (1e308, 0.0), (-np.inf, 0)])
def test_a_goal_outside_is_one_line(goal):
    with pytest.raises(ValueError, match=r"^goal=.*: give two multiples of 0.02 in the unit disc"):
        gymnasium.make(DENSE, goal=goal)


@pytest.mark.parametrize("mass", [0.2, 5, "1", (1.0,), np.nan])
def test_a_mass_outside_is_one_line(mass):
    with pytest.raises(ValueError, match=r"^mass=.*: give one of the 201 masses from 0.25 to 4.0"):
        gymnasium.make(PENDULUM, mass=mass)


@pytest.mark.slow
def test_posterior_sampling_finds_every_goal():
    ids = FAMILIES[SPARSE].split()[1].ids[:128]
    found = returns(make_source("posterior", SPARSE), SPARSE, ids, 12)
    best = find_family(SPARSE).optimal_return(ids)
    assert (found[:, -1] >= best - 1).all()
    assert found[:, 4].mean() > 0.9 * best.mean()
    assert found[:, 0].mean() < 0.5 * best.mean()


def test_posterior_sampling_stays_in_the_middle_of_the_disc_that_pays():
    """The first place that paid is often at its rim, where a learner's small error loses the reward."""
    env_id = "icrl/PointRobotSparse-v0"
    ids = np.arange(0, 7800, 156)
    last = lifetimes(env_id, make_source("posterior", env_id), ids, 8, 0).next_obs[:, -1]
    away = np.linalg.norm(last - find_family(env_id).goals[ids], axis=1)
    assert np.median(away) < 0.13
    assert away.max() < 0.2 + 1e-3


def test_a_dense_reward_needs_no_search():
    with pytest.raises(ValueError, match="needs a belief"):
        returns(make_source("posterior", DENSE), DENSE, [0, 1])


def test_a_regulator_must_know_the_mass():
    ids = np.arange(0, len(MASSES), 10)
    knowing = returns(Expert(), PENDULUM, ids)
    assert knowing.mean() == pytest.approx(-14.3, abs=0.1)
    assert knowing.min() > -16
    assert max(returns(Expert(task), PENDULUM, ids).mean() for task in ids) < -80


@pytest.mark.parametrize("env_id", [DENSE, PENDULUM])
def test_frames_show_where_the_robot_is(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array", **FAMILIES[env_id][0])
    env.reset(seed=0)
    before = env.render()
    env.step(env.action_space.high)
    assert before.shape == (192, 192, 3)
    assert before.dtype == np.uint8
    assert (before != env.render()).any()


def test_the_drawing_of_a_point_robot():
    env = gymnasium.make(DENSE, render_mode="ansi", goal=(0.6, 0.8))
    env.reset()
    lines = env.render().split("\n")
    assert lines[1].split()[8] == "G"
    assert lines[5].split()[5] == "A"
