"""Procgen's families: ids and tasks without the package; with it the contract of an environment, alone and in rows."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from icrl_envs import FAMILIES, Capability, env_family, find_family
from icrl_envs.procgen import vector
from icrl_envs.procgen.games import GAMES
from icrl_envs.procgen.simulator import Outcome, package, start_of

from icrl_agents.core.families import make_tasks
from icrl_agents.core.splits import split_tasks
from tests.conftest import one_line
from tests.envs.families import PROCGEN

FISH, MAZE = "icrl/Procgen-bigfish-v0", "icrl/Procgen-maze-v0"
STAY = 4


@pytest.fixture(scope="module")
def procgen():
    """The package; its tests are left out where the extra is not installed, such as beside numpy 2."""
    return pytest.importorskip("procgen", reason='pip install "icrl-agents[procgen]", without numpy 2')


@pytest.fixture
def make(procgen):
    """Make environments that are closed after the test."""
    made = []

    def new(env_id=FISH, **kwargs):
        made.append(gymnasium.make(env_id, **kwargs))
        return made[-1]

    yield new
    for env in made:
        env.close()


def play(env, actions):
    """Step until the episode or the actions end; returns all observations, the rewards and the last step's result."""
    seen, rewards = [env.reset()[0]], []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(int(action))
        seen.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(seen), rewards, (terminated, truncated, info)


def random_actions(count, seed=0):
    return np.random.default_rng(seed).integers(0, 15, count)


# ---- without the package ----------------------------------------------------------------------------------------


ALONE = """
import sys, icrl_envs
assert [icrl_envs.FAMILIES[env_id][3] for env_id in icrl_envs.FAMILIES if "Procgen" in env_id] == [{"level": 3}] * 16
assert not {"procgen", "gym", "gym3"} & set(sys.modules)
"""


@pytest.mark.slow
def test_ids_and_tasks_are_known_without_the_package():
    found = subprocess.run([sys.executable, "-c", ALONE], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    assert found.returncode == 0, found.stderr


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "procgen", None)
    package.cache_clear()
    one_line(lambda: gymnasium.make(FISH), ImportError, "pip install", "icrl-agents[procgen]", "numpy below 2")
    one_line(lambda: make_tasks(FISH, [0, 1]), ImportError, "icrl-agents[procgen]")


def test_every_game_is_a_family():
    assert tuple(f"icrl/Procgen-{game}-v0" for game in GAMES) == PROCGEN
    assert len(PROCGEN) == 16
    for env_id, game in zip(PROCGEN, GAMES.values(), strict=True):
        family = find_family(env_id)
        assert gymnasium.spec(env_id).max_episode_steps == family.horizon == game.horizon
        assert (family.observation_space.shape, family.action_space.n) == ((64, 64, 3), 15)
        assert family.capabilities == {Capability.SUCCESS}  # published returns are no optimum, and not those of a level
        assert game.random_return < game.expert_return


