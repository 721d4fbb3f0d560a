"""Contract of every family, ours and of other kinds: what is declared works, what is not declared is refused."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from icrl_envs import FAMILIES, Capability, Rules, UndeclaredError, env_family, find_family

from tests.conftest import one_line
from tests.envs.families import ADDED, NATIVE, POLES, REACH, SPRING, WALK, Spring, registered

every = pytest.mark.parametrize("env_id", [*NATIVE, REACH, *ADDED])
modes = pytest.mark.parametrize("mode", AutoresetMode)
of_rules = pytest.mark.parametrize("env_id", [SPRING, WALK])


@pytest.fixture(autouse=True, scope="module")
def _added():
    with registered():
        yield


def made(env_id, task=0):
    """A single environment of a task, after its reset."""
    env = gymnasium.make(env_id, **find_family(env_id).task_kwargs(task))
    return env, env.reset(seed=3)[1]


def tasks_of(env_id):
    return find_family(env_id).tasks.ids[:5]


@pytest.mark.slow
@every
def test_a_family_says_what_its_environments_are(env_id):
    family = find_family(env_id)
    assert family.env_id == family.name == env_id
    env, _ = made(env_id, family.num_tasks - 1)
    assert (env.observation_space, env.action_space) == (family.observation_space, family.action_space)
    assert family.horizon == env.spec.max_episode_steps
    assert set(family.task_names) <= set(family.task_kwargs(0))
    assert len(family.tasks) == family.num_tasks <= family.set_tasks
    assert family.tasks is FAMILIES[env_id]
    assert family.tasks.family is family
    assert family.lifetime >= 1
    train, test = family.tasks.split()
    assert sorted([*train.ids, *test.ids]) == list(range(family.num_tasks))
    assert len(train) == round(family.published.fraction * family.num_tasks)
    assert set(family.training) <= set(family.sets)
    assert all(family.tasks.named(name).ids.tolist() == list(ids) for name, ids in family.sets.items())


@pytest.mark.slow
@every
def test_optimal_and_random_returns(env_id):
    family, ids = find_family(env_id), tasks_of(env_id)
    for capability, method in [
        (Capability.OPTIMAL_RETURN, lambda: family.optimal_return(ids)),
        (Capability.RANDOM_RETURN, lambda: family.random_return(ids)),
    ]:
        if family.offers(capability):
            assert (method().shape, method().dtype) == (ids.shape, np.float64)
        else:
            one_line(method, UndeclaredError, env_id, f"does not declare {capability}")


@every
def test_beliefs(env_id):
    family, rng = find_family(env_id), np.random.default_rng(0)
    if not family.offers(Capability.BELIEF):
        one_line(lambda: family.belief(3, rng), UndeclaredError, env_id, "does not declare belief")
        return
    belief = family.belief(3, rng, np.ones(3))
    obs = np.stack([made(env_id)[0].reset(seed=seed)[0] for seed in range(3)])
    belief.begin(np.ones(3, bool), obs)
    task = belief.sample(np.arange(3), family.horizon)
    assert belief.possible(task).all()
    assert belief.action(task).shape == (3, *family.action_space.shape)


@every
def test_experts(env_id):
    family, (env, _) = find_family(env_id), made(env_id)
    if family.offers(Capability.EXPERT):
        assert env.unwrapped.expert_action() in family.action_space
        vector = gymnasium.make_vec(env_id, 3)
        vector.reset(seed=0)
        assert vector.unwrapped.expert_action() in vector.action_space
    elif isinstance(family, Rules):
        for each in (env, gymnasium.make_vec(env_id, 3), gymnasium.make(env_id)):  # before a reset too
            one_line(each.unwrapped.expert_action, UndeclaredError, "does not declare expert")
        one_line(lambda: family.expert_action(np.zeros(1), np.zeros(1, int)), UndeclaredError, env_id, "expert")


@every
def test_experts_of_other_tasks(env_id):
    family, (env, _) = find_family(env_id), made(env_id)
    if isinstance(family, Rules):
        assert family.offers(Capability.TASK_EXPERTS) == family.offers(Capability.EXPERT)
    if not family.offers(Capability.TASK_EXPERTS):
        return
    own, other = np.array([0, 1, 2]), family.num_tasks - 1
    rows, options = family.make_rows(own)
    rows.reset(seed=0, options=options)
    vector = rows.unwrapped
    np.testing.assert_array_equal(vector.expert_action(own), vector.expert_action())
    assert vector.expert_action(np.full(3, other)) in vector.action_space
    assert env.unwrapped.expert_action(other) in family.action_space
    assert rows.step(vector.expert_action())[1].shape == (3,)  # asking for others changes nothing
    for one in (lambda: vector.expert_action(own + family.set_tasks), lambda: env.unwrapped.expert_action(-1)):
        one_line(one, ValueError, "task ids go from 0 to")


@pytest.mark.parametrize("env_id", [*FAMILIES, *ADDED])
def test_what_is_no_task_is_one_line(env_id):
    """Before anything is made, so that an environment need not be installed."""
    family = find_family(env_id)
    for wrong in (-1, family.set_tasks, 1.5, "1", True):
        for call in (partial(family.make, wrong), partial(family.make_rows, [0, wrong])):
            one_line(call, ValueError, f"task={wrong!r}: give an integer from 0 to {family.set_tasks - 1}")
    one_line(partial(family.make_rows, []), ValueError, "no tasks for the rows", "one or more")


@pytest.mark.parametrize("env_id", [REACH])
def test_rows_of_meta_world_refuse_what_is_no_task_of_each_row(env_id):
    rows, _ = find_family(env_id).make_rows([0, 1])
    rows.reset(seed=0)
    for wrong in ([5.5, 5.0], [5], 5, [[1], [2]]):
        with pytest.raises(ValueError, match=r"^(tasks=.*: give 2 task ids|task=5.5: task ids go)"):
            rows.expert_action(wrong)
    rows.close()


@every
def test_action_masks(env_id):
    family, ids = find_family(env_id), tasks_of(env_id)
    env, info = made(env_id, int(ids[-1]))
    if family.offers(Capability.ACTION_MASKS):
        mask = family.action_mask(ids)
        assert (mask.shape, mask.dtype) == ((len(ids), family.action_space.n), np.int8)
        assert mask.any(1).all()
        assert mask[-1].tolist() == env.unwrapped.action_mask().tolist() == info["action_mask"].tolist()
    else:
        one_line(lambda: family.action_mask(ids), UndeclaredError, env_id, "does not declare action_masks")
        assert "action_mask" not in info


@every
def test_infos_hold_what_is_declared(env_id):
    family, (env, info) = find_family(env_id), made(env_id)
    in_infos = {Capability.SUCCESS: bool, Capability.OPTIMAL_RETURN: float, Capability.REGRET: float}
    for found in (info, env.step(env.action_space.sample())[4]):
        kinds = {name: type(found[name]) for name in in_infos if name in found}
        assert kinds == {name: kind for name, kind in in_infos.items() if family.offers(name)}
    if isinstance(family, Rules) and not family.offers(Capability.SUCCESS):
        state, task = np.zeros((1, 3)), np.zeros(1, int)
        one_line(lambda: family.success(state, task), UndeclaredError, "does not declare success")


@every
def test_only_array_rules_are_given_as_rules(env_id):
    tasks = FAMILIES[env_id]
    if isinstance(tasks.family, Rules):
        assert tasks.rules is tasks.family
    else:
        one_line(lambda: tasks.rules, ValueError, env_id, "has no array rules")


@pytest.mark.parametrize("env_id", ADDED)
def test_gymnasium_checker_finds_nothing(env_id):
    quiet = env_id == POLES  # the checker does not like CartPole's own bounds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "error")
        check_env(gymnasium.make(env_id, **find_family(env_id).task_kwargs(1)).unwrapped, skip_render_check=quiet)


def flat(value):
    """Everything in what an environment returned, as a list of arrays, names included."""
    if isinstance(value, dict):
        return [part for name in sorted(value) for part in [np.array(name), *flat(value[name])]]
    if isinstance(value, tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [part for item in value for part in flat(item)]
    return [np.asarray(value)]


def assert_equal(ours, theirs):
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@modes
@of_rules
def test_native_vector_env_equals_single_envs(env_id, mode):
    native = gymnasium.make_vec(env_id, 3, autoreset_mode=mode)
    sync = gymnasium.make_vec(env_id, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    assert_equal(native.reset(seed=2), sync.reset(seed=2))
    native.action_space.seed(0)
    ended = np.zeros(3, int)
    for step in range(60):
        action = native.action_space.sample()
        ours, theirs = native.step(action), sync.step(action)
        assert_equal(ours, theirs)
        over = ours[2] | ours[3]
        ended += over
        mask = (over & (mode == AutoresetMode.DISABLED)) | ((np.arange(3) == 0) & (step == 3))
        if mask.any():
            assert_equal(*(env.reset(options={"reset_mask": mask.copy()}) for env in (native, sync)))
    assert (ended > 2).all()


@modes
@of_rules
def test_what_is_returned_is_a_copy(env_id, mode):
    env, twin = (gymnasium.make_vec(env_id, 3, autoreset_mode=mode) for _ in range(2))
    first = [each.reset(seed=1) for each in (env, twin)]
    for step in range(4):
        assert_equal(*first)
        for part in flat(first[0]):
            part.setflags(write=True)
            if part.dtype.kind in "ifb":
                part[...] = 1
        env.action_space.seed(step)
        action = env.action_space.sample()
        first = [each.step(action) for each in (env, twin)]


@modes
def test_a_plain_environment_equals_itself_in_rows(mode):
    family = find_family(POLES)
    rows = [lambda task=task: gymnasium.make(POLES, **task) for task in family.tasks[:3]]
    vector = SyncVectorEnv(rows, autoreset_mode=mode)
    singles = [row() for row in rows]
    obs, _ = vector.reset(seed=[4, 5, 6])
    np.testing.assert_array_equal(obs, [env.reset(seed=4 + row)[0] for row, env in enumerate(singles)])
    for step in range(8):  # no episode is as short
        found = vector.step((step + np.arange(3)) % 2)
        for row, env in enumerate(singles):
            obs, reward, terminated, _, _ = env.step((step + row) % 2)
            assert (found[0][row].tolist(), found[1][row], found[2][row]) == (obs.tolist(), reward, terminated)
    assert len({tuple(row) for row in found[0].tolist()}) == 3


def test_episodes_of_a_stochastic_family_differ():
    env = gymnasium.make(SPRING, stiffness=1.0)
    starts = [env.reset(seed=1)[0], env.reset()[0], env.reset()[0]]
    assert len({tuple(obs.tolist()) for obs in starts}) == 3
    assert env.reset(seed=1)[0].tolist() == starts[0].tolist()
    assert env.unwrapped.task_ids.tolist() == [4]


@of_rules
def test_rules_are_written_without_drawings(env_id):
    env = gymnasium.make_vec(env_id, 2, render_mode="ansi")
    env.reset(seed=0)
    assert all(text.startswith("task ") and text.count("\n") == 1 for text in env.render())
    assert gymnasium.make(env_id).metadata["render_modes"] == ["ansi"]
    one_line(lambda: gymnasium.make_vec(env_id, 2, render_mode="rgb_array"), ValueError, "allowed are None, ansi")


def test_a_limit_without_an_optimum_is_warned_of_without_one():
    with pytest.warns(UserWarning, match="horizon=5 but episodes are truncated after max_episode_steps=3: give"):
        gymnasium.make_vec(WALK, 2, max_episode_steps=3)


BAD_ACTIONS = {
    "a shape": (np.zeros((2, 3), np.float32), "numbers of shape (2, 2)"),
    "one row": (np.zeros(2, np.float32), "numbers of shape (2, 2)"),
    "bools": (np.zeros((2, 2), bool), "numbers of shape"),
    "text": ("up", "action='up'"),
    "ragged": ([[0.0], [1.0, 0.5]], "numbers of shape"),
    "high": (np.array([[0, 0], [0, 1.5]]), "action has 1.5, outside Box"),
    "low": (np.array([[0, 0], [-2, 0]]), "action has -2"),
    "nan": (np.full((2, 2), np.nan), "action has nan"),
    "huge": (np.full((2, 2), 1e300), "clip actions"),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_bad_continuous_actions_are_one_clear_line(name):
    action, words = BAD_ACTIONS[name]
    env, twin = (gymnasium.make_vec(SPRING, 2) for _ in range(2))
    for each in (env, twin):
        each.reset(seed=0)
    one_line(lambda: env.step(action), ValueError, words)
    good = np.array([[1, -1], [0.5, 0]])  # float64 and the bounds themselves are fine
    assert_equal(env.step(good), twin.step(good.astype(np.float32)))


def test_the_family_of_an_environment():
    wide = gymnasium.make_vec(WALK, 2, step_size=2)
    assert env_family(wide) is wide.unwrapped.rules  # with this environment's arguments
    assert env_family(gymnasium.make(WALK, step_size=3)).step_size == 3
    assert env_family(gymnasium.make_vec(WALK, 2, vectorization_mode="sync", step_size=2)).step_size == 2
    rows = [lambda: gymnasium.make(POLES, length=0.3)] * 2
    assert env_family(rows[0]()) is env_family(SyncVectorEnv(rows)) is find_family(POLES)
    assert env_family(gymnasium.make("CartPole-v1")) is None


@pytest.mark.parametrize("env_id", ["icrl/Darkroom10x10-v0", "icrl/BernoulliBandit-v0"])
def test_the_family_of_an_environment_has_the_split_of_its_id(env_id):
    wanted = [part.ids.tolist() for part in find_family(env_id).tasks.split()]
    ways = gymnasium.make(env_id), gymnasium.make_vec(env_id, 2), gymnasium.make_vec(env_id, 2, "sync")
    for env in ways:
        assert [part.ids.tolist() for part in env_family(env).tasks.split()] == wanted


def test_rules_that_declare_frames_and_draw_none_are_one_clear_line():
    class Drawn(Spring):
        render_modes = ("ansi", "rgb_array")

    one_line(lambda: Drawn().frame(np.zeros(3), 0), ValueError, "Drawn", "rgb_array", "define frame()")
