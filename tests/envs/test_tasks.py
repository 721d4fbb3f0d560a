"""Task sets: published splits to the letter, ids and make() arguments as inverses, clear errors."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES, Rules

from tests.conftest import one_line
from tests.envs.families import METAWORLD, NATIVE, PROCGEN

ids = pytest.mark.parametrize("env_id", NATIVE)


def optima(tasks):
    return tasks.rules.optimal_return(tasks.ids).mean()


def test_published_darkroom_split():
    tasks = FAMILIES["icrl/Darkroom-v0"]
    train, test = tasks.split()
    goals = [(4, 2), (5, 6), (6, 8), (7, 2), (3, 6), (0, 5), (5, 8), (5, 4)]
    assert [task["goal"] for task in test] == goals
    assert (len(train), len(test), optima(test)) == (73, 8, 17.25)
    assert round(optima(tasks), 2) == 16.54


def test_published_permuted_split():
    train, test = FAMILIES["icrl/DarkroomPermuted-v0"].split()
    assert test.ids.tolist() == [70, 51, 2, 8, 11, 19, 61, 50, 92, 13, 38, 30]
    assert (len(train), optima(train)) == (108, 35)


def test_published_key_to_door_split():
    train, test = FAMILIES["icrl/DarkKeyToDoor-v0"].split()
    first = [(*task["key"], *task["door"]) for task in test[:4]]
    assert first == [(4, 6, 0, 4), (4, 7, 7, 8), (5, 6, 7, 4), (4, 1, 0, 0)]
    assert (len(train), len(test), optima(test)) == (6233, 328, 2)


def test_published_split_of_the_10x10_room():
    goals = np.array([(i, j) for i in range(10) for j in range(10)])
    np.random.RandomState(0).shuffle(goals)
    train, test = FAMILIES["icrl/Darkroom10x10-v0"].split()
    assert [task["goal"] for task in train] == [tuple(goal) for goal in goals[:80]]
    assert [task["goal"] for task in test] == [tuple(goal) for goal in goals[80:]]


@pytest.mark.slow
@ids
def test_splits_are_disjoint_complete_and_reproducible(env_id):
    tasks = FAMILIES[env_id]
    for fraction, seed in [(None, None), (0.5, 3), (0.5, 4)]:
        train, test = tasks.split(fraction, seed)
        assert sorted([*train.ids, *test.ids]) == tasks.ids.tolist()
        assert train.ids.tolist() == tasks.split(fraction, seed)[0].ids.tolist()
    assert tasks.split(0.5, 3)[0].ids.tolist() != tasks.split(0.5, 4)[0].ids.tolist()
    train, valid = tasks.split()[0].split(0.75, 1)
    assert len(valid) == len(tasks.split()[0]) - round(0.75 * len(tasks.split()[0]))
    assert not {*valid.ids} & {*train.ids, *tasks.split()[1].ids}


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [env_id for env_id in FAMILIES if isinstance(FAMILIES[env_id].family, Rules)])
def test_arguments_and_ids_are_inverses(env_id):
    tasks = FAMILIES[env_id]
    assert len(tasks) == tasks.rules.num_tasks == len({str(task) for task in tasks})
    for index in range(0, len(tasks), max(1, len(tasks) // 50)):
        assert tasks.rules.task_id(**tasks[index]) == tasks.ids[index] == index
    env = gymnasium.make(env_id, **tasks[-1])
    assert env.reset(seed=0)[1]["task"] == tasks.ids[-1]


def test_a_set_is_a_sequence_that_cannot_be_changed():
    tasks = FAMILIES["icrl/Darkroom-v0"]
    assert list(tasks[2:4]) == [tasks[2], tasks[3]] == [{"goal": (0, 2)}, {"goal": (0, 3)}]
    assert repr(tasks[2:4]) == "TaskSet('icrl/Darkroom-v0', 2 of 81 tasks)"
    with pytest.raises(IndexError):
        tasks[81]
    with pytest.raises(ValueError, match="read-only"):
        tasks.ids[0] = 5


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1, 0.001, float("nan"), float("inf")])
def test_an_empty_part_is_an_error(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction} of 81 tasks") as error:
        FAMILIES["icrl/Darkroom-v0"].split(fraction)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("env_id", "share"), [(METAWORLD[0], 0.5), (PROCGEN[0], 2 / 3)])
def test_no_fraction_takes_declared_test_tasks_for_training(env_id, share):
    tasks = FAMILIES[env_id]
    declared = set(tasks.split()[1].ids)
    for fraction in (share, 0.3):
        train, test = tasks.split(fraction)
        assert len(train) == round(fraction * len(tasks))
        assert declared <= {*test.ids}
        assert not declared & {*train.ids}
        assert [len(part) for part in test.among(np.isin(test.ids, [*declared])).split(0.5)] == [len(declared) / 2] * 2
    one_line(lambda: tasks.split(0.9), ValueError, "fraction=0.9", "declared test tasks", f"at most {share:.4g}")


def test_the_seed_of_a_split_is_a_whole_number():
    tasks = FAMILIES["icrl/Darkroom-v0"]
    assert tasks.split(0.5, np.int64(3))[0].ids.tolist() == tasks.split(0.5, 3)[0].ids.tolist()
    for seed in (1.5, "3", -1):
        one_line(partial(tasks.split, 0.5, seed), ValueError, f"seed={seed!r}", "integer from 0")


def test_a_family_without_named_sets_says_so():
    words = "unknown set of tasks 'train': allowed are none"
    one_line(lambda: FAMILIES["icrl/Darkroom-v0"].named("train"), ValueError, words)
