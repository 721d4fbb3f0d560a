"""Darkroom with random starts: which episodes share a start cell, the expected best return, and who earns it."""

import copy

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES, find_family
from icrl_envs.grids.darkroom_starts import DarkroomStarts

from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from tests.conftest import one_line

ROOM = "icrl/Darkroom-v0"
FIXED, RANDOM, ANY = (f"icrl/Darkroom{name}Start-v0" for name in ("Fixed", "Random", "Any"))
ALL = (FIXED, RANDOM, ANY)
CENTRE = 9 * 4 + 4
ids = pytest.mark.parametrize("env_id", ALL)


def cells_of(obs):
    return 9 * obs[:, 0] + obs[:, 1]


def start_cells(env_id, rows, episodes, **options):
    """Start cells (rows, episodes) of lifetimes whose episodes have one step."""
    env = gymnasium.make_vec(env_id, num_envs=rows, horizon=1, max_episode_steps=1)
    found = [env.reset(seed=0, options=options)[0]]
    found += [env.step(np.full(rows, 4))[0] for _ in range(episodes - 1)]
    return np.stack([cells_of(obs) for obs in found], 1)


def assert_uniform(cells):
    """Every cell is as frequent as any other, within five standard deviations of a count."""
    counts = np.bincount(cells.ravel(), minlength=81)
    assert len(counts) == 81
    assert np.abs(counts - cells.size / 81).max() < 5 * np.sqrt(cells.size / 81)


@ids
def test_tasks_and_their_split_are_those_of_darkroom(env_id):
    tasks, known = FAMILIES[env_id], FAMILIES[ROOM]
    assert [tasks[i] for i in range(len(tasks))] == [known[i] for i in range(len(known))]
    for part, expected in zip(tasks.split(), known.split(), strict=True):
        assert part.ids.tolist() == expected.ids.tolist()
    assert tasks.family.observation_space == known.family.observation_space
    assert tasks.family.action_space == known.family.action_space
    assert gymnasium.spec(env_id).max_episode_steps == 20


def test_a_fixed_start_is_that_of_all_episodes_of_a_lifetime():
    cells = start_cells(FIXED, 8100, 5)
    assert (cells == cells[:, :1]).all()
    assert_uniform(cells[:, 0])


def test_random_starts_are_drawn_anew_for_each_episode():
    cells = start_cells(RANDOM, 1000, 10)
    assert_uniform(cells)
    again = cells[:, None, :] == cells[:, :, None]  # (rows, episodes, episodes)
    assert again[:, ~np.eye(10, dtype=bool)].mean() == pytest.approx(1 / 81, abs=0.003)
    assert len(np.unique(cells, axis=0)) == 1000  # rows differ


def test_any_start_is_the_centre_in_seven_of_ten_episodes():
    cells = start_cells(ANY, 3000, 6)
    away = cells != CENTRE
    np.testing.assert_allclose(away.mean(0), 0.3 * 80 / 81, atol=0.04)
    np.testing.assert_allclose((away[:, :-1] & away[:, 1:]).mean(), 0.3**2, atol=0.01)  # episodes are independent
    counts = np.bincount(cells[away], minlength=81)[np.arange(81) != CENTRE]
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


@ids
def test_start_cells_do_not_depend_on_the_task(env_id):
    first, second = (start_cells(env_id, 50, 4, task=np.full(50, task)) for task in (3, 77))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("make", [gymnasium.make, lambda env_id: gymnasium.make_vec(env_id, num_envs=1)])
def test_another_task_goes_on_with_the_lifetime_and_a_seed_begins_another(make):
    env = make(FIXED)
    begun = [env.reset(seed=seed)[0].tolist() for seed in range(10)]
    assert len(np.unique(begun, axis=0)) > 5
    for task in (3, 77):
        obs, info = env.reset(options={"task": FAMILIES[FIXED][task]})
        assert obs.tolist() == begun[-1]
        assert info["task"] == task
    assert env.reset(seed=2)[0].tolist() == begun[2]


@ids
def test_rows_are_what_they_are_alone(env_id):
    """In batches as in single environments, over several episodes."""
    env = gymnasium.make_vec(env_id, num_envs=6)
    alone = [gymnasium.make(env_id) for _ in range(6)]
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, [one.reset(seed=3 + row)[0] for row, one in enumerate(alone)])
    rng = np.random.default_rng(0)
    for _ in range(70):
        actions = rng.integers(5, size=6)
        obs, reward, _, truncated, info = env.step(actions)
        for row, one in enumerate(alone):
            found = one.step(int(actions[row]))
            assert found[1] == reward[row]
            assert found[3] == truncated[row]
            if truncated[row]:
                np.testing.assert_array_equal(found[0], info["final_obs"][row])
                found = (one.reset()[0],)
            np.testing.assert_array_equal(found[0], obs[row])


