"""Meta-World's families: the benchmark's goals and numbers, and the contract of an environment of one's own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from icrl_envs import FAMILIES, Capability, find_family
from icrl_envs.metaworld.fast_experts import insert_peg, sweep_cube
from icrl_envs.metaworld.rows import MetaWorldRows
from icrl_envs.metaworld.simulation import shared_model
from icrl_envs.metaworld.spaces import TWO_OBJECTS
from icrl_envs.metaworld.tasks import FREE, GOALS, SPACES, free_goals, goal_of, published_goals

from icrl_agents.core.families import make_tasks
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import evaluate as evaluation
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from tests.conftest import one_line
from tests.envs.families import METAWORLD

REACH = "icrl/MetaWorld-reach-v0"
GOAL = published_goals("reach")[0]
WITHOUT = 'metaworld is not installed: pip install "icrl-agents[metaworld]"'


@pytest.fixture(scope="module")
def metaworld():
    """The package; its tests are left out where the extra is not installed."""
    return pytest.importorskip("metaworld", reason=WITHOUT)


@pytest.fixture
def env(metaworld):
    made = gymnasium.make(REACH, rand_vec=tuple(GOAL))
    yield made
    made.close()


# ---- without the package ----------------------------------------------------------------------------------------


ALONE = """
import sys, icrl_envs
tasks = [icrl_envs.FAMILIES[env_id].family.task_kwargs(99) for env_id in icrl_envs.FAMILIES if "MetaWorld" in env_id]
assert len(tasks) == 76  # 26 of them with the goal in the observation too
icrl_envs.find_family("icrl/MetaWorld-reach-v0").task_kwargs(9999)
assert not {"metaworld", "mujoco", "scipy"} & set(sys.modules)
"""


@pytest.mark.slow
def test_ids_and_tasks_are_known_without_the_package():
    found = subprocess.run([sys.executable, "-c", ALONE], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    assert found.returncode == 0, found.stderr


def test_a_missing_package_is_one_line(monkeypatch):
    for name in ("metaworld", "mujoco"):
        monkeypatch.setitem(sys.modules, name, None)
    one_line(lambda: gymnasium.make("icrl/MetaWorld-soccer-v0"), ImportError, "pip install", "icrl-agents[metaworld]")


def test_every_task_is_a_family():
    hidden = [f"icrl/MetaWorld-{name}-v0" for name in SPACES]
    shown = [env_id for env_id in METAWORLD if env_id not in hidden]
    assert shown == [f"icrl/MetaWorldGoal-{name}-v0" for name, space in SPACES.items() if len(space.low) == 6]
    for env_id in shown:  # Meta-World's own observation; tasks and splits are the same
        family, blind = find_family(env_id), find_family(env_id.replace("Goal", ""))
        assert family.observation_space.shape == (39,)
        assert (family.observation_space.high[-3:] > 1).all()
        assert family.task_kwargs(7) == blind.task_kwargs(7)
        assert [part.ids.tolist() for part in family.tasks.split()] == [p.ids.tolist() for p in blind.tasks.split()]
    assert len(hidden) == 50
    for name, env_id in zip(SPACES, hidden, strict=True):
        family = find_family(env_id)
        assert family.horizon == 100
        assert family.observation_space.shape == ((18,) if name in TWO_OBJECTS else (11,))
        assert {Capability.SUCCESS, Capability.EXPERT, Capability.TASK_EXPERTS} == family.capabilities


def test_test_goals_are_those_of_every_split():
    tasks = FAMILIES[REACH]
    for seed in (None, 0, 3):
        train, test = tasks.split(seed=seed)
        assert test.ids.tolist() == list(range(50, 100))
        assert sorted(train.ids) == list(range(50))
    free = split_tasks(REACH, task_set="train_free")
    assert free.test.ids.tolist() == list(range(50, 100))
    assert sorted([*free.train.ids, *free.validation.ids]) == list(range(100, 100 + FREE))


@pytest.mark.parametrize("name", ["reach", "push", "sweep", "peg-insert-side", "drawer-open"])
def test_free_goals_are_away_from_the_test_goals(name):
    space, goals = SPACES[name], free_goals(name)
    low, high = np.array(space.low), np.array(space.high)
    assert goals.shape == (FREE, len(low))
    assert len(np.unique(goals, axis=0)) == FREE
    assert ((low <= goals) & (goals <= high)).all()
    assert space.fits(goals).all()
    telling = space.hidden()
    away = (
        np.abs(goals[:, None, telling] - published_goals(name)[GOALS:, telling]) / (high - low)[telling]
    )  # (FREE, GOALS, D)
    least = away.max(2).min(1)
    assert least.min() > 0.5 * (0.25 / GOALS) ** (1 / len(telling))
    assert np.percentile(least, 10) < 0.25  # and all over the rest of the space


@pytest.mark.parametrize(
    ("rand_vec", "words"),
    [
        ((0.0, 0.6, 0.02), "give 6 numbers"),
        ("abc", "give 6 numbers"),
        ((0.0, 0.6, 0.02, 0.5, 0.85, 0.2), "is outside reach"),
        ((np.nan, 0.6, 0.02, 0.0, 0.85, 0.2), "is outside reach"),
        ((0.0, 0.69, 0.02, 0.0, 0.8, 0.2), "nearer than 0.15"),
    ],
)
def test_a_goal_that_cannot_be_drawn_is_one_line(rand_vec, words):
    one_line(lambda: gymnasium.make(REACH, rand_vec=rand_vec), ValueError, "rand_vec=", words)


# ---- the same as the package ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reach", "sweep-into", "door-open"])
def test_goals_are_those_of_the_benchmark(metaworld, monkeypatch, name):
    """ML1 keeps its goals as pickles: its arrays are taken before. They do not depend on where the hand starts."""
    base = metaworld.sawyer_xyz_env.SawyerXYZEnv
    monkeypatch.setattr(metaworld, "_encode_task", lambda env_name, task: task["rand_vec"])
    monkeypatch.setattr(base, "_reset_hand", lambda env, steps=50: setattr(env, "init_tcp", env.tcp_center))
    benchmark = metaworld.ML1(f"{name}-v3", seed=0)
    np.testing.assert_array_equal(benchmark.train_tasks + benchmark.test_tasks, published_goals(name))
    box = benchmark.train_classes[f"{name}-v3"]()._random_reset_space
    assert (tuple(box.low), tuple(box.high)) == SPACES[name][:2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reach", "stick-pull"])
def test_numbers_are_those_of_the_package(metaworld, name):
    """Also after another goal, beside another row on the same model, and in a second episode."""
    theirs = metaworld.env_dict.ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
    theirs._set_task_called, theirs._last_rand_vec = True, goal_of(name, 50)
    ours, beside = (gymnasium.make(f"icrl/MetaWorld-{name}-v0", obs="full") for _ in range(2))
    for row, task in ((ours, 1), (beside, 2)):
        row.reset(options={"task": {"rand_vec": goal_of(name, task)}})
        row.step(np.ones(4))
    ours.reset(options={"task": {"rand_vec": goal_of(name, 50)}})
    for _ in range(2):
        shown = [theirs.reset()[0], ours.reset()[0]]
        np.testing.assert_array_equal(shown[0].astype(np.float32), shown[1])
        for _ in range(8):
            action = ours.unwrapped.expert_action()
            beside.step(-action)
            (obs, reward, *_, info), own = theirs.step(action), ours.step(action)
            np.testing.assert_array_equal(obs.astype(np.float32), own[0])
            assert (reward, bool(info["success"])) == (own[1], own[4]["success"])


def test_goals_of_all_tasks_are_those_that_were_compared_with_the_package():
    """All 50 tasks as above, once, with metaworld 3.1.1: that takes minutes."""
    goals = hashlib.sha256(b"".join(published_goals(name).tobytes() for name in SPACES))
    assert goals.hexdigest() == "64e5c35e542d0abc1a4da317687902bef67c559f75a9592ab5f207cfaa7f638b"


# ---- the contract of an environment -----------------------------------------------------------------------------


def test_gymnasium_checker_finds_nothing(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity")  # places of objects
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.slow
def test_every_task_is_played_and_hides_its_goal(metaworld):
    for name, space in SPACES.items():
        env = gymnasium.make(f"icrl/MetaWorld-{name}-v0", max_episode_steps=1)
        near, far = published_goals(name)[0], goal_of(name, 9)
        first, info = env.reset(options={"task": {"rand_vec": near}})
        assert (first in env.observation_space, info["success"]) == (True, False), name
        obs, reward, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        assert (obs in env.observation_space, terminated, truncated) == (True, False, True), name
        assert 0 <= reward <= 10, name
        assert isinstance(info["success"], bool), name
        moved = np.concatenate([near[:3], far[3:]])  # another goal of the same object
        if space.has_goal and space.fits(moved[None])[0]:
            other = env.reset(options={"task": {"rand_vec": moved}})[0]
            np.testing.assert_allclose(other, first, atol=2e-3, err_msg=name)  # metres; a lid settles on its box
        env.close()
        shared_model.cache_clear()  # 20 MB each


def test_seeds_fix_and_resets_hold_the_task(metaworld):
    env = gymnasium.make(REACH)
    goals = []
    for seed in (3, None, 4, 3):
        env.reset(seed=seed)
        goals.append(tuple(env.unwrapped.rand_vec))
    assert goals[0] == goals[1] == goals[3] != goals[2]
    assert goals[0] in {tuple(goal) for goal in published_goals("reach")}


def test_a_fixed_task_stays(env):
    for seed in (0, 1, None):
        env.reset(seed=seed)
        np.testing.assert_array_equal(env.unwrapped.rand_vec, GOAL)


def test_options_that_are_no_dict_are_one_line(env):
    for task in (5, [{"rand_vec": GOAL}] * 2, "rand_vec"):
        one_line(partial(env.reset, options={"task": task}), ValueError, "options['task']=", "give a dict of rand_vec")
    one_line(lambda: env.reset(options=5), ValueError, "options=5: give a dict of task")
    one_line(lambda: gymnasium.make(REACH, hide_goal="no"), ValueError, "hide_goal='no': allowed are False, True")


@pytest.mark.parametrize(
    ("obs", "hide_goal", "size"),
    [("published", True, 11), ("published", False, 14), ("frame", True, 18), ("full", True, 39), ("full", False, 39)],
)
def test_what_an_observation_shows(metaworld, obs, hide_goal, size):
    env = gymnasium.make(REACH, rand_vec=tuple(GOAL), obs=obs, hide_goal=hide_goal)
    first = env.reset()[0]
    second = env.step(np.array([0.5, 0.0, 0.0, 0.0]))[0]
    assert first.shape == env.observation_space.shape == (size,)
    assert first in env.observation_space
    assert second in env.observation_space
    if not hide_goal:
        np.testing.assert_allclose(second[-3:], GOAL[3:], rtol=1e-6)
    elif obs == "full":
        assert not second[-3:].any()
        np.testing.assert_array_equal(second[18:36], first[:18])  # the frame before


def test_bad_calls_are_one_line(env):
    for call in (lambda: env.unwrapped.step(np.zeros(4)), env.unwrapped.expert_action):
        one_line(call, gymnasium.error.ResetNeeded, "call reset()")
    env.reset()
    one_line(lambda: env.step(np.full(4, 2.0)), ValueError, "outside", "clip")
    one_line(lambda: gymnasium.make(REACH, obs="all"), ValueError, "obs='all'", "published")
    one_line(lambda: env.reset(options={"task": {"goal": 1}}), ValueError, "unknown task argument", "rand_vec")


def test_minus_one_never_truncates(metaworld):
    rows = gymnasium.make_vec(REACH, 2, max_episode_steps=-1)
    rows.reset(seed=0)
    still = np.zeros((2, 4), np.float32)
    assert not any(rows.step(still)[3].any() for _ in range(101))
    one_line(lambda: gymnasium.make_vec(REACH, 0), ValueError, "num_envs=0: give an integer from 1")


@pytest.mark.parametrize("mode", AutoresetMode)
def test_rows_end_with_their_true_final_observation(metaworld, mode):
    """Two rows on two goals with episodes of three steps, against single environments that are reset by hand."""
    family = find_family(REACH)
    rows = MetaWorldRows([lambda i=i: family.make(i, max_episode_steps=3) for i in (4, 7)], autoreset_mode=mode)
    alone = [family.make(i, max_episode_steps=3) for i in (4, 7)]
    action = np.full((2, 4), 0.5, np.float32)
    np.testing.assert_array_equal(rows.reset(seed=0)[0], [env.reset()[0] for env in alone])
    for _ in range(2):
        for step in range(3):
            obs, reward, terminated, truncated, info = rows.step(action)
            single = [env.step(action[0]) for env in alone]
            final = np.stack(info["final_obs"]) if mode == AutoresetMode.SAME_STEP and step == 2 else obs
            np.testing.assert_array_equal(final, [one[0] for one in single])
            np.testing.assert_array_equal(reward, [one[1] for one in single])
            assert (truncated == (step == 2)).all()
            assert not terminated.any()
        first = [env.reset()[0] for env in alone]
        if mode == AutoresetMode.NEXT_STEP:
            obs = rows.step(action)[0]
        if mode == AutoresetMode.DISABLED:
            obs = rows.reset(options={"reset_mask": np.ones(2, bool)})[0]
        np.testing.assert_array_equal(obs, first)


# ---- experts ----------------------------------------------------------------------------------------------------


class Advised:
    """Takes the expert's actions, of the tasks `tasks` if they are given."""

    def __init__(self, tasks=None):
        self.tasks = tasks

    def reset(self, env, *, seed=None):
        self.rows = env.unwrapped

    def act(self, obs):
        self.obs = obs
        return self.rows.expert_action(self.tasks)

    def observe(self, *result):
        pass


