"""Registration of families: what is accepted, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import sys
import textwrap
import types

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs import (
    FAMILIES,
    Family,
    GymFamily,
    Rules,
    Split,
    find_family,
    register_family,
    register_rules,
    unregister_family,
)
from icrl_envs.metaworld.family import MetaWorld
from icrl_envs.procgen.family import Procgen

from tests.conftest import one_line
from tests.envs.families import POLES, WALK, Spring, Walk, pole_tasks, poles_known


class Halves(Walk):
    """Rules without environments of their own."""


class Pairs(Walk):
    """Rules with actions that no array holds."""

    action_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])


class Odd(Family):
    """A family written by hand for an id that exists; nothing but the spaces is set."""

    env_id = "CartPole-v1"
    observation_space, action_space = spaces.Box(-1, 1, (4,)), spaces.Discrete(2)

    def task_kwargs(self, task_id):
        return {"sutton_barto_reward": bool(task_id)}


class Complete(Odd):
    horizon, num_tasks, task_names = 500, 2, ("sutton_barto_reward",)
    published = Split(0.5)


class OneTask(Complete):
    num_tasks = 1


@pytest.fixture(autouse=True)
def _ids():
    """The poles have an id, and each test leaves the registries as they were."""
    families, known = list(FAMILIES), set(gymnasium.registry)
    with poles_known():
        yield
        for env_id in set(FAMILIES) - set(families):
            unregister_family(env_id)
    assert list(FAMILIES) == families
    assert set(gymnasium.registry) == known


def test_a_gymnasium_id_and_a_list_of_tasks():
    tasks = register_family(POLES, pole_tasks(), horizon=25, lifetime=3, split=(0.5, 1), bandit=True)
    family = find_family(POLES)
    assert tasks is FAMILIES[POLES] is family.tasks
    assert (family.horizon, family.lifetime, family.bandit, family.num_tasks) == (25, 3, True, 10)
    assert family.task_names == ("length",)
    assert [len(part) for part in tasks.split()] == [5, 5]
    assert tasks[3] == {"length": 0.5, "max_episode_steps": 25}
    assert gymnasium.make(POLES, **tasks[3]).unwrapped.length == 0.5
    assert not family.capabilities
    assert repr(tasks[:2]) == f"TaskSet({POLES!r}, 2 of 10 tasks)"


def test_tasks_are_copies():
    given = [{"length": 1.0}, {"length": 2.0}]
    family = GymFamily(POLES, given)
    given[0]["length"] = 9.0
    family.task_kwargs(1)["length"] = 9.0
    assert list(family.tasks) == [{"length": 1.0}, {"length": 2.0}]


def test_the_horizon_is_the_time_limit_unless_given():
    for horizon, steps in [(None, 30), (30, 30), (4, 4)]:
        family = GymFamily(POLES, pole_tasks(), horizon=horizon)
        env = gymnasium.make(POLES, **family.tasks[0])
        assert family.horizon == env.spec.max_episode_steps == steps
        assert family.task_names == ("length",)
    env.reset(seed=0)
    assert [env.step(step % 2)[3] for step in range(4)] == [False, False, False, True]


def test_the_same_family_may_be_registered_again():
    first = register_family(POLES, pole_tasks())
    assert register_family(POLES, pole_tasks()) is first
    walk = register_rules(Walk, WALK, 5, Split(0.5))
    assert register_rules(Walk, WALK, 5, Split(0.5)) is walk
    one = register_family(Complete())
    assert register_family(find_family("CartPole-v1")) is one
    assert len({GymFamily(POLES, pole_tasks()), GymFamily(POLES, pole_tasks()), GymFamily(POLES, pole_tasks(3))}) == 2


def test_another_family_under_a_known_id_is_refused():
    register_family(POLES, pole_tasks())
    register_rules(Walk, WALK, 5, Split(0.5))
    before = {env_id: (FAMILIES[env_id], gymnasium.spec(env_id)) for env_id in (POLES, WALK)}
    for call, env_id in [
        (lambda: register_family(POLES, pole_tasks(6)), POLES),
        (lambda: register_family(POLES, pole_tasks(), lifetime=2), POLES),
        (lambda: register_rules(Walk, WALK, 6, Split(0.5)), WALK),
        (lambda: register_rules(Walk, WALK, 5, Split(0.5, 1)), WALK),
        (lambda: register_rules(Walk, WALK, 5, Split(0.5), step_size=2), WALK),
        (lambda: register_rules(Spring, WALK, 5, Split(0.5)), WALK),
        (lambda: register_rules(Walk, POLES, 5, Split(0.5)), POLES),
        (lambda: register_rules(Walk, "CartPole-v1", 5, Split(0.5)), "CartPole-v1"),
    ]:
        fix = "unregister_family" if env_id in FAMILIES else "choose another id"
        one_line(call, ValueError, f"{env_id} is already registered", fix)
    assert {env_id: (FAMILIES[env_id], gymnasium.spec(env_id)) for env_id in (POLES, WALK)} == before


def test_a_forgotten_family_leaves_room_for_another():
    register_family(POLES, pole_tasks())
    unregister_family(POLES)
    assert POLES in gymnasium.registry  # which registered it is not us
    assert len(register_family(POLES, pole_tasks(6))) == 6
    register_rules(Walk, WALK, 5, Split(0.5))
    unregister_family(WALK)
    assert WALK not in gymnasium.registry
    rules = Walk()
    rules.env_id, rules.published = POLES, Split(0.5)  # array rules for an id that register_rules did not make
    unregister_family(POLES)
    register_family(rules)
    unregister_family(POLES)
    assert POLES in gymnasium.registry
    assert register_rules(Walk, WALK, 6, Split(0.5)).family.horizon == 6


def test_a_family_written_by_hand():
    family = Complete()
    tasks = register_family(family)
    assert tasks.family is find_family("CartPole-v1") is family
    assert list(tasks) == [{"sutton_barto_reward": False}, {"sutton_barto_reward": True}]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("icrl/Darkrom-v0", ["'icrl/Darkrom-v0'", "did you mean 'icrl/Darkroom-v0'"]),
        ("Nothing-like-it", ["'Nothing-like-it'", "register_family adds one"]),
        (3, ["registered as 3", "icrl_envs.FAMILIES"]),
        ([1], ["registered as [1]"]),
    ],
    ids=str,
)
def test_an_unknown_id_is_refused_with_the_nearest(wrong, words):
    one_line(lambda: find_family(wrong), ValueError, *words)
    one_line(lambda: unregister_family(wrong), ValueError, *words)


REFUSED = {
    "no such id": (lambda: GymFamily("CartPol-v1", pole_tasks()), "no registered Gymnasium id; did you mean 'CartPole"),
    "no id": (lambda: GymFamily(None, pole_tasks()), "None is no registered Gymnasium id"),
    "no tasks": (lambda: register_family(POLES), "give tasks"),
    "an empty list": (lambda: GymFamily(POLES, []), "two or more dicts"),
    "one task": (lambda: GymFamily(POLES, pole_tasks(1)), "two or more dicts"),
    "few choices": (lambda: GymFamily(POLES, {"length": [1, 2]}), "2 different", "num_tasks=100", "lower num_tasks"),
    "text": (lambda: GymFamily(POLES, "length"), "tasks='length': give a list of two or more dicts, a dict of ranges"),
    "numbers": (lambda: GymFamily(POLES, [0.5, 1.0]), "task 0 is 0.5: give a dict"),
    "no arguments": (lambda: GymFamily(POLES, [{}, {}]), "task 0 is {}: give a dict"),
    "other arguments": (lambda: GymFamily(POLES, [{"length": 1}, {"mass": 1}]), "task 1 has the arguments ['mass']"),
    "a time limit": (lambda: GymFamily(POLES, [{"max_episode_steps": n} for n in (3, 4)]), "give horizon=... instead"),
    "a task twice": (lambda: GymFamily(POLES, [*pole_tasks(), {"length": 0.4}]), "tasks 2 and 10 are the same"),
    "an array": (lambda: GymFamily(POLES, [{"length": np.ones(2)}, {"length": 1.0}]), "task 0 is", "finite Python"),
    "not a number": (lambda: GymFamily(POLES, [{"length": 1.0}, {"length": np.nan}]), "task 1 is", "finite Python"),
    "arguments the env has not": (lambda: GymFamily(POLES, [{"mass": 1}, {"mass": 2}]), "cannot be made with", "mass"),
    "horizon": (lambda: GymFamily(POLES, pole_tasks(), horizon=0), "horizon=0: give an integer from 1"),
    "lifetime": (lambda: GymFamily(POLES, pole_tasks(), lifetime=1.5), "lifetime=1.5: give an integer"),
    "a fraction alone": (lambda: GymFamily(POLES, pole_tasks(), split=0.9), "split=0.9: give (fraction, seed)"),
    "a fraction of two": (lambda: GymFamily(POLES, pole_tasks(), split=(2, 0)), "split=(2, 0): give (fraction"),
    "a fraction as text": (lambda: GymFamily(POLES, pole_tasks(), split="ab"), "split='ab': give (fraction"),
    "a seed": (lambda: GymFamily(POLES, pole_tasks(), split=(0.5, -1)), "seed of the split=-1"),
    "an empty part": (lambda: register_family(POLES, pole_tasks(), split=(0.99, 0)), "leaves one part empty"),
    "tasks for a family": (lambda: register_family(Complete(), pole_tasks()), "a Family brings its own"),
    "a number": (lambda: register_family(3), "family=3: give a Family"),
    "the class": (lambda: register_family(Complete), "give a Family"),
    "an incomplete family": (lambda: register_family(Odd()), "CartPole-v1 sets no horizon"),
    "a family of one task": (lambda: register_family(OneTask()), "leaves one part empty"),
    "rules without an id": (lambda: register_family(Walk()), "'' is no registered Gymnasium id"),
    "rules without environments": (
        lambda: register_rules(Halves, WALK, 5, Split(0.5)),
        "define class HalvesEnv(ArrayEnv",
    ),
    "a misspelt argument": (lambda: register_rules(Walk, WALK, 5, Split(), step_sise=1), "did you mean 'step_size'"),
    "a task argument": (lambda: register_rules(Walk, WALK, 5, Split(), side="left"), "side fixes one task"),
    "no split": (lambda: register_rules(Walk, WALK, 5), "names no set 'train'"),
    "actions that are no arrays": (lambda: register_rules(Pairs, WALK, 5, Split(0.5)), "Tuple", "elements are arrays"),
    "a horizon of nothing": (lambda: register_rules(Walk, WALK, 0, Split(0.5)), "horizon=0"),
    "a split that empties a part": (lambda: register_rules(Walk, WALK, 5, Split(0.9)), "leaves one part empty"),
    "an id that Gymnasium refuses": (lambda: register_rules(Walk, "a b", 5, Split(0.5)), "env_id='a b'"),
    "an id that is no text": (lambda: register_rules(Walk, 3, 5, Split(0.5)), "env_id=3: give an id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_registration_is_one_line_and_changes_nothing(name):
    call, *words = REFUSED[name]
    families, known = dict(FAMILIES), dict(gymnasium.registry)
    one_line(call, ValueError, *words)
    assert dict(FAMILIES) == families
    assert dict(gymnasium.registry) == known


def test_the_table_cannot_be_written_by_hand():
    with pytest.raises(TypeError):
        FAMILIES["mine"] = FAMILIES["icrl/Darkroom-v0"]


def test_no_time_limit_needs_a_horizon():
    gymnasium.register("test/Endless-v0", gymnasium.spec(POLES).entry_point)
    try:
        one_line(lambda: GymFamily("test/Endless-v0", pole_tasks()), ValueError, "no time limit", "give horizon=")
        assert GymFamily("test/Endless-v0", pole_tasks(), horizon=8).horizon == 8
    finally:
        del gymnasium.registry["test/Endless-v0"]


def test_the_example_in_the_docstring_of_rules(monkeypatch):
    module = types.ModuleType("walks")
    monkeypatch.setitem(sys.modules, "walks", module)
    exec(textwrap.dedent("        import" + Rules.__doc__.split("        import", 1)[1]), vars(module))
    tasks = FAMILIES["my/Walk-v0"]
    env = gymnasium.make_vec("my/Walk-v0", len(tasks))
    env.reset(options={"task": tasks.ids})
    total, goal = np.zeros(len(tasks)), tasks.ids
    for step in range(30):
        total += env.step(np.where(step < goal, 2, 1))[1]  # right until the goal, then stay
    assert total.tolist() == tasks.family.optimal_return(goal).tolist()


def test_rules_are_families():
    assert issubclass(Rules, Family)
    others = {env_id for env_id, tasks in FAMILIES.items() if not isinstance(tasks.family, Rules | MetaWorld | Procgen)}
    assert others == {"icrl/HalfCheetahVel-v0", "icrl/HalfCheetahVelGoal-v0"}  # a simulator of others