@ids
def test_copies_have_the_same_future(env_id):
    env = gymnasium.make_vec(env_id, num_envs=50)
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    for _ in range(4):
        np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])


@ids
def test_dynamics_are_those_of_darkroom_from_other_starts(env_id):
    rules, room = find_family(env_id), find_family(ROOM)
    rng = np.random.default_rng(1)
    task = np.tile(np.arange(81), 3)
    state = rules.begin(rng.integers(2**62, size=len(task)), task)
    cell, rewarded = cells_of(rules.observe(state)), 0
    for step in range(20):
        np.testing.assert_array_equal(rules.expert_action(state, task), room.expert_action(cell, task))
        action = np.where(rng.random(len(task)) < 0.5, room.expert_action(cell, task), rng.integers(5, size=len(task)))
        before = state.copy()
        (after, reward), (cell, expected) = rules.step(state, action, task), room.step(cell, action, task)
        np.testing.assert_array_equal(state, before, err_msg=f"step {step} changed its argument")
        np.testing.assert_array_equal(rules.observe(after), room.observe(cell))
        np.testing.assert_array_equal(reward, expected)
        np.testing.assert_array_equal(rules.success(after, task), room.success(cell, task))
        state, rewarded = after, rewarded + int(reward.sum())
    assert rewarded > 500
    before = state.copy()
    rules.resume(state, task)
    np.testing.assert_array_equal(state, before)


@pytest.mark.parametrize("starts", ["lifetime", "episode", "mixed"])
@pytest.mark.parametrize("horizon", [1, 3, 20])
def test_the_best_return_is_a_mean_over_starts(starts, horizon):
    rules = DarkroomStarts(starts=starts, horizon=horizon)
    cells = [divmod(cell, 9) for cell in range(81)]
    for goal in ((0, 0), (4, 4), (2, 7)):
        best = {(x0, x1): min(max(horizon + 1 - abs(x0 - goal[0]) - abs(x1 - goal[1]), 0), horizon) for x0, x1 in cells}
        expected = sum(best.values()) / 81
        if starts == "mixed":
            expected = 0.7 * best[4, 4] + 0.3 * expected
        assert rules.optimal_return(np.array([rules.task_id(goal=goal)])) == pytest.approx([expected])


@ids
def test_the_expert_earns_the_best_return_on_average(env_id):
    task = np.repeat(np.arange(81), 200)
    env = gymnasium.make_vec(env_id, num_envs=len(task))
    _, info = env.reset(seed=0, options={"task": task})
    best, total = info["optimal_return"], np.zeros(len(task))
    for _ in range(3 * 20):
        total += env.step(env.unwrapped.expert_action())[1]
    earned = total.reshape(81, 200) / 3  # mean of three episodes
    error = earned.mean(1) - best.reshape(81, 200)[:, 0]
    assert (np.abs(error) < 5 * earned.std(1) / np.sqrt(200)).all()
    assert np.abs(error.mean()) < 0.1


@ids
def test_posterior_sampling_finds_every_goal(env_id):
    task = np.tile(np.arange(81), 10)
    steps = lifetimes(env_id, make_source("posterior", env_id), task, 15, 0)
    returns = steps.reward.reshape(len(task), 15, 20).sum(2)
    best = find_family(env_id).optimal_return(task).mean()
    assert returns[:, 0].mean() < 0.25 * best
    assert 0.97 * best < returns[:, 10:].mean() < 1.03 * best


@ids
def test_rendering_shows_where_the_agent_is(env_id):
    text, frame = (gymnasium.make(env_id, goal=(2, 7), render_mode=mode) for mode in ("ansi", "rgb_array"))
    for seed in range(5):
        (x0, x1), _ = text.reset(seed=seed)
        assert frame.reset(seed=seed)[0].tolist() == [x0, x1]
        rows = [line.split() for line in text.render().splitlines()]
        assert rows[x0][x1] == ("*" if (x0, x1) == (2, 7) else "A")
        assert rows[2][7] in "G*"
        assert sum(letter != "." for line in rows for letter in line) <= 2
        picture = frame.render()
        assert picture.shape == (9 * 24, 9 * 24, 3)
        assert picture[24 * x0 + 12, 24 * x1 + 12].tolist() == [38, 84, 160]
        assert picture[24 * 2 + 2, 24 * 7 + 2].tolist() == [60, 170, 90]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"starts": "lifetimes"}, ("starts='lifetimes'", "lifetime, episode, mixed")),
        ({"starts": None}, ("starts=None",)),
        ({"start": (0, 0)}, ("unknown argument 'start'", "'starts'")),
        ({"size": 1}, ("size=1", "2 to 32")),
        ({"horizon": 0}, ("horizon=0",)),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line(kwargs, words):
    one_line(lambda: gymnasium.make(ANY, **kwargs), ValueError, *words)
