"""Macro Darkroom: plain rules, published sets of tasks, action sets of many kinds, and the published learner."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES
from icrl_envs.grids.darkroom_macro import published_sets

from icrl_agents import evaluate
from icrl_agents.core.splits import split_tasks
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.collection import lifetimes

ENV = "icrl/DarkroomMacro-v0"
TASKS = FAMILIES[ENV]
RULES = TASKS.rules
MOVES = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]
MACROS = list(itertools.product(MOVES, repeat=3))
MOVED = {"wait": 0, "up": 31, "right": 62, "down": 93, "left": 124}  # macros of three equal moves
SETS = [
    f"{actions}_{goals}"
    for actions in ("train", "perm_train", "cut_test", "test", "all")
    for goals in ("train", "test")
]


def played(action, goal, action_set, pos):
    """One step in plain Python: where it ends, and whether it found the goal."""
    found = False
    for move in MACROS[action_set[action]] if action < len(action_set) else []:
        pos = tuple(min(max(x + d, 0), 8) for x, d in zip(pos, move, strict=True))
        found = found or pos == goal
    return pos, found


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_dynamics_equal_a_plain_reference(name):
    rng = np.random.default_rng(0)
    rewards = 0
    for kwargs in TASKS.named(name)[:12]:
        env = gymnasium.make(ENV, **kwargs)
        for _ in range(5):
            pos = tuple(env.reset()[0].tolist())
            assert pos == (4, 4)
            for step in range(20):
                action = int(rng.integers(125 if rng.random() < 0.2 else len(kwargs["action_set"])))
                pos, found = played(action, **kwargs, pos=pos)
                obs, reward, terminated, truncated, info = env.step(action)
                assert tuple(obs.tolist()) == pos
                assert (reward, terminated, truncated, info["success"]) == (found, found, step == 19, found)
                rewards += found
                if found:
                    break
    assert rewards > 5


def test_a_goal_is_found_on_the_way_and_once():
    env = gymnasium.make(ENV, goal=(2, 4), action_set=(MOVED["up"], MOVED["left"]))
    env.reset()
    obs, reward, terminated, _, _ = env.step(0)
    assert (obs.tolist(), reward, terminated) == ([1, 4], 1.0, True)  # all three moves are made
    rules = type(RULES)()
    task = np.array([rules.task_id(goal=(4, 3), action_set=(MOVED["left"], MOVED["right"]))])
    state, rewards = rules.start(task), []
    for action in (0, 1, 0):  # over the goal, back, and over it again
        state, reward = rules.step(state, np.array([action]), task)
        rewards.append(reward[0])
        assert rules.terminated(state, task).all()
    assert rewards == [1, 0, 0]


def test_illegal_actions_do_nothing_even_on_the_goal():
    env = gymnasium.make(ENV, goal=(4, 4), action_set=(MOVED["up"], MOVED["wait"]))
    _, info = env.reset()
    assert info.keys() == {"task", "success", "optimal_return", "action_mask"}
    assert info["action_mask"].dtype == np.int8
    assert info["action_mask"].tolist() == env.unwrapped.action_mask().tolist() == [1, 1] + [0] * 123
    for action in (2, 77, 124):
        obs, reward, terminated, _, info = env.step(action)
        assert (obs.tolist(), reward, terminated, info["success"]) == ([4, 4], 0.0, False, False)
    assert env.step(1)[1:3] == (1.0, True)


def test_published_sets():
    train = published_sets()["train_train"]
    seen = train[0][1]
    goals = {"train": [goal for goal, _ in train], "test": [goal for goal, _ in published_sets()["train_test"]]}
    assert sorted(goals["train"] + goals["test"]) == list(range(81))
    assert len(goals["train"]) == 68
    everything = TASKS.named("all_test")[0]["action_set"]
    assert sorted(everything) == list(range(125))
    orders = {"train": seen, "cut_test": everything[50:100], "test": everything[50:], "all": seen + everything[50:]}
    assert set(RULES.named) == {"train", *SETS}
    assert RULES.named["train"] == RULES.named["train_train"] == range(68)
    for name in SETS:
        actions, part = name.rsplit("_", 1)
        tasks = TASKS.named(name)
        if actions == "perm_train":
            sets = [task["action_set"] for task in tasks]
            assert len({*sets, seen}) == len(tasks) + 1 >= 101
            assert {frozenset(order) for order in sets} == {frozenset(seen)}
            assert sorted(RULES.table.goal[tasks.ids]) == sorted(goals[part] * (len(tasks) // len(goals[part])))
        else:
            assert {task["action_set"] for task in tasks} == {orders[actions]}
            assert RULES.table.goal[tasks.ids].tolist() == goals[part]
    assert sum(len(TASKS.named(name)) for name in SETS) == len(TASKS) == 564


def test_all_but_the_training_set_is_held_out():
    splits = split_tasks(ENV)
    assert sorted([*splits.train.ids, *splits.validation.ids]) == TASKS.named("train").ids.tolist()
    assert splits.test.ids.tolist() == list(range(68, 564))
    assert splits.pick("perm_train_test").ids.tolist() == TASKS.named("perm_train_test").ids.tolist()


def test_one_order_for_all_tasks_is_outside_the_split():
    sets = {name: TASKS.named(name) for name in RULES.extra}
    assert [*sets] == ["one_perm_train_train", "one_perm_train_test"]
    assert [id for tasks in sets.values() for id in tasks.ids] == list(range(564, RULES.set_tasks))
    (order,) = {task["action_set"] for tasks in sets.values() for task in tasks}
    seen = published_sets()["train_train"][0][1]
    assert sorted(order) == sorted(seen)
    assert order != seen
    for part, tasks in zip(("train", "test"), sets.values(), strict=True):
        assert [task["goal"] for task in tasks] == [task["goal"] for task in TASKS.named(f"train_{part}")]


def test_what_is_trained_on_is_not_held_out():
    splits = split_tasks(ENV, task_set="all_train")
    own = TASKS.named("all_train").ids
    assert sorted([*splits.train.ids, *splits.validation.ids]) == own.tolist()
    assert splits.test.ids.tolist() == TASKS.named("all_test").ids.tolist()
    orders = split_tasks(ENV, task_set="perm_train_train")  # each goal twice
    goals = [{task["goal"] for task in part} for part in (orders.train, orders.validation)]
    assert not goals[0] & goals[1]
    assert (len(orders.train), len(orders.validation)) == (136 - 2 * 14, 14)
    assert not set(orders.test.ids) & set(TASKS.named("perm_train_train").ids)


def test_tasks_are_the_same_for_ever():
    pinned = [((3, 1), (84, 52, 67, 79, 77)), ((2, 4), (117, 105, 25, 7, 24))]
    assert [(task["goal"], task["action_set"][:5]) for task in (TASKS[0], TASKS[563])] == pinned


def test_tasks_given_by_hand():
    env = gymnasium.make_vec(ENV, 3)
    known, other = TASKS[100], {"goal": (0, 0), "action_set": (MOVED["left"], MOVED["up"])}
    swapped = {"goal": (0, 0), "action_set": [MOVED["up"], MOVED["left"]]}
    for _ in range(2):  # given again they are the same tasks
        _, info = env.reset(options={"task": [other, known, swapped]})
        assert info["task"].tolist() == [RULES.set_tasks, 100, RULES.set_tasks + 1]
        assert info["action_mask"].sum(1).tolist() == [2, len(known["action_set"]), 2]
    env.reset(options={"task": info["task"]})  # what infos tell can be given back
    assert env.step([0, 0, 0])[0][[0, 2]].tolist() == [[4, 1], [1, 4]]
    assert RULES.task_id(goal=TASKS[5]["goal"]) == 5  # a goal alone goes with the training macros
    assert gymnasium.make(ENV, goal=TASKS[70]["goal"]).reset()[1]["task"] == 70


def test_a_goal_out_of_reach_promises_nothing():
    for goal, want in [((4, 0), 1.0), ((4, 5), 0.0)]:
        _, info = gymnasium.make(ENV, goal=goal, action_set=(MOVED["left"],)).reset()
        assert info["optimal_return"] == want
    task = np.arange(564)
    assert type(RULES)(horizon=1).optimal_return(task).mean() < 1 == RULES.optimal_return(task).min()


def test_the_expert_takes_a_shortest_way():
    task = np.arange(len(TASKS))
    state, steps = RULES.start(task), np.zeros(len(task))
    while (playing := ~RULES.terminated(state, task)).any():
        assert RULES.action_mask(task)[task, RULES.expert_action(state, task)].all()
        state = np.where(playing, RULES.step(state, RULES.expert_action(state, task), task)[0], state)
        steps += playing
    np.testing.assert_array_equal(steps, RULES.table.steps[task])
    assert steps.max() <= RULES.horizon
    for index in range(0, len(task), 40):  # breadth first, from the start
        kwargs, reached, depth, found = TASKS[index], {(4, 4)}, 0, False
        while not found:
            ends = [played(action, **kwargs, pos=pos) for pos in reached for action in range(len(kwargs["action_set"]))]
            reached, found, depth = {pos for pos, _ in ends}, any(hit for _, hit in ends), depth + 1
        assert depth == steps[index]


@pytest.mark.slow
def test_random_return_is_what_is_expected():
    task = np.repeat([0, 70, 100, 300, 500], 2000)
    steps = lifetimes(ENV, make_source("uniform", ENV), task, 1, 0)
    expected = RULES.random_return(task)[::2000]
    np.testing.assert_allclose((steps.reward * steps.mask).sum(1).reshape(5, -1).mean(1), expected, atol=0.04)
    assert len(set(expected)) == 5
    assert 0.2 < RULES.random_return(TASKS.ids).mean() < 0.34


BAD = {
    "a macro twice": ({"goal": (1, 1), "action_set": (3, 3)}, r"action_set=\(3, 3\): give different macros"),
    "a macro outside": ({"goal": (1, 1), "action_set": (3, 125)}, "integers from 0 to 124, such as action_set="),
    "a macro below": ({"goal": (1, 1), "action_set": (-1, 3)}, "integers from 0 to 124"),
    "no macros": ({"goal": (1, 1), "action_set": ()}, r"action_set=\(\): give"),
    "no set": ({"goal": (1, 1), "action_set": 3}, "action_set=3: give"),
    "a table": ({"goal": (1, 1), "action_set": [[1, 2], [3, 4]]}, "give different macros"),
    "a ragged set": ({"goal": (1, 1), "action_set": [[1], 2]}, "give different macros"),
    "floats": ({"goal": (1, 1), "action_set": (1.0, 2.0)}, "give different macros"),
    "a str": ({"goal": (1, 1), "action_set": "train"}, "action_set='train': give"),
    "the set alone": ({"action_set": (1, 2)}, "give goal and action_set"),
    "goal": ({"goal": (9, 1)}, r"goal=\(9, 1\): give two integers from 0 to 8"),
    "misspelt": ({"goal": (1, 1), "actions": (1, 2)}, "unknown argument 'actions'.*did you mean 'action_set'"),
    "size": ({"size": 5}, "unknown argument 'size'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name):
    kwargs, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        gymnasium.make(ENV, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_drawings(render_mode):
    env = gymnasium.make(ENV, render_mode=render_mode, goal=(2, 4), action_set=(MOVED["up"],))
    env.reset()
    before = env.render()
    env.step(0)
    after = env.render()
    if render_mode == "ansi":
        assert [before.splitlines()[row] for row in (2, 4, 9)] == [
            ". . . . G . . . .",
            ". . . . A . . . .",
            "goal hidden",
        ]
        assert [after.splitlines()[row] for row in (1, 2, 9)] == [
            ". . . . A . . . .",
            ". . . . G . . . .",
            "goal passed",
        ]
    else:
        changed = np.argwhere((before != after).any(-1)) // 24
        assert {tuple(cell) for cell in changed.tolist()} == {(4, 4), (1, 4)}


GOLDEN = {  # success in the last of 200 episodes, by an independent implementation with other goals and macros
    "train_test": 0.98,
    "perm_train_train": 0.98,
    "cut_test_test": 1.0,
    "all_test": 0.92,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_published_success_of_q_learning(name):
    assert default_source(ENV) == "q-learning"
    task = np.resize(TASKS.named(name).ids, 104)
    steps = lifetimes(ENV, make_source("q-learning", ENV), task, 200, 0)
    episode = np.cumsum(steps.first, 1)
    last = (steps.reward * (episode > 190) * steps.mask).sum(1) / 10  # of ten, for less noise
    assert last.mean() == pytest.approx(GOLDEN[name], abs=0.05)  # goals and macros differ
    assert last.mean() > 0.9
    assert (steps.action < RULES.table.actions[task, None]).all()
    first = (steps.reward * (episode <= 5)).sum(1).mean() / 5
    assert first < 0.45  # random at first


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["native", "sync"])
def test_q_learning_keeps_to_the_action_set(mode):
    kwargs = {} if mode == "native" else {"vectorization_mode": "sync"}
    env = RecordHistory(gymnasium.make_vec(ENV, 4, **kwargs))
    make_source("q-learning", ENV, {"decay": 1.0}).run(env, 30, 0, {"task": {"goal": (0, 8), "action_set": (5, 60, 9)}})
    steps = env.steps(30)
    assert np.unique(steps.action[steps.mask]).tolist() == [0, 1, 2]
    first = np.cumsum(steps.first, 1) == 1
    np.testing.assert_allclose(np.exp(steps.extras["log_prob"][first]), 1 / 3, rtol=1e-6)


def test_a_curve_of_a_named_set():
    curve = evaluate(make_source("uniform", ENV), ENV, "perm_train_test", episodes=3)
    assert curve.returns.shape == (104, 3)
    assert curve.optimal.mean() == 1
    assert curve.returns.mean() == pytest.approx(curve.random.mean(), abs=0.1)
