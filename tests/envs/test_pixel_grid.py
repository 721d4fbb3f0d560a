"""Pixel grid: what images show, what they do not, and how much a learner can get."""

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES, find_family
from icrl_envs.grids.grid import AGENT, GOAL

from icrl_agents.core.splits import split_tasks
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.collection import lifetimes
from tests.conftest import one_line

HIDDEN, CELLS, SHOWN, CROSSES = (f"icrl/PixelGrid{name}-v0" for name in ("", "Cells", "Goal", "Distractors"))
ALL = (HIDDEN, CELLS, SHOWN, CROSSES)


def run(env_id, steps=40, seed=0, rows=16, **kwargs):
    """Observations and infos of random actions; the infos of steps that end an episode are those of the next one."""
    env, rng = gymnasium.make_vec(env_id, num_envs=rows, **kwargs), np.random.default_rng(0)
    found = [env.reset(seed=seed)]
    for _ in range(steps):
        obs, _, _, _, info = env.step(rng.integers(5, size=rows))
        found.append((obs, info))
    return found


def places(obs, colour):
    """Cells (rows, columns) of an image whose middle has a colour."""
    return [tuple(cell) for cell in np.argwhere((obs[2::4, 2::4] == colour).all(-1)).tolist()]


@pytest.mark.parametrize("env_id", ALL)
def test_the_image_shows_the_agent_where_the_cells_say_it_is(env_id):
    pixels, cells = run(env_id, obs="pixels"), run(env_id, obs="cells")
    for (image, info), (numbers, _) in zip(pixels, cells, strict=True):
        for row in range(16):
            assert places(image[row], AGENT) == [tuple(numbers[row, :2].tolist())]
            goal = divmod(int(find_family(env_id).goals[info["task"][row]]), 8)
            shown = places(image[row], GOAL)
            if env_id in (HIDDEN, CELLS):
                assert shown == []
                assert numbers.shape == (16, 2)
            else:
                assert numbers[row, 2:].tolist() == [*goal]
                assert shown == ([] if (*numbers[row, :2],) == goal else [goal])  # the agent covers it


def test_an_image_tells_nothing_about_a_hidden_goal():
    """All looks occur with all goals, and levels of one look and start look the same."""
    family = find_family(HIDDEN)
    task = np.arange(family.num_tasks)
    state = family.start(task)
    state[:, 0] = 0  # the same cell
    images = family.observe(state)
    assert len(np.unique(images, axis=0)) == 6
    for look in range(6):
        assert len(set(family.goals[family.looks == look])) > 55  # of 64
    counts = np.bincount(family.goals)
    assert (counts.min(), counts.max()) == (15, 16)


def test_distractors_move_at_random_and_change_nothing():
    with_some, without = run(CROSSES, steps=19), run(SHOWN, steps=19)  # the first episode: others start elsewhere
    goes_on, seen = np.ones(16, bool), []
    for (image, info), (plain, other) in zip(with_some, without, strict=True):
        differs = (image != plain).reshape(16, 8, 4, 8, 4, 3).any((2, 4, 5))  # (B, 8, 8) cells
        goes_on &= ~info.get("_final_obs", np.zeros(16, bool))
        assert np.array_equal(goes_on, goes_on & ~other.get("_final_obs", np.zeros(16, bool)))
        for row in np.flatnonzero(goes_on):
            assert places(image[row], AGENT) == places(plain[row], AGENT)
            assert 1 <= differs[row].sum() <= 4
        seen.append(differs[goes_on].sum(0) > 0)
    moved = [one != other for one, other in zip(seen[1:], seen[:-1], strict=True)]
    assert np.mean([change.any() for change in moved]) > 0.95
    assert np.any(seen, 0).mean() > 0.9  # all over the room
    with_some, again = run(CROSSES), run(CROSSES)
    assert all(np.array_equal(one[0], two[0]) for one, two in zip(with_some, again, strict=True))


def test_every_episode_starts_elsewhere_and_ends_at_the_goal():
    env = gymnasium.make_vec(CELLS, num_envs=64, autoreset_mode="SameStep")
    env.reset(seed=0, options={"task": np.full(64, 7)})
    goal, starts = find_family(CELLS).goals[7], []
    for _ in range(60):
        obs, reward, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        assert np.array_equal(reward, terminated.astype(float))
        assert not truncated.any()
        starts += [tuple(one) for one in obs[terminated].tolist()]
        for final in info.get("final_obs", np.array([]))[terminated]:
            assert final[0] * 8 + final[1] == goal
    assert len(set(starts)) == 63  # every cell but the goal
    assert divmod(int(goal), 8) not in starts


@pytest.mark.parametrize(("horizon", "best"), [(20, 1.0), (1, 4 / 63), (2, 12 / 63)])
def test_best_return_is_the_share_of_starts_from_which_the_goal_is_near(horizon, best):
    family = find_family(HIDDEN)
    rules = type(family)(horizon=horizon)
    middle = int(np.flatnonzero(rules.goals == 8 * 4 + 4)[0])
    assert rules.optimal_return(np.array([middle]))[0] == pytest.approx(best)


@pytest.mark.parametrize("size", [2, 8, 31])
def test_every_cell_is_the_goal_of_a_level_that_a_belief_can_sample(size):
    rules = type(find_family(HIDDEN))(size=size)
    assert set(rules.goals) == set(range(size**2))
    belief = rules.belief(64, np.random.default_rng(0), 0.0)
    belief.begin(np.ones(64, bool), rules.observe(rules.start(np.zeros(64, np.int64))))
    drawn = belief.sample(np.arange(64), 1000)
    assert belief.possible(drawn).all()
    belief.mask[:] = False
    belief.mask[:, 0, size**2 - 1] = True  # only the last cell is left
    assert (rules.goals[belief.sample(np.arange(64), 1000)] == size**2 - 1).all()


def test_posterior_sampling_finds_every_goal():
    _, test = FAMILIES[HIDDEN].split()
    for env_id in (HIDDEN, CELLS):
        steps = lifetimes(env_id, make_source("posterior", env_id), test.ids[:50], 12, 0)
        reached = np.array([steps.reward[row, steps.terminated[row] & steps.mask[row]].sum() for row in range(50)])
        assert (reached >= 7).all()


def test_sources_fit_what_is_shown():
    assert [default_source(env_id) for env_id in ALL] == ["posterior", "posterior", "noise", "noise"]
    assert len(split_tasks(HIDDEN).test.ids) == 100


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"level": 1000}, ("level=1000", "0 to 999")),
        ({"level": "a"}, ("level='a'",)),
        ({"distractors": 9}, ("distractors=9", "0 to 8")),
        ({"obs": "image"}, ("obs='image'", "pixels, cells")),
        ({"show_goal": "yes"}, ("show_goal='yes'", "False, True")),
        ({"size": 1}, ("size=1", "2 to 31")),
        ({"size": 32}, ("size=32", "2 to 31")),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line(kwargs, words):
    one_line(lambda: gymnasium.make(HIDDEN, **kwargs), ValueError, *words)
