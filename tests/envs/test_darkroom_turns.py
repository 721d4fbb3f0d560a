"""Darkroom in turns: the order of the rooms, the best return, and a search that remembers one room in the other."""

from __future__ import annotations

from itertools import product

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from icrl_envs import FAMILIES, find_family
from icrl_envs.grids.darkroom_turns import DarkroomTurns

from icrl_agents.core.changing import make_changing_tasks
from icrl_agents.core.rollout import rollout
from icrl_agents.nn.codecs import make_codec
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from tests.conftest import one_line
from tests.envs.families import TURNS

LARGE, SMALL = TURNS
MIXED = "icrl/DarkroomMixedTurns-v0"
SHAPES = {LARGE: (9, 20, 15), SMALL: (5, 10, 4)}  # side, steps of an episode, episodes of a turn
ids = pytest.mark.parametrize("env_id", TURNS)


def best_returns(env_id, task):
    """Best returns (2, N) of an episode in room 0 and in room 1, from the definition."""
    size, horizon, _ = SHAPES[env_id]
    goals = np.stack(np.divmod(task, size**2))  # (2, N)
    away = sum(np.abs(x - size // 2) for x in np.divmod(goals, size))
    return np.clip(horizon + 1.0 - away, 0, horizon)


def some_tasks(env_id, count=300):
    return np.random.default_rng(0).permutation(find_family(env_id).num_tasks)[:count]


def lived(env_id, task, **settings):
    """Observations (N, E, steps, 3) and returns (N, E) of lifetimes of posterior sampling."""
    family = find_family(env_id)
    steps = lifetimes(env_id, make_source("posterior", env_id, settings), task, family.lifetime, 0)
    shape = len(task), family.lifetime, family.horizon
    return steps.obs.reshape(*shape, 3), steps.reward.reshape(shape).sum(2)


def rooms(env_id, episodes):
    """The room (episodes,) of each episode, written out."""
    turn = SHAPES[env_id][2]
    return np.array(([0] * turn + [1] * turn) * 9)[:episodes]


@ids
def test_tasks_are_pairs_of_goals_and_a_lifetime_has_four_turns(env_id):
    size, horizon, turn = SHAPES[env_id]
    tasks = FAMILIES[env_id]
    cells = list(product(range(size), repeat=2))
    assert [task["goals"] for task in tasks] == list(product(cells, repeat=2))
    assert (tasks.family.horizon, tasks.family.lifetime) == (horizon, 4 * turn)
    assert gymnasium.spec(env_id).max_episode_steps == horizon
    space = tasks.family.observation_space
    assert space == spaces.Box(0, np.array([size - 1, size - 1, 1]), (3,), np.int32)
    assert make_codec(space, 8, predicts=True).table.num_embeddings == 2 * size + 2


@ids
def test_goals_occur_in_both_parts_of_the_split(env_id):
    train, test = FAMILIES[env_id].split()
    assert not set(train.ids) & set(test.ids)
    cells = SHAPES[env_id][0] ** 2
    for known, tried in zip(np.divmod(train.ids, cells), np.divmod(test.ids, cells), strict=True):
        assert set(known) == set(range(cells))
        assert len(set(tried)) > cells / 2


@pytest.mark.slow
@ids
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_rooms_take_turns_and_every_episode_starts_in_the_centre(env_id, mode):
    size, horizon, turn = SHAPES[env_id]
    env = gymnasium.make_vec(env_id, num_envs=2, autoreset_mode=mode)
    starts, present = [env.reset(seed=0)[0]], []
    rng = np.random.default_rng(0)
    for _ in range(5 * turn):
        for _ in range(horizon):
            obs, _, _, truncated, info = env.step(rng.integers(5, size=2))
            present.append(info.get("final_obs", obs)[0][2])
        assert truncated.all()
        starts.append(env.step(np.full(2, 4))[0] if mode == AutoresetMode.NEXT_STEP else obs)
    expected = rooms(env_id, 5 * turn + 1)
    middle = np.full(len(expected), size // 2)
    for row in range(2):
        np.testing.assert_array_equal(np.array(starts)[:, row], np.stack([middle, middle, expected], 1))
    np.testing.assert_array_equal(present, np.repeat(expected[:-1], horizon))


def test_a_seed_begins_a_lifetime_and_another_task_goes_on_with_it():
    env = gymnasium.make(SMALL)
    env.reset(seed=0)
    found = [int(env.reset()[0][2]) for _ in range(5)]
    assert found == [0, 0, 0, 1, 1]
    obs, info = env.reset(options={"task": {"goals": ((0, 1), (4, 4))}})
    assert (obs.tolist(), info["task"]) == ([2, 2, 1], 1 * 25 + 24)
    assert env.reset(seed=1)[0].tolist() == [2, 2, 0]


@pytest.mark.slow
@ids
def test_rows_are_what_they_are_alone(env_id):
    """In batches as in single environments, over more than two turns."""
    _, horizon, turn = SHAPES[env_id]
    env = gymnasium.make_vec(env_id, num_envs=3)
    alone = [gymnasium.make(env_id) for _ in range(3)]
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, [one.reset(seed=3 + row)[0] for row, one in enumerate(alone)])
    rng, rewarded = np.random.default_rng(0), 0
    for _ in range((2 * turn + 1) * horizon):
        best, drawn = env.unwrapped.expert_action(), rng.integers(5, size=3)
        actions = np.where(rng.random(3) < 0.5, best, drawn)
        obs, reward, _, truncated, info = env.step(actions)
        rewarded += reward.sum()
        for row, one in enumerate(alone):
            assert one.unwrapped.expert_action() == best[row]
            found = one.step(int(actions[row]))
            assert (found[1], found[3]) == (reward[row], truncated[row])
            facts = info["final_info"] if truncated[row] else info
            assert found[4] == {name: facts[name][row] for name in found[4]}
            if truncated[row]:
                np.testing.assert_array_equal(found[0], info["final_obs"][row])
                found = (one.reset()[0],)
            np.testing.assert_array_equal(found[0], obs[row])
    assert rewarded > 3 * turn


def test_rows_may_be_in_different_rooms():
    rules = DarkroomTurns(size=3, turn=1)
    state = rules.start(np.zeros(2, np.int64))
    state = np.concatenate([state, rules.resume(state, state[:, 0])])
    task = np.full(4, rules.task_id(goals=((0, 1), (1, 0))))
    assert rules.observe(state).tolist() == [[1, 1, 0]] * 2 + [[1, 1, 1]] * 2
    assert rules.expert_action(state, task).tolist() == [1, 1, 3, 3]
    after, reward = rules.step(state, np.array([1, 3, 1, 3]), task)
    assert reward.tolist() == [1, 0, 0, 1]
    assert rules.success(after, task).tolist() == [True, False, False, True]


@ids
def test_the_expert_earns_the_best_return_of_each_room_and_on_average_the_optimum(env_id):
    horizon, turn = SHAPES[env_id][1:]
    task = some_tasks(env_id)
    env = gymnasium.make_vec(env_id, num_envs=len(task))
    _, info = env.reset(options={"task": task})
    earned = np.zeros((2 * turn, len(task)))
    for episode, _ in product(range(2 * turn), range(horizon)):
        earned[episode] += env.step(env.unwrapped.expert_action())[1]
    np.testing.assert_array_equal(earned, best_returns(env_id, task)[rooms(env_id, 2 * turn)])
    np.testing.assert_allclose(earned.mean(0), info["optimal_return"])
    assert (earned[0] != earned[turn]).mean() > 0.5


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_no_other_play_earns_more_than_the_optimum(horizon):
    """Exhaustive dynamic programming over the cells of both rooms."""
    rules = DarkroomTurns(size=3, horizon=horizon, turn=2)
    task = np.repeat(np.arange(81), 9)
    cell = np.tile(np.arange(9), 81)
    best = []
    for episode in (0, 2):  # in room 0 and in room 1
        state, value = np.stack([cell, np.full(len(cell), episode)], 1), np.zeros(len(cell))
        for _ in range(horizon):
            gains = []
            for action in range(5):
                after, reward = rules.step(state, np.full(len(state), action), task)
                gains.append(reward + value[9 * task + after[:, 0]])
            value = np.max(gains, 0)
        best.append(value[cell == 4])
    np.testing.assert_array_equal(rules.optimal_return(np.arange(81)), np.mean(best, 0))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"systematic": 1.0}], ids=str)