def test_levels_are_tasks_and_test_levels_are_those_of_every_split():
    for seed in (None, 0, 3):
        train, test = FAMILIES[FISH].split(seed=seed)
        assert test.ids.tolist() == list(range(200, 300))
        assert sorted(train.ids) == list(range(200))
    assert FAMILIES[FISH][207] == {"level": 207}
    anywhere = split_tasks(FISH, task_set="any_level")
    assert anywhere.test.ids.tolist() == list(range(200, 300))
    assert sorted([*anywhere.train.ids, *anywhere.validation.ids]) == list(range(300, 1300))
    assert anywhere.train[0] == {"level": None, "num_levels": 0}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"level": -1}, "level=-1: give an integer from 0"),
        ({"level": 2**31 - 1}, "level=2147483647"),
        ({"level": "easy"}, "level='easy'"),
        ({"level": 1, "num_levels": 2}, "both choose levels"),
        ({"num_levels": 2**31}, "num_levels="),
        ({"start_level": -1}, "start_level=-1"),
        ({"start_level": 7}, "start_level=7 without num_levels"),
        ({"start_level": 7, "num_levels": 0}, "start_level=7 without num_levels"),
        ({"start_level": 7, "level": 5}, "start_level=7 without num_levels"),
        ({"distribution_mode": "memory"}, "distribution_mode='memory': allowed are easy, hard"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line(kwargs, words):
    entry, options = gymnasium.spec(FISH).entry_point, {"game": "bigfish", **kwargs}
    for call in (gymnasium.envs.registration.load_env_creator(entry), load_rows()):
        one_line(lambda call=call: call(**options), ValueError, words)


def load_rows():
    return gymnasium.envs.registration.load_env_creator(gymnasium.spec(FISH).vector_entry_point)


class Busy:
    """In place of the simulator: each step gives a reward of 1, and ends the episodes of the rows whose action is 1."""

    def __init__(self, game, rows, mode, threads=0, frames=False):
        self.obs = np.zeros((rows, 64, 64, 3), np.uint8)

    def place(self, levels):
        self.obs[list(levels)] = np.array(list(levels.values()))[:, None, None, None]
        return self.obs.copy()

    def step(self, action):
        self.obs = self.obs + np.uint8(1)
        ended = action == 1
        return Outcome(self.obs.copy(), np.ones(len(action)), ended, ended)

    def close(self):
        pass


def test_the_step_that_resets_a_row_is_none_of_its_episode(monkeypatch):
    """In mode NEXT_STEP: the action of such a row is ignored, without a reward or an end."""
    monkeypatch.setattr(vector, "Simulator", Busy)
    rows = gymnasium.make_vec(FISH, num_envs=2, autoreset_mode="NextStep", max_episode_steps=3)
    rows.reset(seed=0, options={"task": [10, 20]})
    results = [rows.step(np.array(action)) for action in ((1, 0), (1, 0), (0, 0), (0, 1))]
    assert [obs[:, 0, 0, 0].tolist() for obs, *_ in results] == [[11, 21], [10, 22], [11, 23], [12, 20]]
    assert [reward.tolist() for _, reward, *_ in results] == [[1, 1], [0, 1], [1, 1], [1, 0]]
    assert [ended.tolist() for _, _, ended, *_ in results] == [[True, False], *[[False, False]] * 3]
    assert [cut.tolist() for _, _, _, cut, _ in results] == [*[[False, False]] * 2, [False, True], [False, False]]
    assert [info["success"].tolist() for *_, info in results] == [[True, False], *[[False, False]] * 3]


# ---- the contract of an environment -----------------------------------------------------------------------------


def test_gymnasium_checker_finds_nothing(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(level=3, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("env_id", PROCGEN)
def test_episodes_of_a_level_are_alike(make, env_id):
    env, again, other = make(env_id, level=7), make(env_id), make(env_id, level=8)
    again.reset(seed=5, options={"task": {"level": 7}})
    actions = random_actions(30)
    first, second, third = play(env, actions), play(env, actions), play(again, actions)
    for one in (second, third):
        np.testing.assert_array_equal(one[0], first[0])
        assert one[1] == first[1]
    assert first[2][2]["level_seed"] == 7
    assert (other.reset()[0] != first[0][0]).any()


def test_a_level_is_that_of_procgen(procgen, make):
    theirs = procgen.ProcgenGym3Env(
        num=1, env_name="coinrun", num_levels=1, start_level=12, distribution_mode="easy", rand_seed=9, num_threads=0
    )
    env = make("icrl/Procgen-coinrun-v0", level=12)
    np.testing.assert_array_equal(theirs.observe()[1]["rgb"][0], env.reset()[0])
    for action in random_actions(200):
        theirs.act(np.array([action], np.int32))
        reward, obs, first = theirs.observe()
        ours = env.step(int(action))
        assert (reward[0], bool(first[0])) == ours[1:3]
        if first[0]:
            ours = env.reset()  # Procgen has begun the next episode
        np.testing.assert_array_equal(obs["rgb"][0], ours[0])
    theirs.close()


def test_seeds_fix_and_resets_hold_the_task(make):
    env = make()
    levels = []
    for seed in (3, None, 4, 3):
        levels.append(env.reset(seed=seed)[1]["level_seed"])
    assert levels[0] == levels[1] == levels[3] != levels[2]
    assert max(levels) < 300


def test_many_levels_are_a_task_too(make):
    env, everywhere = make(num_levels=3, start_level=50), make(num_levels=0)
    easy, hard = make(level=3), make(level=3, distribution_mode="hard")
    drawn = [env.reset(seed=0)[1]["level_seed"], *(env.reset()[1]["level_seed"] for _ in range(20))]
    assert set(drawn) == {50, 51, 52}
    assert [env.reset(seed=0)[1]["level_seed"], *(env.reset()[1]["level_seed"] for _ in range(20))] == drawn
    far = [everywhere.reset(seed=0)[1]["level_seed"], everywhere.reset()[1]["level_seed"]]
    assert min(far) > 10**6
    assert far[0] != far[1]
    assert (hard.reset()[0] != easy.reset()[0]).any()


def test_the_time_limit_truncates_and_shows_the_true_last_picture(make):
    """Without a limit outside the episode goes on: Procgen's own limit of 500 steps is out of reach."""
    limited, free = make(MAZE, level=1), make(MAZE, level=1, max_episode_steps=-1)
    actions = np.full(510, STAY)
    obs, rewards, (terminated, truncated, info) = play(limited, actions)
    assert (len(rewards), terminated, truncated, info["success"]) == (500, False, True, False)
    longer, rewards, (terminated, truncated, _) = play(free, actions)
    assert (len(rewards), terminated, truncated) == (510, False, False)
    np.testing.assert_array_equal(obs, longer[:501])
    seen = play(make(level=5, max_episode_steps=3), [7] * 4)[0]
    assert len(seen) == 4
    assert (seen[-1] != seen[-2]).any()  # the limit adds no held picture


def test_a_terminated_episode_ends_with_the_picture_before(make):
    env = make(level=5)
    obs, _, (terminated, truncated, info) = play(env, random_actions(3000))
    assert (terminated, truncated, info["success"]) == (True, False, False)
    np.testing.assert_array_equal(obs[-1], obs[-2])
    assert (obs[-1] != env.reset()[0]).any()  # not the next episode's first one


def test_a_level_that_is_done_is_a_success(make):
    """Found by random play: a maze whose way is short."""
    for level in range(40):
        env = make(MAZE, level=level)
        _, rewards, (terminated, _, info) = play(env, random_actions(400, level))
        if terminated:
            assert rewards[-1] == 10
            assert info["success"]
            assert not env.reset()[1]["success"]
            return
    raise AssertionError("no maze was left")


def test_frames(make):
    env = make(level=5, render_mode="rgb_array")
    env.reset()
    frames, over = [env.render()], False
    for action in random_actions(3000):
        _, _, over, _, _ = env.step(int(action))
        frames.append(env.render())
        if over:
            break
    assert over
    assert (frames[0].shape, frames[0].dtype) == ((512, 512, 3), np.uint8)
    assert (frames[-3] != frames[-2]).any()
    np.testing.assert_array_equal(frames[-1], frames[-2])  # as the observation, not the next episode's first one
    env.reset()
    np.testing.assert_array_equal(env.render(), frames[0])
    silent = make(level=5)
    silent.reset()
    assert silent.render() is None


def test_bad_calls_are_one_line(make):
    env = make().unwrapped
    one_line(lambda: env.step(0), gymnasium.error.ResetNeeded, "call reset()")
    one_line(lambda: env.reset(options={"task": {"goal": 1}}), ValueError, "unknown task argument", "level")
    one_line(lambda: env.reset(options={"task": {}}), ValueError, "chooses no level")
    one_line(lambda: env.reset(options={"task": 1300}), ValueError, "task=1300")
    env.reset()
    one_line(lambda: env.step(15), ValueError, "action=15")


def test_another_format_of_states_is_noticed(procgen, monkeypatch):
    class Other(procgen.ProcgenGym3Env):
        def get_state(self):
            return [b"\1" + state[1:] for state in super().get_state()]

    monkeypatch.setattr(procgen, "ProcgenGym3Env", Other)
    one_line(lambda: start_of("bigfish", "easy", 1299), RuntimeError, "procgen2 0.10.7")


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("kwargs", [{"num_levels": 0}, {}, {"level": 5}], ids=str)
def test_rows_are_those_of_single_environments(procgen, mode, kwargs):
    """With ends of both kinds; rows are on different levels, and reset one by one."""
    limit = 80
    rows = gymnasium.make_vec(FISH, num_envs=4, max_episode_steps=limit, autoreset_mode=mode, **kwargs)
    single = [lambda: gymnasium.make(FISH, max_episode_steps=limit, **kwargs)] * 4
    theirs = SyncVectorEnv(single, autoreset_mode=mode)
    equal(rows.reset(seed=11), theirs.reset(seed=11))
    rng, ends = np.random.default_rng(1), np.zeros((2, 4), bool)
    for _ in range(250):
        action = rng.integers(0, 15, 4)
        one, other = rows.step(action), theirs.step(action)
        equal(one, other)
        ends |= np.stack(one[2:4])
        if mode == AutoresetMode.DISABLED and (over := one[2] | one[3]).any():
            equal(*(env.reset(options={"reset_mask": over}) for env in (rows, theirs)))
    assert ends.any(1).all()
    rows.close()
    theirs.close()


def equal(ours, theirs):
    """The same results; of infos the entries, their masks and dtypes."""
    *ours, info = ours
    *theirs, told = theirs
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert info.keys() == told.keys()
    for name, value in info.items():
        if name == "final_info":
            equal([value], [told[name]])
        elif name == "final_obs":
            assert [one is None for one in value] == [other is None for other in told[name]]
            for one, other in zip(value, told[name], strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_array_equal(value, told[name], err_msg=name)
            assert value.dtype == told[name].dtype, name


def test_rows_are_on_the_tasks_they_are_made_for(procgen):
    rows, options = make_tasks(FISH, [5, 250, 300, 5])
    obs, info = rows.reset(seed=0, options=options)
    assert info["level_seed"][[0, 1, 3]].tolist() == [5, 250, 5]
    assert info["level_seed"][2] > 300
    np.testing.assert_array_equal(obs[0], obs[3])
    assert env_family(rows) is find_family(FISH)
    assert rows.max_episode_steps == 6000
    kept = rows.reset(options={"reset_mask": np.array([False, True, False, False])})[1]
    assert kept["_level_seed"].tolist() == [False, True, False, False]
    rows.reset(options={"task": [{"level": 1}, {"level": 2}, {"level": 3}, {"num_levels": 0}]})
    one_line(lambda: rows.reset(options={"task": [1, 2]}), ValueError, "4 of them")
    one_line(lambda: rows.step(np.zeros(3, int)), ValueError, "action=")
    rows.close()
    one_line(lambda: gymnasium.make_vec(FISH, num_envs=2, autoreset_mode="never"), ValueError, "autoreset_mode")


def test_an_observation_is_not_changed_by_the_next_step(procgen):
    rows = gymnasium.make_vec(FISH, num_envs=2, level=5)
    obs = rows.reset(seed=0)[0]
    kept = obs.copy()
    first = rows.step(np.zeros(2, int))[0]
    again = first.copy()
    rows.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, kept)
    np.testing.assert_array_equal(first, again)
    rows.close()
