"""Lifetimes whose task changes: the rows go on with another task, and posterior sampling searches again."""

from __future__ import annotations

import numpy as np
import pytest

from icrl_agents import HistoryStore, collect
from icrl_agents.core.changing import NEVER, draw_changes, make_changing_tasks
from icrl_agents.core.families import find_family
from icrl_agents.core.rollout import rollout
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes
from icrl_agents.training.windows import FreshWindows, WindowSpec

ROOM = "icrl/Darkroom-v0"
SEARCHES = {  # id -> episodes until the search is over
    ROOM: 8,
    "icrl/DarkKeyToDoor-v0": 8,
    "icrl/DarkroomPermuted-v0": 3,
    "icrl/PixelGridCells-v0": 12,
    "icrl/PointRobotSparse-v0": 8,
}


class Goer:
    """Acts as the expert of the tasks that it is told, whatever the environment's are."""

    def __init__(self, tasks):
        self.tasks = np.asarray(tasks)

    def reset(self, env, *, seed=None):
        self.env = env

    def act(self, obs):
        return self.env.unwrapped.expert_action(self.tasks)

    def observe(self, *outcome): ...


def test_rows_go_on_with_another_task_after_their_number_of_episodes():
    first, later, after = np.array([3, 7, 9]), np.array([60, 61, 62]), np.array([2, NEVER, 1])
    best = find_family(ROOM).optimal_return
    returns = {
        name: rollout(Goer(tasks), *episodes(make_changing_tasks(ROOM, first, later, after)))
        for name, tasks in (("first", first), ("later", later))
    }
    early = np.arange(4) < after[:, None]  # (B, episodes)
    np.testing.assert_array_equal(returns["first"][early], np.repeat(best(first), 4).reshape(3, 4)[early])
    np.testing.assert_array_equal(returns["later"][~early], np.repeat(best(later), 4).reshape(3, 4)[~early])
    assert (returns["first"][~early] < 17).all()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_histories_tell_where_the_task_is_another(share):
    source = make_source("posterior", ROOM, {"changes": share})
    steps = lifetimes(ROOM, source, np.arange(40), 6, seed=0)
    if not share:
        assert "task_changed" not in steps.extras
        return
    changed = steps.extras["task_changed"].reshape(40, 6, 20)
    assert (changed == changed[:, :, :1]).all()  # from one episode to the next
    assert not changed[:, 0].any()
    assert (np.diff(changed[:, :, 0].astype(int), axis=1) >= 0).all()  # and not back
    assert 0.2 < changed[:, -1, 0].mean() < 0.8
    x0, x1 = np.divmod(np.arange(40), 9)
    home = (steps.next_obs == np.stack([x0, x1], 1)[:, None]).all(-1).reshape(40, 6, 20)  # on the goal of the start
    paid = steps.reward.reshape(40, 6, 20) > 0
    assert (paid == home)[~changed].all()
    assert not (paid & home)[changed].any()


def episodes(rows, count: int = 4):
    """Arguments of `rollout` after the learner."""
    env = rows.env
    env.reset(seed=0, options=rows.options)
    return env, count


@pytest.mark.parametrize(("env_id", "enough"), SEARCHES.items())
def test_posterior_sampling_searches_again_once_its_task_has_changed(env_id, enough):
    family, rng = find_family(env_id), np.random.default_rng(0)
    first, later = rng.permutation(family.num_tasks)[:60], rng.permutation(family.num_tasks)[:60]
    source = make_source("posterior", env_id, {"changes": 0.5})
    rows = make_changing_tasks(env_id, first, later, np.full(60, enough))
    returns = rollout(source, rows.env, 3 * enough, seed=0, options=rows.options)
    before, now = (family.optimal_return(tasks).mean() for tasks in (first, later))
    assert returns[:, enough - 2 : enough].mean() > 0.9 * before
    assert returns[:, enough].mean() < 0.95 * now
    assert returns[:, -2:].mean() > 0.9 * now


def test_few_lifetimes_at_a_time_change_to_tasks_of_the_training():
    """A chunk of fresh lifetimes, small where observations are large, may have one task only."""
    spec = WindowSpec(window=30, batch_size=1, seed=0)
    windows = FreshWindows(ROOM, make_source("posterior", ROOM, {"changes": 1.0}), [3, 70], 2, spec, chunk=2)
    for update in range(20):
        assert windows.batch(update).mask.any()


def test_a_share_of_the_lifetimes_changes_to_a_task_of_the_others(tmp_path):
    tasks = [1, 5, 40, 77]
    path = collect(
        ROOM, "posterior", tmp_path / "h.h5", tasks=tasks, streams=40, episodes=10, settings={"changes": 0.5}
    )
    moved = []
    with HistoryStore(path) as store:
        assert store.info.settings["changes"] == 0.5
        for task in tasks:
            steps = store[task]
            cells = steps.next_obs @ [9, 1]
            paid = [set(cells[row][steps.reward[row] > 0].tolist()) for row in range(40)]
            assert set().union(*paid) <= set(tasks)
            moved.append(np.mean([len(one) > 1 for one in paid]))
            known = cells[:, -1] == np.where(steps.reward[:, -1] > 0, cells[:, -1], -1)
            np.testing.assert_array_equal(steps.extras["expert_action"][known, -1] == 4, steps.action[known, -1] == 4)
    assert 0.1 < np.mean(moved) < 0.35  # changes at the end, and to the same task, are not seen