@ids
def test_what_posterior_sampling_found_in_a_room_pays_when_the_room_comes_back(env_id, settings):
    _, horizon, turn = SHAPES[env_id]
    task = some_tasks(env_id)
    obs, returns = lived(env_id, task, **settings)
    for room, best in enumerate(best_returns(env_id, task)):
        first, again = returns[:, room * turn], returns[:, (2 + room) * turn]
        assert first.mean() < 0.35 * best.mean()  # a search without knowledge
        assert again.mean() >= 0.97 * best.mean()
        assert (again <= best).all()
    if env_id == LARGE:  # the last 240 steps before the third turn do not show room 0
        assert (obs[:, : 2 * turn, :, 2].reshape(len(task), -1)[:, -240:] == 1).all()
        assert turn * horizon > 240


def test_posterior_sampling_that_slips_still_finds_both_goals():
    task = some_tasks(SMALL)
    _, returns = lived(SMALL, task, slips=0.5)
    best = best_returns(SMALL, task).mean(1)
    for room in range(2):
        assert returns[:, 4 * room].mean() < 0.35 * best[room]
        assert 0.6 * best[room] < returns[:, 4 * (2 + room)].mean() < 0.9 * best[room]


def test_a_belief_learns_of_the_present_room_only():
    rules = DarkroomTurns(size=3, turn=1)
    belief = rules.belief(2, np.random.default_rng(0))
    live, stay = np.ones(2, bool), np.full(2, 4)

    def visit(room, cells, reward):
        obs = np.array([[*divmod(cell, 3), room] for cell in cells])
        belief.begin(live, obs)
        belief.update(live, obs, stay, np.array(reward), obs)
        belief.update(live, obs, stay, np.array(reward), obs)  # nothing advances within an episode

    def possible():
        """Possible goals of each row in room 0 and in room 1, from all pairs."""
        pairs = np.array([belief.possible(np.full(2, task)) for task in range(81)]).T.reshape(2, 9, 9)
        return [[np.flatnonzero(row.any(axis)).tolist() for axis in (1, 0)] for row in pairs]

    every = list(range(9))
    visit(0, [4, 7], [0.0, 1.0])
    assert possible() == [[[0, 1, 2, 3, 5, 6, 7, 8], every], [[7], every]]
    visit(1, [4, 7], [1.0, 0.0])
    assert possible() == [[[0, 1, 2, 3, 5, 6, 7, 8], [4]], [[7], [0, 1, 2, 3, 4, 5, 6, 8]]]
    visit(0, [2, 7], [0.0, 1.0])
    assert possible() == [[[0, 1, 3, 5, 6, 7, 8], [4]], [[7], [0, 1, 2, 3, 4, 5, 6, 8]]]


