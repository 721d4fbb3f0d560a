"""Wrong-goal behaviour: whose experts act, for how long, and how seldom the right one."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv
from icrl_envs import Capability, GymFamily, register_family, unregister_family

from icrl_agents import HistoryStore, collect
from icrl_agents.core import splits
from icrl_agents.core.families import find_family
from icrl_agents.core.splits import split_tasks, training_tasks
from icrl_agents.histories.experts import find_task_experts
from icrl_agents.sources import collection, make_source
from icrl_agents.sources.collection import lifetimes
from icrl_agents.sources.experts import as_expert
from icrl_agents.training.windows import FreshWindows, WindowSpec
from tests.conftest import one_line
from tests.sources import reach

POINT, ROOM, ARMS = "icrl/PointRobot-v0", "icrl/Darkroom-v0", "icrl/DarkroomMacro-v0"
BANDIT = "icrl/BernoulliBandit-v0"
PURE = {"noise": 0.0, "drift": 0.0}


def live(env_id=POINT, tasks=400, episodes=4, expert=None, hypotheses=None, **settings):
    source = make_source("wrong-goal", env_id, settings)
    source.expert = None if expert is None else as_expert(expert)
    source.hypotheses = source.hypotheses if hypotheses is None else np.asarray(hypotheses)
    ids = split_tasks(env_id).train.ids[:tasks] if isinstance(tasks, int) else np.asarray(tasks)
    return lifetimes(env_id, source, ids, episodes, 0)


def toward(env_id, steps, task):
    """Actions (B, T, ...) of the expert of one task in the recorded grid or point states."""
    rules = find_family(env_id).rules
    flat = steps.obs.reshape(-1, steps.obs.shape[-1])
    state = flat.astype(float) if env_id == POINT else rules.cell_at(flat)
    return rules.expert_action(state, np.full(len(flat), task)).reshape(steps.action.shape)


@pytest.mark.parametrize(("env_id", "task"), [(POINT, 17), (ROOM, 30)])
def test_it_acts_as_the_expert_of_its_guess_and_labels_are_those_of_the_right_task(env_id, task):
    steps = live(env_id, 50, hypotheses=[task], right=0.0, right_end=0.0, **PURE)
    np.testing.assert_allclose(steps.action, toward(env_id, steps, task), atol=1e-6)
    own = split_tasks(env_id).train.ids[:50]
    for row in (0, 7, 49):
        expected = toward(env_id, steps.rows(slice(row, row + 1)), own[row])
        np.testing.assert_allclose(steps.extras["expert_action"][row, None], expected, atol=1e-6)


def test_right_guesses_grow_with_the_lifetime():
    goals = find_family(POINT).rules.goals
    far = [task for task in split_tasks(POINT).train.ids if np.abs(goals[task]).sum() > 0.5]
    centre = [np.abs(goals).sum(1).argmin()]  # the wrong guess, which asks for another move than a goal far away
    steps = live(POINT, far[:1000], 5, hypotheses=centre, hold=1.0, right=0.1, right_end=0.5, **PURE)
    right = (steps.action == steps.extras["expert_action"]).all(-1).reshape(len(steps.action), 5, -1).mean((0, 2))
    np.testing.assert_allclose(right, [0.1, 0.2, 0.3, 0.4, 0.5], atol=0.02)
    all_right = live(ROOM, 20, right=1.0, right_end=1.0, **PURE)
    np.testing.assert_array_equal(all_right.action, all_right.extras["expert_action"])


@pytest.mark.parametrize("hold", [1.0, 4.0, 16.0])
def test_guesses_are_held_for_a_geometric_number_of_steps(hold):
    goals = find_family(POINT).rules.goals
    west, east = (np.abs(goals - goal).sum(1).argmin() for goal in ((-1, 0), (1, 0)))
    steps = live(POINT, 400, 4, hypotheses=[west, east], hold=hold, right_end=0.0, **PURE)
    is_west, is_east = (np.isclose(steps.action, toward(POINT, steps, to), atol=1e-5).all(-1) for to in (west, east))
    assert (is_west ^ is_east).all()
    switched = is_west[:, 1:] != is_west[:, :-1]
    assert switched.mean() == pytest.approx(0.5 / hold, rel=0.1)  # half of the guesses are the same as before


def test_it_drifts_and_is_noisy_as_its_settings_say():
    drifting = live(POINT, 400, drift=1.0, scale=0.2, right_end=0.0)
    assert drifting.action.std() == pytest.approx(0.2, rel=0.1)
    random = live(ROOM, 60, drift=1.0)
    np.testing.assert_allclose(np.bincount(random.action.ravel()) / random.action.size, 0.2, atol=0.03)
    quarter = live(ROOM, 60, hypotheses=[0], drift=0.0, noise=0.25, right_end=0.0)
    assert (quarter.action == toward(ROOM, quarter, 0)).mean() == pytest.approx(0.8, abs=0.03)


def test_actions_are_legal_in_the_task_of_the_row():
    family = find_family(BANDIT)
    few, many = (family.tasks.named(name).ids[:20] for name in ("num_10", "num_50"))
    steps = live(BANDIT, few, 1, hypotheses=many, drift=0.0, noise=0.0)
    assert (find_family(BANDIT).rules.expert_action(np.zeros(20, int), many) >= 10).any()  # an arm that `few` lack
    assert np.take_along_axis(family.action_mask(few).astype(bool), steps.action, 1).all()


def test_guesses_come_from_training_tasks_of_the_set_that_is_collected():
    for env_id in (POINT, ROOM):
        parts = split_tasks(env_id)
        assert make_source("wrong-goal", env_id).hypotheses.tolist() == parts.train.ids.tolist()
        for some in parts:
            assert training_tasks(env_id, some.ids[:3]).tolist() == parts.train.ids.tolist()
    cut = split_tasks(ARMS, task_set="cut_test_train")
    for some in (cut.train, cut.validation):
        assert training_tasks(ARMS, some.ids[:3]).tolist() == cut.train.ids.tolist()


def test_of_nested_sets_the_smallest_is_meant(monkeypatch):
    sets = {"train": [0, 1, 2], "large": [*range(10, 30)], "small": [*range(10, 20)]}
    part = {name: SimpleNamespace(ids=np.array(ids)) for name, ids in sets.items()}
    monkeypatch.setattr(splits, "find_family", lambda env_id: SimpleNamespace(training=("large", "small")))
    none = SimpleNamespace(ids=np.array([], int))
    split = lambda env_id, task_set: SimpleNamespace(train=part[task_set], validation=none)  # noqa: E731
    monkeypatch.setattr(splits, "split_tasks", split)
    for tasks, name in (([12], "small"), ([12, 25], "large"), ([1], "train"), ([99], "train")):
        assert training_tasks("test/Nested-v0", tasks).tolist() == sets[name]


def test_a_training_guesses_its_own_training_tasks():
    mine = split_tasks(ROOM, seed=3).train.ids  # of another split
    source = make_source("wrong-goal", ROOM, {**PURE, "hold": 1e6})
    windows = FreshWindows(ROOM, source, mine[:1], 1, WindowSpec(20, 8, 0))
    steps = windows.batch(0)
    np.testing.assert_array_equal(steps.action, toward(ROOM, steps, mine[0]))
    np.testing.assert_array_equal(steps.action, steps.extras["expert_action"])


def half_speed(obs, tasks):
    goals = np.array([[task["x"], task["y"]] for task in tasks])
    return np.clip(5 * (goals - obs), [-2, -1], [1, 2])


def test_a_given_expert_must_read_tasks():
    with reach.registered():
        steps = live(reach.REACH, [0, 1, 2], 1, half_speed, [5], right_end=0.0, **PURE)
        goal = [find_family(reach.REACH).task_kwargs(5)]
        np.testing.assert_allclose(steps.action, [half_speed(obs, goal * 20) for obs in steps.obs], atol=1e-6)
        one_line(lambda: live(reach.REACH, 3, expert=lambda obs: obs), ValueError, "experts of all tasks", "noise")
        one_line(lambda: live(reach.REACH, 3), ValueError, "TASK_EXPERTS")  # its rows take no task


class Informed(reach.Reach):
    """Its expert knows the way to other goals."""

    def expert_action(self, task=None):
        goal = self.goal if task is None else np.array([*reach.GOALS[task].values()])
        return np.clip(10 * (goal - self.place), self.action_space.low, self.action_space.high)


class InformedFamily(GymFamily):
    capabilities = frozenset({Capability.EXPERT, Capability.TASK_EXPERTS})


def test_rows_of_gymnasium_declare_that_they_take_tasks():
    gymnasium.register("test/Informed-v0", Informed, max_episode_steps=20)
    try:
        register_family(InformedFamily("test/Informed-v0", reach.GOALS, lifetime=4, split=(0.8, 0)))
        steps = live("test/Informed-v0", [0, 1, 2], 1, hypotheses=[5], right_end=0.0, **PURE)
        np.testing.assert_allclose(steps.next_obs[:, -1], [list(reach.GOALS[5].values())] * 3, atol=1e-5)
        rows = AsyncVectorEnv([lambda: gymnasium.make("test/Informed-v0", x=0.0, y=1.0)])
        assert find_task_experts(rows) is None  # rows in other processes cannot be asked one by one
        rows.close()
    finally:
        unregister_family("test/Informed-v0")
        del gymnasium.registry["test/Informed-v0"]


def test_a_collection_guesses_what_its_tasks_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "training_tasks", lambda env_id, tasks: np.array([tasks[0] + 10]))
    path = collect(
        ROOM, "wrong-goal", tmp_path / "h.h5", tasks=[7], streams=2, episodes=2, settings={**PURE, "right_end": 0}
    )
    with HistoryStore(path) as store:
        np.testing.assert_array_equal(store[7, :].action, toward(ROOM, store[7, :], 17))