def test_without_changes_nothing_is_different():
    plain, none = (
        lifetimes(ROOM, make_source("posterior", ROOM, s), np.arange(6), 3, 0) for s in ({}, {"changes": 0.0})
    )
    np.testing.assert_array_equal(plain.action, none.action)


@pytest.mark.parametrize(
    ("env_id", "tasks", "count", "why"),
    [
        (ROOM, [4, 4], 5, "1 tasks at a time"),
        ("icrl/BernoulliBandit-v0", [1, 2], 1, "lifetimes of 1 episodes"),
        ("icrl/DarkroomMacro-v0", [1, 2], 5, "tasks differ in their actions"),
    ],
)
def test_where_no_task_can_change_the_setting_is_refused(env_id, tasks, count, why):
    source = make_source("uniform", env_id, {"changes": 0.2})
    with pytest.raises(ValueError, match=f"{why}.*leave .*out"):
        lifetimes(env_id, source, np.asarray(tasks), count, 0)


def test_a_late_task_pays_nothing_at_first_and_is_searched_again():
    source = make_source("posterior", ROOM, {"late": 1.0, "systematic": 1.0})
    steps = lifetimes(ROOM, source, np.arange(81), 20, seed=0)
    assert not steps.extras["task_changed"].any()
    home = (steps.next_obs == np.stack(np.divmod(np.arange(81), 9), 1)[:, None]).all(-1).reshape(81, 20, 20)
    paid = steps.reward.reshape(81, 20, 20) > 0
    pays, missed = paid.any(2), (home & ~paid).any(2)  # (B, episodes)
    assert not (pays & missed).any()  # an episode pays for every visit, or for none
    assert not (missed & (pays.cumsum(1) > 0)).any()  # and once one has paid, all do
    assert missed.any(1).mean() > 0.5
    assert pays[:, -1].mean() > 0.5


def test_rows_are_late_or_change_but_not_both():
    rng = np.random.default_rng(0)
    drawn = draw_changes(np.arange(1000), 0.3, 9, rng, late=0.2)
    moves, silent = drawn["later"] != drawn["first"], drawn["silent"]
    assert 0.15 < silent.mean() < 0.25
    assert not (moves & silent).any()
    assert 0.25 < (moves & (drawn["after"] < NEVER)).mean() < 0.35
    before = draw_changes(np.arange(1000), 0.3, 9, np.random.default_rng(0))
    np.testing.assert_array_equal(before["after"] < NEVER, (drawn["after"] < NEVER) & ~silent)
    with pytest.raises(ValueError, match=r"changes=0.7 \+ late=0.4"):
        make_source("posterior", ROOM, {"changes": 0.7, "late": 0.4})


@pytest.mark.parametrize("pool", [None, np.array([1, 5, 7, 9])])
def test_a_change_is_one_to_another_task_and_all_others_are_as_likely(pool):
    tasks = np.repeat([1, 7, 9, 30][: 4 if pool is not None else 3], 2000)
    drawn = draw_changes(tasks, 1.0, 9, np.random.default_rng(0), pool)
    assert (drawn["later"] != tasks).all()
    for task in np.unique(tasks):
        others = np.setdiff1d(np.unique(tasks) if pool is None else pool, task)
        found, counts = np.unique(drawn["later"][tasks == task], return_counts=True)
        np.testing.assert_array_equal(found, others)
        assert abs(counts * len(others) / 2000 - 1).max() < 0.2


@pytest.mark.parametrize("setting", ["changes", "late"])
def test_one_learner_of_all_rows_keeps_its_task(tmp_path, setting):
    with pytest.raises(ValueError, match="'ppo' share one learner, whose task stays: leave changes and late out"):
        collect(ROOM, "ppo", tmp_path / "h.h5", tasks=[1, 2], streams=2, episodes=3, settings={setting: 0.5})
    assert not list(tmp_path.iterdir())


def test_a_block_of_one_task_changes_to_the_others_of_the_collection(tmp_path):
    how = {"tasks": [1, 40], "streams": 1100, "episodes": 4, "settings": {"changes": 1.0}}  # a block for each task
    with HistoryStore(collect("icrl/Darkroom-v0", "uniform", tmp_path / "h.h5", **how)) as store:
        paid = [set((steps.next_obs[steps.reward > 0] @ [9, 1]).tolist()) for steps in (store[1], store[40])]
    assert paid == [{1, 40}, {1, 40}]


def test_a_given_expert_and_one_task_are_refused_before_anything_is_written(tmp_path):
    for tasks, expert, why in (([1, 2], "numpy:sum", "given expert"), ([1], None, "1 tasks at a time")):
        how = {"tasks": tasks, "streams": 2, "episodes": 3, "settings": {"changes": 0.5}, "expert": expert}
        with pytest.raises(ValueError, match=why):
            collect(ROOM, "posterior", tmp_path / "h.h5", **how)
        assert not list(tmp_path.iterdir())