@pytest.mark.slow
@pytest.mark.parametrize("moves", [0, 1])
def test_only_the_room_whose_goal_moved_is_searched_again(moves):
    """The goal of one room changes between the second and the third turn."""
    rng, turn = np.random.default_rng(0), 4
    goals = rng.permuted(np.tile(np.arange(25), (200, 1)), axis=1)[:, :3]  # (N, 3) different cells
    moved = goals[:, :2].copy()
    moved[:, moves] = goals[:, 2]
    first, then = (cells @ [25, 1] for cells in (goals[:, :2], moved))
    rows = make_changing_tasks(SMALL, first, then, np.full(200, 2 * turn))
    source = make_source("posterior", SMALL, {"changes": 0.5})
    returns = rollout(source, rows.env, 6 * turn, seed=0, options=rows.options)
    before, now = best_returns(SMALL, first), best_returns(SMALL, then)
    changed, settled = (returns[:, [turns * turn, (turns + 1) * turn]].mean(0) for turns in (2, 4))  # (2,) of each room
    stays = 1 - moves
    np.testing.assert_array_equal(before[stays], now[stays])
    assert changed[stays] == pytest.approx(now[stays].mean())
    assert changed[moves] < 0.35 * now[moves].mean()
    assert (settled > 0.97 * now.mean(1)).all()


