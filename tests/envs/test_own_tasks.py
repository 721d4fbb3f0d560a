"""Tasks of a user's environment: how they are drawn, split and passed on, and that every row keeps its own."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from icrl_envs import Family, GymFamily, env_family, find_family, register_family, unregister_family
from icrl_envs.base.gym.pass_task import PassTask
from icrl_envs.base.gym.tasks import read_tasks

from icrl_agents.core.families import make_tasks
from icrl_agents.core.rollout import rollout
from icrl_agents.evaluation.evaluate import RandomLearner
from icrl_agents.histories.recorder import RecordHistory
from tests.conftest import one_line
from tests.envs.dials import DIALS, LIMIT, VALUES, Dial, dial_rows, dials, set_dial

# ---- drawing ----------------------------------------------------------------------------------------------------


def test_ranges_choices_and_fixed_values():
    ranges = {
        "length": {"low": 0.3, "high": 2.0},
        "mass": {"low": 0.01, "high": 100.0, "log": True},
        "size": {"low": 3, "high": 5},
        "steps": {"low": 1, "high": 16, "log": True},
        "kind": ["smooth", "rough"],
        "gravity": 9.8,
    }
    tasks = read_tasks(ranges, 400, seed=3)
    assert len(tasks) == 400
    assert {task["size"] for task in tasks} == {3, 4, 5}
    assert {task["kind"] for task in tasks} == {"smooth", "rough"}
    assert {task["gravity"] for task in tasks} == {9.8}
    lengths, masses, steps = (np.array([task[name] for task in tasks]) for name in ("length", "mass", "steps"))
    assert 0.3 <= lengths.min() < 0.35
    assert 1.95 < lengths.max() <= 2.0
    assert 0.4 < (masses < 1).mean() < 0.6  # half of them on a logarithmic scale, 1% on a linear one
    assert (steps.min(), steps.max(), steps.dtype.kind) == (1, 16, "i")
    assert 0.4 < (steps <= 4).mean() < 0.8
    assert max(len(str(task["length"])) for task in tasks) <= 8


def test_draws_are_those_of_the_seed():
    ranges = {"length": {"low": 0.3, "high": 2.0}}
    assert read_tasks(ranges, seed=1) == read_tasks(ranges, seed=1) != read_tasks(ranges, seed=2)
    assert len(read_tasks(ranges)) == 100


def test_a_function_draws_tasks_and_repeats_are_drawn_again():
    drawn = []

    def draw(rng: np.random.Generator):
        drawn.append(rng.integers(6))
        return {"value": drawn[-1]}

    tasks = read_tasks(draw, 6, seed=0)
    assert sorted(task["value"] for task in tasks) == list(range(6))
    assert len(drawn) > 6
    assert all(type(task["value"]) is int for task in tasks)


BAD_TASKS = {
    "too few": (lambda: read_tasks({"size": {"low": 1, "high": 4}}, 5), "about 4 different", "num_tasks=5", "widen"),
    "one end": (lambda: read_tasks({"size": {"low": 1}}), "range of size", "low < high"),
    "wrong order": (lambda: read_tasks({"size": {"low": 2, "high": 1}}), "range of size", "low < high"),
    "infinite": (lambda: read_tasks({"size": {"low": 0.0, "high": np.inf}}), "range of size", "numbers"),
    "too wide": (lambda: read_tasks({"size": {"low": -1e308, "high": 1e308}}), "range of size", "others to 1e+300"),
    "too many": (lambda: read_tasks({"size": {"low": 0, "high": 10**400}}), "range of size", "whole numbers to 1e+18"),
    "a slip": (lambda: read_tasks({"size": {"low": 1, "hihg": 2}}), "unknown part of the range of size", "'high'"),
    "log of 0": (lambda: read_tasks({"size": {"low": 0, "high": 2, "log": True}}), "logarithmic", "above 0"),
    "no choice": (lambda: read_tasks({"size": []}), "no choice of size"),
    "a function of numbers": (lambda: read_tasks(lambda rng: 3), "task 0 is 3: give a dict"),
    "numbers as names": (
        lambda: read_tasks([{"gear": {1: ratio}} for ratio in (2.0, 3.0)]),
        "task 0 is {'gear': {1: 2.0}}",
        "named by strings",
    ),
    "numbers as names in a list": (lambda: read_tasks({"gears": [[{1: 2.0}], [{1: 3.0}]]}, 2), "named by strings"),
    "a tuple": (lambda: read_tasks([{"goal": (0, 1)}, {"goal": (1, 1)}]), "task 0 is {'goal': (0, 1)}", "no tuples"),
    "a drawn tuple": (lambda: read_tasks({"goal": [[0, (1, 2)], [0, (2, 1)]]}, 2), "no tuples"),
    "a repeat": (lambda: read_tasks([{"size": 1}, {"size": 2}, {"size": 1.0}]), "tasks 0 and 2 are the same"),
    "a repeat in a list": (lambda: read_tasks([{"x": [0.0, {"y": 2}]}, {"x": [0, {"y": 2.0}]}]), "0 and 1 are"),
    "num_tasks with a list": (lambda: read_tasks(VALUES, 8), "list of 8 tasks", "leave num_tasks out"),
    "num_tasks": (lambda: read_tasks({"size": {"low": 0.0, "high": 1.0}}, 1), "num_tasks=1: give an integer from 2"),
    "a seed": (lambda: read_tasks({"size": {"low": 0.0, "high": 1.0}}, 9, -1), "seed=-1: give an integer from 0"),
}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_bad_tasks_are_one_line(name):
    call, *words = BAD_TASKS[name]
    one_line(call, ValueError, *words)


# ---- test tasks -------------------------------------------------------------------------------------------------


def test_declared_test_tasks_are_those_of_every_split():
    with dials(VALUES[:6], test_tasks=VALUES[6:], split=None):
        for seed in (None, 0, 5):
            train, test = find_family(DIALS).tasks.split(seed=seed)
            assert [task["value"] for task in test] == [7, 8]
            assert sorted(task["value"] for task in train) == [1, 2, 3, 4, 5, 6]
            rest, validation = train.split(0.7, seed=seed)
            assert (len(rest), len(validation)) == (4, 2)
        assert train.ids.tolist() != find_family(DIALS).tasks.split(seed=6)[0].ids.tolist()


BAD_SETTINGS = {
    "overlap": ({"test_tasks": [VALUES[2]], "split": None}, "test task 0", "training task 2 too", "leave one out"),
    "overlap of equal numbers": (
        {"test_tasks": [{**VALUES[2], "value": float(VALUES[2]["value"])}], "split": None},
        "test task 0",
        "training task 2 too",
    ),
    "split and test tasks": ({"test_tasks": [{"value": 20, "label": ""}]}, "split=(0.5, 0) and", "give one"),
    "other names": ({"test_tasks": [{"value": 9}], "split": None}, "task 0 has the arguments ['value']"),
    "text": ({"test_tasks": "all", "split": None}, "test_tasks='all': give a list"),
    "a slip": ({"horizons": 3}, "unknown setting of a family 'horizons'", "did you mean 'horizon'?"),
    "a way": ({"pass_task": "option"}, "pass_task='option': allowed are make, options, attributes, and a function"),
    "no such attribute": ({"tasks": [{"size": 1}, {"size": 2}], "pass_task": "attributes"}, "has no attribute size"),
    "a function that fails": ({"pass_task": lambda env, task: env.nothing}, "cannot be made", "nothing"),
    "vectorization": ({"vectorization": "spawn"}, "vectorization='spawn': allowed are sync, async, vector_entry_point"),
    "two ways": ({"vectorization": "vector_entry_point", "pass_task": "options"}, "leave pass_task out"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_one_line(name):
    settings, *words = BAD_SETTINGS[name]

    def call():
        with dials(**settings):
            pass

    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 400
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_an_id_without_a_vector_entry_point_is_refused():
    gymnasium.register("test/Single-v0", "tests.envs.dials:Dial", max_episode_steps=3)
    try:
        call = lambda: register_family("test/Single-v0", VALUES, vectorization="vector_entry_point")  # noqa: E731
        one_line(call, ValueError, "test/Single-v0", "without vector_entry_point")
    finally:
        del gymnasium.registry["test/Single-v0"]


# ---- the ways ---------------------------------------------------------------------------------------------------

WAYS = {"make": "make", "options": "options", "attributes": "attributes", "function": set_dial}


@pytest.mark.parametrize("way", WAYS)
def test_a_task_is_kept_over_all_episodes(way):
    with dials(pass_task=WAYS[way]):
        family = find_family(DIALS)
        env = family.tasks.make(2, render_mode=None)
        assert env_family(env) is family
        assert env.spec.max_episode_steps == family.horizon == LIMIT
        for _ in range(3):
            obs, _ = env.reset(options=None)
            assert obs[0] == 3
            assert env.step(2)[1] == 6
        assert family.task_text(2) == "value=3, label=dial 3"


class Ice(gymnasium.Env):
    """A map that melts in the place where it is handed over."""

    observation_space, action_space = gymnasium.spaces.Discrete(99), gymnasium.spaces.Discrete(2)
    cells: list[int] = [0]  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cells = (options or {}).get("cells", self.cells)
        return self.cells[0], {}

    def step(self, action):
        self.cells[0] += 1
        return self.cells[0], 0.0, False, False, {}


@pytest.mark.parametrize("way", ["options", "attributes", lambda env, task: setattr(env, "cells", task["cells"])])
def test_an_environment_that_changes_its_task_begins_the_next_episode_with_the_task(way):
    env = PassTask(Ice(), {"cells": [7]}, way)
    for _ in range(2):
        assert env.reset()[0] == 7
        assert env.step(0)[0] == 8


def test_the_options_of_a_caller_reach_the_environment_too():
    with dials(pass_task="options"):
        env, seen = find_family(DIALS).make(1), []
        inner = env.unwrapped.reset
        env.unwrapped.reset = lambda *, seed=None, options=None: seen.append(options) or inner(options=options)
        env.reset(options={"more": 1})
        assert seen == [{"more": 1, "value": 2, "label": "dial 2"}]


# ---- rows -------------------------------------------------------------------------------------------------------

RUN = [("sync", way) for way in WAYS] + [("async", "make"), ("async", "function"), ("vector_entry_point", "make")]


def replay(env, action, seed):
    """What a single environment returns for a row of actions (T,), reset at the end of every episode."""
    obs, _ = env.reset(seed=seed)
    for each in action:
        next_obs, reward, terminated, truncated, _ = env.step(each)
        yield obs, next_obs, reward, terminated, truncated
        obs = env.reset()[0] if terminated or truncated else next_obs


@pytest.mark.slow
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("vectorization", "way"), RUN)
def test_recorded_rows_are_what_single_environments_do(vectorization, way, mode):
    """Exact final observations, rewards and ends, with another task in every row, in all three modes."""
    tasks = [0, 6, 3, 3]
    with dials(pass_task=WAYS[way], vectorization=vectorization):
        family = find_family(DIALS)
        rows, options = make_tasks(DIALS, tasks, mode)
        env = RecordHistory(rows)
        assert env_family(env) is family
        assert env.metadata["autoreset_mode"] == mode
        rollout(RandomLearner(), env, 4, seed=9, options=options)
        steps = env.steps(4)
        env.close()
        for row, task in enumerate(tasks):
            one = steps.rows(slice(row, row + 1))
            length = int(one.mask.sum())
            found = list(replay(family.make(task), one.action[0, :length].tolist(), 9 + row))
            columns = [np.array(column) for column in zip(*found, strict=True)]
            recorded = [one.obs, one.next_obs, one.reward, one.terminated, one.truncated]
            for single, ours in zip(columns, recorded, strict=True):
                np.testing.assert_array_equal(single, ours[0, :length])
            assert (columns[3] | columns[4]).sum() == 4
        assert steps.truncated.any()
        assert steps.terminated.any()


class Reused(Dial):
    """Writes every observation and every info into the same objects, as fast simulators do."""

    def __init__(self, **task):
        super().__init__(**task)
        self.same, self.info = np.zeros(3, np.float32), {}

    def observe(self):
        self.same[:] = super().observe()
        return self.same

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed, options=options)
        self.info["success"] = False
        return obs, self.info

    def step(self, action):
        *result, info = super().step(action)
        self.info.update(info)
        return *result, self.info


MAKES = {
    "sync": GymFamily.make_rows,
    "async": GymFamily.make_rows,
    "a family's own environments": Family.make_rows,
}


@pytest.mark.filterwarnings("ignore:.*share an object")
@pytest.mark.parametrize("rows", MAKES)
def test_the_end_of_an_episode_outlasts_a_reset_that_reuses_its_objects(rows):
    with dials(pass_task=set_dial, vectorization="async" if rows == "async" else "sync"):
        gymnasium.registry[DIALS].entry_point = Reused
        env, _ = MAKES[rows](find_family(DIALS), [0, 1])  # episodes of 2 and 3 steps
        env.reset(seed=0)
        env.step(np.array([0, 0]))
        obs, _, terminated, _, info = env.step(np.array([2, 2]))
        env.close()
    assert terminated.tolist() == [True, False]
    assert obs[:, 1].tolist() == [0, 2]
    assert info["final_obs"][0][1] == 2
    assert info["final_info"]["success"][0]


def test_resetting_in_the_step_that_ends_an_episode_is_the_default():
    with dials():
        assert make_tasks(DIALS, [0]).env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_more_rows_than_processes_are_refused():
    with dials(vectorization="async"):
        one_line(lambda: make_tasks(DIALS, [0] * 129), ValueError, "129 rows", "at most 128", "vectorization='sync'")


def test_an_entry_point_that_does_not_heed_its_arguments_is_refused():
    def deaf(num_envs=1, **other):
        return dial_rows(2, VALUES[:2], AutoresetMode.SAME_STEP, 3)

    with dials(vectorization="vector_entry_point"):
        gymnasium.registry[DIALS].vector_entry_point = deaf
        one_line(lambda: make_tasks(DIALS, [0] * 3), ValueError, DIALS, "2 rows of 3", "heed num_envs")
        gymnasium.registry[DIALS].vector_entry_point = lambda num_envs: SyncVectorEnv([])
        with pytest.raises(ValueError, match=r"TypeError.*let it take num_envs, tasks"):
            make_tasks(DIALS, [0])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_tasks_with_other_spaces_are_refused(vectorization):
    tasks = [{"map_name": "4x4"}, {"map_name": "8x8"}]
    register_family("FrozenLake-v1", tasks, split=(0.5, 0), vectorization=vectorization)
    try:
        one_line(lambda: make_tasks("FrozenLake-v1", [0, 1]), ValueError, "FrozenLake-v1", "side by side", "the same")
    finally:
        unregister_family("FrozenLake-v1")
