"""Half-cheetah with a hidden target velocity: rewards, tasks, and what a missing MuJoCo says."""

import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from icrl_envs.continuous.half_cheetah_vel import ENTRY_POINT, HalfCheetahVel

from icrl_agents.core.families import find_family, make_tasks
from icrl_agents.core.splits import split_tasks
from tests.conftest import one_line

CHEETAH = "icrl/HalfCheetahVel-v0"
SHOWN = "icrl/HalfCheetahVelGoal-v0"


@pytest.fixture(scope="module")
def env():
    made = gymnasium.make(CHEETAH)
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:.*Box observation space m")
@pytest.mark.parametrize("env_id", [CHEETAH, SHOWN])
def test_gymnasium_accepts_it(env_id):
    env, family = gymnasium.make(env_id), find_family(env_id)
    check_env(env.unwrapped, skip_render_check=True)
    assert (env.observation_space, env.action_space) == (family.observation_space, family.action_space)
    assert env.spec.max_episode_steps == family.horizon == 200
    env.close()


def test_a_task_that_a_reset_sets_stays_in_an_environment_made_with_another():
    env = gymnasium.make(CHEETAH, velocity=1.0)
    env.reset(seed=0)
    assert env.unwrapped.velocity == 1.0
    env.reset(options={"task": {"velocity": 2.0}})
    env.reset()
    assert env.unwrapped.velocity == 2.0
    env.close()


def test_the_target_is_shown_where_it_is_asked_for(env):
    shown = gymnasium.make(SHOWN)
    for velocity in (0.5, 2.25):  # a new task, then another one in the same environment
        start = {"seed": 0, "options": {"task": {"velocity": velocity}}}
        (one, _), (other, _) = env.reset(**start), shown.reset(**start)
        np.testing.assert_array_equal(other, [*one, velocity])
        action = np.full(6, 0.5, np.float32)
        (one, reward, *_), (other, same, *_) = env.step(action), shown.step(action)
        np.testing.assert_array_equal(other, [*one, velocity])
        assert reward == same
    copy = pickle.loads(pickle.dumps(shown.unwrapped))
    assert copy.reset(seed=0)[0].shape == (18,)
    shown.close()
    one_line(lambda: gymnasium.make(CHEETAH, show_goal="yes"), ValueError, "show_goal='yes'", "False, True")


def test_rewards_are_those_of_the_target(env):
    env.reset(seed=0, options={"task": {"velocity": 1.5}})
    still = gymnasium.make("HalfCheetah-v5", ctrl_cost_weight=0.05)
    still.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 6)).astype(np.float32):
        obs, reward, _, _, info = env.step(action)
        seen, _, _, _, told = still.step(action)
        np.testing.assert_array_equal(obs, seen)
        speed = told["x_velocity"]
        assert reward == pytest.approx(-abs(speed - 1.5) - 0.05 * np.square(action).sum())
        assert reward == pytest.approx(info["reward_forward"] + info["reward_ctrl"])
    still.close()


def test_a_task_is_kept_until_a_seed(env):
    env.reset(seed=3)
    one = env.unwrapped.velocity
    env.reset()
    assert env.unwrapped.velocity == one
    env.reset(seed=4)
    assert env.unwrapped.velocity != one
    env.reset(seed=3)
    assert env.unwrapped.velocity == one
    assert round(one, 2) == pytest.approx(one)


def test_tasks_are_velocities_and_rows_stay_on_theirs():
    family, splits = find_family(CHEETAH), split_tasks(CHEETAH)
    assert [family.task_kwargs(task)["velocity"] for task in (0, 57, 300)] == [0.0, 0.57, 3.0]
    assert [len(part) for part in splits] == [217, 24, 60]
    rows, options = make_tasks(CHEETAH, [0, 300])
    rows.reset(seed=0, options=options)
    rewards = [rows.step(np.zeros((2, 6), np.float32))[1] for _ in range(201)]  # over the end of an episode
    np.testing.assert_allclose(np.mean(rewards, 0), [0, -3], atol=0.2)
    copy = pickle.loads(pickle.dumps(rows.envs[1].unwrapped))
    copy.reset(seed=0)
    assert copy.velocity == 3
    rows.close()


@pytest.mark.slow
def test_the_camera_runs_along():
    made = gymnasium.make(CHEETAH, velocity=1.0, render_mode="rgb_array", width=64, height=64)
    made.reset(seed=0)
    try:
        near = made.render()
    except OSError as error:
        pytest.skip(str(error))
    cheetah = made.unwrapped
    cheetah.set_state(np.r_[30.0, cheetah.data.qpos[1:]], cheetah.data.qvel)
    brown = [(np.ptp(frame.astype(int), axis=2) > 60).sum() for frame in (near, made.render())]  # the floor is grey
    assert min(brown) > 20
    made.close()


DRAWS_BOTH = """
import gymnasium, icrl_envs
for env_id in ("icrl/HalfCheetahVel-v0", "icrl/MetaWorld-reach-v0", "icrl/HalfCheetahVel-v0"):
    env = gymnasium.make(env_id, render_mode="rgb_array", width=64, height=64)
    env.reset(seed=0)
    try:
        assert env.render().std() > 10
    except OSError as error:
        raise SystemExit(f"skipped: {error}")
    env.close()
"""


@pytest.mark.slow
def test_robots_are_drawn_one_after_the_other_without_a_screen():
    pytest.importorskip("metaworld")
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", DRAWS_BOTH], env=env, capture_output=True, text=True)
    if "skipped:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("velocity", [-0.1, 3.01, "fast", True, np.nan])
def test_other_targets_are_refused(env, velocity):
    one_line(lambda: env.reset(options={"task": {"velocity": velocity}}), ValueError, "velocity=", "from 0 to 3.0")


@pytest.mark.parametrize("task", [5, "velocity", ["velocity"], [{"velocity": 1.0}]])
def test_a_task_that_is_no_dict_is_one_line(env, task):
    one_line(lambda: env.reset(options={"task": task}), ValueError, "options['task']=", "give a dict of velocity")


def test_an_id_of_ones_own_has_its_own_time_limit():
    gymnasium.register("test/Sprint-v0", ENTRY_POINT, max_episode_steps=50)
    try:
        assert HalfCheetahVel("test/Sprint-v0").horizon == 50
        assert find_family(CHEETAH).horizon == 200
    finally:
        del gymnasium.registry["test/Sprint-v0"]


def test_a_number_may_say_that_the_goal_is_shown():
    made = gymnasium.make(CHEETAH, show_goal=1.0)
    assert made.observation_space.shape == (18,)
    made.close()


@pytest.mark.slow
def test_without_mujoco_the_id_is_known_and_making_it_says_what_to_install():
    code = "import sys; sys.modules['mujoco'] = None\nimport icrl_envs, gymnasium\n"
    code += f"assert '{CHEETAH}' in icrl_envs.FAMILIES and 'gymnasium.envs.mujoco' not in sys.modules\n"
    code += f"gymnasium.make('{CHEETAH}')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr.strip().endswith(f'ImportError: {CHEETAH} needs mujoco: pip install "icrl-agents[mujoco]"')