def test_mixed_turns_have_the_tasks_and_optimum_of_even_ones():
    mixed, even = find_family(MIXED), find_family(LARGE)
    task = some_tasks(LARGE)
    assert [mixed.task_kwargs(one) for one in task] == [even.task_kwargs(one) for one in task]
    assert mixed.observation_space == even.observation_space
    assert mixed.lifetime == even.lifetime
    np.testing.assert_array_equal(mixed.optimal_return(task), even.optimal_return(task))
    for one, other in zip(FAMILIES[MIXED].split(), FAMILIES[LARGE].split(), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_mixed_turns_begin_in_room_0_and_are_as_long_as_their_weights_say():
    """Lengths 1 to 15 have weights log(1 + 1/n), and do not depend on those before them."""
    family = find_family(MIXED)
    steps = lifetimes(MIXED, make_source("posterior", MIXED, {}), np.zeros(400, np.int64), 100, 0)
    room = steps.obs.reshape(400, 100, 20, 3)[..., 2]
    assert (room == room[:, :, :1]).all()  # a room stays for an episode
    room = room[:, :, 0]
    assert not room[:, 0].any()
    changes = [np.flatnonzero(np.diff(row)) + 1 for row in room]
    first = np.array([row[0] for row in changes])
    later = np.concatenate([np.diff(row)[:5] for row in changes])  # those cut off by the end would be long ones
    assert (first.min(), first.max(), later.max()) == (1, family.turn, family.turn)
    share = np.log1p(1 / np.arange(1, 16)) / np.log(16)
    assert share.sum() == pytest.approx(1)
    for lengths in (first, later):
        found = np.bincount(lengths, minlength=16)[1:] / len(lengths)
        np.testing.assert_allclose(found, share, atol=4 * np.sqrt(share.max() / len(lengths)))


def test_a_seed_draws_the_mixed_turns():
    env = gymnasium.make(MIXED)

    def rooms_of(seed):
        return [int(env.reset(seed=seed)[0][2]), *(int(env.reset()[0][2]) for _ in range(40))]

    assert rooms_of(0) == rooms_of(0) != rooms_of(1)


@ids
def test_rendering_shows_the_present_room(env_id):
    size, _, turn = SHAPES[env_id]
    goals = (0, size - 1), (1, 0)
    text, frame = (gymnasium.make(env_id, goals=goals, render_mode=mode) for mode in ("ansi", "rgb_array"))
    floors = []
    for episode in range(turn + 1):
        room = episode // turn
        for env in (text, frame):
            env.reset()
            env.step(3)
        x0, x1 = size // 2, size // 2 - 1
        lines = text.render().splitlines()
        assert lines[size] == f"room {room}"
        letters = {(i, j): letter for i in range(size) for j, letter in enumerate(lines[i].split())}
        assert {cell: letter for cell, letter in letters.items() if letter != "."} == {goals[room]: "G", (x0, x1): "A"}
        picture = frame.render()
        assert picture.shape == (24 * size, 24 * size, 3)
        assert picture[24 * x0 + 12, 24 * x1 + 12].tolist() == [38, 84, 160]
        colours = {cell: picture[24 * cell[0] + 2, 24 * cell[1] + 2].tolist() for cell in letters}
        assert [cell for cell, colour in colours.items() if colour == [60, 170, 90]] == [goals[room]]
        floors.append(colours[goals[1 - room]])
    assert floors[0] == floors[turn - 1] != floors[turn]


def test_an_agent_on_the_goal_is_a_star():
    env = gymnasium.make(SMALL, goals=((2, 2), (0, 0)), render_mode="ansi")
    env.reset()
    assert env.render().splitlines()[2] == ". . * . ."


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"goals": (0, 1)}, ("goals[0]=0", "two integers from 0 to 4")),
        ({"goals": ((0, 1), (0, 5))}, ("goals[1]=(0, 5)", "two integers from 0 to 4")),
        ({"goals": ((0, 1),)}, ("goals=((0, 1),)", "a cell of each room, such as goals=((0, 0), (0, 1))")),
        ({"goals": 3}, ("goals=3", "a cell of each room")),
        ({"goal": (0, 1)}, ("unknown argument 'goal'", "'goals'")),
        ({"turn": 0}, ("turn=0", "from 1")),
        ({"turn": 2.5}, ("turn=2.5",)),
        ({"start": (0, 0)}, ("unknown argument 'start'",)),
        ({"size": 33}, ("size=33", "2 to 32")),
        ({"horizon": 0}, ("horizon=0",)),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line(kwargs, words):
    one_line(lambda: gymnasium.make(SMALL, **kwargs), ValueError, *words)