@pytest.mark.slow
def test_an_expert_reaches_its_goal_and_a_deceived_one_the_other(metaworld, monkeypatch):
    monkeypatch.setattr(evaluation, "random_returns", lambda env_id, tasks, seed: np.zeros(len(tasks)))
    tasks, others = [50, 60, 70], [51, 150, 9000]
    found, deceived = Advised(), Advised(others)
    right, wrong = (evaluation.evaluate(learner, REACH, tasks=tasks, episodes=2) for learner in (found, deceived))
    assert right.success.all()
    assert (right.returns.min(1) > 700).all()
    np.testing.assert_array_equal(right.returns[:, 0], right.returns[:, 1])
    assert wrong.success.shape == (1, 3, 2)
    assert not wrong.success.any()
    for learner, at in ((found, tasks), (deceived, others)):
        goals = np.array([goal_of("reach", task)[3:] for task in at])
        assert np.linalg.norm(learner.obs[:, :3] - goals, axis=1).max() < 0.06  # the hand is 4 cm above its tip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expert", "ids"),
    [("peg-insert-side", insert_peg, [103, 106, 108, 109]), ("sweep", sweep_cube, [119, 125, 143, 149])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fast_experts_succeed_where_the_scripted_ones_are_too_slow(name, expert, ids, metaworld, monkeypatch):
    monkeypatch.setattr(evaluation, "random_returns", lambda env_id, tasks, seed: np.zeros(len(tasks)))
    family, fast, scripted = find_family(f"icrl/MetaWorld-{name}-v0"), Advised(), Advised()
    fast.act = lambda obs: expert(obs, [family.task_kwargs(task) for task in ids])
    for learner, succeeds in ((fast, True), (scripted, False)):
        found = evaluation.evaluate(learner, family.env_id, tasks=ids, episodes=1).success
        assert found.ravel().tolist() == [succeeds] * len(ids)


@pytest.mark.slow
def test_lifetimes_of_the_noisy_expert(metaworld):
    steps = lifetimes(REACH, make_source("noise", REACH), np.array([3, 3, 110]), 2, seed=1)
    assert steps.reward.shape == (3, 200)
    ends = np.flatnonzero(steps.truncated[0])
    assert ends.tolist() == [99, 199]
    assert not steps.terminated.any()
    rewards = steps.reward.reshape(3, 2, 100).sum(2)
    assert (rewards[:, 1] > rewards[:, 0]).all()  # less noise in the second episode
    assert "expert_action" in steps.extras


def test_frames_without_a_screen(metaworld):
    env = gymnasium.make(REACH, rand_vec=tuple(GOAL), render_mode="rgb_array", width=64, height=48)
    env.reset()
    try:
        frame = env.render()
    except OSError as error:
        pytest.skip(str(error))
    assert (frame.shape, frame.dtype) == ((48, 64, 3), np.uint8)
    assert frame.std() > 10
    for _ in range(20):
        env.step(np.array([-1.0, 0.0, 0.0, 0.0]))
    assert (env.render() != frame).any()
    env.close()
    rows, _ = make_tasks(REACH, [0])
    assert rows.envs[0].unwrapped.render() is None
