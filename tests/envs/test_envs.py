"""The contract of every registered environment; a new id is tested without writing a test."""

import itertools
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from icrl_envs import FAMILIES, Capability
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv

from tests.envs.families import NATIVE, REACH, TURNS

MOVES = [(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)]
ids = pytest.mark.parametrize("env_id", NATIVE)
# the best return is that of every episode
STEADY = [name for name in NATIVE if not FAMILIES[name].rules.stochastic and name not in TURNS]
solved = pytest.mark.parametrize(
    "env_id", [name for name in STEADY if FAMILIES[name].family.offers(Capability.OPTIMAL_RETURN)]
)
finite = pytest.mark.parametrize(
    "env_id", [name for name in STEADY if isinstance(FAMILIES[name].family.action_space, spaces.Discrete)]
)


def three_actions(env, numbers):
    """Actions of three rows: these numbers, or as many samples of a space without numbers."""
    space = env.single_action_space
    if isinstance(space, spaces.Discrete):
        return np.array(numbers)
    space.seed(int(np.sum(numbers)))
    return np.array([space.sample() for _ in numbers])


def some_tasks(env_id, count=6, seed=0):
    return np.random.default_rng(seed).choice(FAMILIES[env_id].ids, count)


def assert_same(a, b, where=""):
    """Equal in keys, types, shapes and values; `a` and `b` may be nested."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, np.ndarray) and a.dtype != object:
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif isinstance(a, (tuple, np.ndarray)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert (type(a), a) == (type(b), b), where


@pytest.mark.slow
@ids
def test_gymnasium_checker_finds_nothing(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped)


def plain_episode(env_id, kwargs, size, pos, actions):
    """The dynamics of the DICP and DPT papers in plain Python: yields obs and reward."""
    permutation = list(itertools.permutations(range(5)))[kwargs.get("permutation", 0)]
    key, done = False, False
    for action in actions:
        move = MOVES[permutation[action] if "Permuted" in env_id else action]
        pos = tuple(min(max(x + d, 0), size - 1) for x, d in zip(pos, move, strict=True))
        if "KeyToDoor" in env_id:
            reward = float(not done and pos == kwargs["door" if key else "key"])
            key, done = key or reward == 1, done or (key and reward == 1)
        else:
            reward = float(pos == kwargs.get("goal", (size - 1, size - 1)))
        yield pos, reward


ROOMS = {  # size, start, horizon as published or as chosen by us
    "icrl/Darkroom-v0": (9, (4, 4), 20),
    "icrl/Darkroom3x3-v0": (3, (1, 1), 6),
    "icrl/Darkroom17x17-v0": (17, (8, 8), 50),
    "icrl/Darkroom10x10-v0": (10, (0, 0), 100),
    "icrl/DarkroomPermuted-v0": (9, (0, 0), 50),
    "icrl/DarkKeyToDoor-v0": (9, (4, 4), 50),
}
rooms = pytest.mark.parametrize("env_id", ROOMS)


@rooms
def test_dynamics_equal_a_plain_reference(env_id):
    size, start, horizon = ROOMS[env_id]
    rng = np.random.default_rng(1)
    for task in some_tasks(env_id):
        kwargs = FAMILIES[env_id].rules.task_kwargs(int(task))
        env = gymnasium.make(env_id, **kwargs)
        obs, info = env.reset()
        assert tuple(obs) == start
        assert info.keys() == {"task", "success", "optimal_return"}
        # Half the actions are the expert's, so that rewards and what follows them are seen.
        seen, actions = [], []
        for step in range(horizon):
            action = env.unwrapped.expert_action() if rng.random() < 0.5 else int(rng.integers(5))
            obs, reward, terminated, truncated, info = env.step(action)
            assert (terminated, truncated) == (False, step == horizon - 1)
            seen.append((tuple(obs), reward))
            actions.append(action)
        assert seen == list(plain_episode(env_id, kwargs, size, start, actions))


def test_key_and_door_in_one_cell_take_two_steps():
    env = gymnasium.make("icrl/DarkKeyToDoor-v0", key=(4, 4), door=(4, 4))
    env.reset()
    assert [env.step(4)[1] for _ in range(4)] == [1, 1, 0, 0]
    env.reset()
    assert env.step(4)[4]["success"] is False
    assert env.step(4)[4]["success"] is True


@pytest.mark.slow
@pytest.mark.parametrize("mode", AutoresetMode)
@ids
def test_native_vector_env_equals_sync_step_for_step(env_id, mode):
    limit = min(gymnasium.spec(env_id).max_episode_steps, 30)
    native = gymnasium.make_vec(env_id, num_envs=3, autoreset_mode=mode, max_episode_steps=limit)
    ways = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": mode}}
    sync = gymnasium.make_vec(env_id, num_envs=3, max_episode_steps=limit, **ways)
    assert native.metadata == sync.metadata
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(native, name) == getattr(sync, name)
    rng = np.random.default_rng(2)
    assert_same(native.reset(seed=5), sync.reset(seed=5))
    episodes = np.zeros(3, int)
    for step in range(4 * limit + 8):
        action = three_actions(native, rng.integers(0, 5, 3))
        optimal = rng.random(3) < 0.5
        action[optimal] = native.unwrapped.expert_action()[optimal]
        ours, theirs = native.step(action), sync.step(action)
        assert_same(ours, theirs, f"step {step}")
        over = ours[2] | ours[3]
        episodes += over
        mask = over if mode == AutoresetMode.DISABLED else np.zeros(3, bool)
        mask = mask | (np.arange(3) < 1) * (step == 3)  # puts row 0 out of step with the others
        if mask.any():
            seed = 9 if step == 3 else None
            assert_same(*(env.reset(seed=seed, options={"reset_mask": mask.copy()}) for env in (native, sync)))
    assert (episodes >= 3).all()


def scribble(value):
    """Overwrite everything that an env returned."""
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, tuple)):
            scribble(item)
        elif isinstance(item, np.ndarray) and item.dtype == object:
            scribble([x for x in item if x is not None])
        elif isinstance(item, np.ndarray):
            item[...] = 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", AutoresetMode)
@ids
def test_what_is_returned_is_a_copy(env_id, mode):
    env, twin = (gymnasium.make_vec(env_id, 3, autoreset_mode=mode, max_episode_steps=4) for _ in range(2))
    scribble(env.reset(seed=1))
    twin.reset(seed=1)
    scribble([env.unwrapped.task_ids])
    ended = False
    for _ in range(9):
        if mode == AutoresetMode.DISABLED and ended:
            scribble(env.reset())
            twin.reset()
        first, second = env.step(three_actions(env, [0, 2, 4])), twin.step(three_actions(env, [0, 2, 4]))
        assert_same(first, second)
        ended = (first[2] | first[3]).any()
        scribble(first)


@ids
def test_seeds_fix_and_resets_hold_the_task(env_id):
    env, vector = gymnasium.make(env_id), gymnasium.make_vec(env_id, 3)
    drawn = []
    for seed in range(8):
        task = env.reset(seed=seed)[1]["task"]
        drawn.append(task)
        assert task == env.reset()[1]["task"] == env.reset(options={})[1]["task"] == env.reset(seed=seed)[1]["task"]
        assert env.unwrapped.task_ids.tolist() == [task]
    assert len(set(drawn)) > 2
    assert vector.reset(seed=2)[1]["task"].tolist() == drawn[2:5]
    assert vector.reset()[1]["task"].tolist() == vector.unwrapped.task_ids.tolist() == drawn[2:5]


@ids
def test_each_row_may_have_a_seed_of_its_own(env_id):
    """As in Gymnasium's sync vector env: a row without one keeps its task."""
    native, sync = gymnasium.make_vec(env_id, 3), gymnasium.make_vec(env_id, 3, vectorization_mode="sync")
    for seed in ([5, 2, 9], [7, None, 3]):
        obs = [env.reset(seed=seed)[0] for env in (native, sync)]
        np.testing.assert_array_equal(*obs)
        assert native.unwrapped.task_ids.tolist() == [int(row.unwrapped.task_ids[0]) for row in sync.envs]
    first = [gymnasium.make_vec(env_id, 3).reset(seed=[5, None, None])[1]["task"] for _ in range(12)]
    assert {tasks[0] for tasks in first} == {gymnasium.make(env_id).reset(seed=5)[1]["task"]}
    assert len({tasks[1] for tasks in first}) > 1  # at the first reset a row without one draws by chance
    for wrong in ([1, 2], "123", [1, -1, 2], 1.5, [1, 2.0, 3]):
        with pytest.raises(ValueError, match="seed"):
            native.reset(seed=wrong)


@pytest.mark.parametrize("env_id", [*NATIVE, REACH])
def test_spaces_draw_for_one_environment_only(env_id):
    one, other = (gymnasium.make(env_id) for _ in range(2))
    rows, more = (gymnasium.make_vec(env_id, 40) for _ in range(2))
    for name in ("action_space", "observation_space"):
        mine, its, drawn = getattr(one, name), getattr(other, name), []
        for _ in range(2):
            mine.seed(0)
            drawn.append(mine.sample())
            mine.seed(0)
            its.seed(1)
            drawn.append(mine.sample())
        for sample in drawn[1:]:
            np.testing.assert_array_equal(sample, drawn[0])
        if getattr(mine, "n", 2) > 1:
            assert not np.array_equal(getattr(rows, name).sample(), getattr(more, name).sample())


@ids
def test_a_first_reset_without_seed_draws_and_holds(env_id):
    task = gymnasium.make_vec(env_id, 200).reset()[1]["task"]
    assert len(set(task)) > 5
    env = gymnasium.make(env_id)
    assert env.reset()[1]["task"] == env.reset()[1]["task"]


@pytest.mark.slow
@ids
def test_make_and_options_choose_the_task(env_id):
    first, second, third = FAMILIES[env_id][1], FAMILIES[env_id][2], FAMILIES[env_id][3]
    env = gymnasium.make(env_id, **first)
    assert env.reset(seed=3)[1]["task"] == 1
    assert env.reset(options={"task": second})[1]["task"] == 2
    assert env.reset(seed=4)[1]["task"] == 2  # make fixes a task: no seed draws another
    vector = gymnasium.make_vec(env_id, 3, **first)
    assert vector.reset(seed=0)[1]["task"].tolist() == [1, 1, 1]
    for task, want in [(second, [2, 2, 2]), ([first, second, third], [1, 2, 3]), (np.array([3, 0, 1]), [3, 0, 1])]:
        assert vector.reset(options={"task": task})[1]["task"].tolist() == want
        assert vector.reset(seed=5)[1]["task"].tolist() == want
    free = gymnasium.make(env_id)
    drawn = free.reset(seed=6)[1]["task"]
    free.reset(options={"task": second})
    assert free.reset()[1]["task"] == 2
    assert free.reset(seed=6)[1]["task"] == drawn


@ids
def test_options_of_masked_rows_leave_the_others_alone(env_id):
    env = gymnasium.make_vec(env_id, 3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(options={"task": np.array([0, 1, 2])})
    obs = env.step(three_actions(env, [2, 2, 2]))[0]
    mask = np.array([False, True, False])
    options = {"task": np.array([3, 3, 3]), "reset_mask": mask}
    again, info = env.reset(options=options)
    assert env.unwrapped.task_ids.tolist() == [0, 3, 2]
    assert info["task"].tolist() == [0, 3, 0]
    assert info["_task"].tolist() == mask.tolist()
    assert again[[0, 2]].tolist() == obs[[0, 2]].tolist()
    assert options.keys() == {"task", "reset_mask"}


@ids
def test_a_recorded_spec_makes_the_same_task_again(env_id):
    recorded = gymnasium.make(env_id, **FAMILIES[env_id][7]).spec.to_json()
    assert gymnasium.make(EnvSpec.from_json(recorded)).reset()[1]["task"] == 7


def test_permutation_may_be_the_tuple():
    env = gymnasium.make("icrl/DarkroomPermuted-v0", permutation=(4, 3, 2, 1, 0))
    assert env.reset()[1]["task"] == 119


@solved
def test_expert_reaches_the_optimal_return(env_id):
    task = some_tasks(env_id, 40)
    env = gymnasium.make_vec(env_id, len(task), autoreset_mode=AutoresetMode.NEXT_STEP)
    env.reset(options={"task": task})
    total, playing, success = np.zeros(len(task)), np.ones(len(task), bool), np.zeros(len(task), bool)
    for _ in range(env.spec.max_episode_steps):
        _, reward, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        total += reward * playing
        success |= info["success"] & playing & (terminated | truncated)
        playing &= ~(terminated | truncated)
    assert not playing.any()
    assert success.all()
    np.testing.assert_allclose(total, info["optimal_return"], rtol=1e-6)


def best_return(rules, task):
    """Exhaustive dynamic programming over every state that can be reached."""
    actions = np.arange(rules.action_space.n)
    table, frontier = {}, rules.start(np.array([task])).tolist()
    while frontier:
        state = frontier.pop()
        if state not in table:
            nexts, reward = rules.step(np.full(len(actions), state), actions, np.full(len(actions), task))
            table[state] = list(zip(nexts.tolist(), reward.tolist(), strict=True))
            frontier += nexts.tolist()
    value = dict.fromkeys(table, 0.0)
    for _ in range(rules.horizon):
        value = {state: max(reward + value[to] for to, reward in options) for state, options in table.items()}
    return value[int(rules.start(np.array([task]))[0])]


@pytest.mark.slow
@finite
def test_optimal_return_is_what_exhaustive_search_finds(env_id):
    rules = FAMILIES[env_id].rules
    task = np.append(some_tasks(env_id, 4), rules.num_tasks // 2)  # the last: a goal on the start, where there is one
    assert [best_return(rules, t) for t in task] == rules.optimal_return(task).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 2, 5, 9])
def test_optimal_return_when_the_horizon_is_short(horizon):
    rules = type(FAMILIES["icrl/DarkKeyToDoor-v0"].rules)(size=3, horizon=horizon)
    task = np.arange(rules.num_tasks)
    assert [best_return(rules, t) for t in task] == rules.optimal_return(task).tolist()


@rooms
def test_rendering(env_id):
    size, start, _ = ROOMS[env_id]
    kwargs = FAMILIES[env_id][0]
    env = gymnasium.make(env_id, render_mode="rgb_array", **kwargs)
    env.reset()
    first = env.render()
    assert first.shape == (24 * size, 24 * size, 3)
    assert first.dtype == np.uint8
    obs, target = start, tuple(start)
    while tuple(obs) == target:  # some action moves the agent
        obs = env.step(env.action_space.sample())[0]
    changed = np.argwhere((env.render() != first).any(-1)) // 24
    assert {tuple(cell) for cell in changed.tolist()} == {target, tuple(obs.tolist())}

    vector = gymnasium.make_vec(env_id, 2, render_mode="ansi", **kwargs)
    vector.reset()
    texts = vector.render()
    assert len(texts) == 2
    assert texts[0] == texts[1]
    rows = [line.split(" ") for line in texts[0].splitlines()[:size]]
    assert rows[start[0]][start[1]] in "A*"
    assert sum(letter in "A*" for row in rows for letter in row) == 1
    silent = gymnasium.make(env_id).unwrapped
    silent.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert silent.render() is None


def test_drawings_follow_the_key():
    env = gymnasium.make("icrl/DarkKeyToDoor-v0", render_mode="ansi", key=(4, 4), door=(4, 5))
    env.reset()
    texts = [env.render()]
    for action in (4, 2):
        env.step(action)
        texts.append(env.render())
    middle = [text.splitlines()[4] for text in texts]
    assert middle == [". . . . * D . . .", ". . . . A D . . .", ". . . . . * . . ."]
    assert [text.splitlines()[9] for text in texts] == ["key hidden", "key held", "door open"]


def started(env_id="icrl/Darkroom-v0", **kwargs):
    env = gymnasium.make_vec(env_id, **kwargs) if "num_envs" in kwargs else gymnasium.make(env_id, **kwargs)
    env.reset(seed=0)
    return env


BAD = {
    "goal outside": (lambda: started(goal=(9, 0)), r"goal=\(9, 0\): give two integers from 0 to 8"),
    "goal not a pair": (lambda: started(goal=4), "goal=4: give two integers"),
    "goal not integers": (lambda: started(goal=(1.0, 2)), r"goal=\(1.0, 2\)"),
    "a misspelt argument": (lambda: started(gaol=(1, 2)), "unknown argument 'gaol'.*did you mean 'goal'"),
    "size": (lambda: started(size=1), "size=1: give an integer from 2 to 32"),
    "start": (lambda: started(start=(0, 10)), r"start=\(0, 10\)"),
    "horizon": (lambda: started(horizon=0), "horizon=0"),
    "render mode": (lambda: started(num_envs=2, render_mode="human"), "render_mode='human': allowed are None, ansi"),
    "a key alone": (lambda: started("icrl/DarkKeyToDoor-v0", key=(1, 1)), "give key and door"),
    "permutation": (lambda: started("icrl/DarkroomPermuted-v0", permutation=120), "permutation=120.*0 to 119"),
    "no order": (lambda: started("icrl/DarkroomPermuted-v0", permutation=(0, 0, 1, 2, 3)), "give an order"),
    "a ragged order": (
        lambda: started("icrl/DarkroomPermuted-v0", permutation=([0], 1, 2, 3, 4)),
        r"permutation=\(\[0\], 1, 2, 3, 4\): give an order",
    ),
    "one arm": (lambda: started("icrl/BernoulliBandit-v0", means=(0.5,)), r"means=\(0.5,\): give from 2 to 50 arms"),
    "a mean outside": (lambda: started("icrl/BernoulliBandit-v0", means=(0.5, 1.5)), "numbers from 0 to 1"),
    "a mean that is none": (lambda: started("icrl/BernoulliBandit-v0", means=(0.5, float("nan"))), "from 0 to 1"),
    "means as a str": (lambda: started("icrl/BernoulliBandit-v0", means="high"), "means='high': give from 2 to 50"),
    "too many arms": (
        lambda: started("icrl/BernoulliBandit-v0", num_arms=2, means=(0.1, 0.2, 0.3)),
        "from 2 to 2 arms",
    ),
    "number of arms": (lambda: started("icrl/BernoulliBandit-v0", num_arms=1), "num_arms=1: give an integer from 2"),
    "no number of arms": (lambda: started("icrl/GaussianBandit-v0", num_arms=None), "num_arms=None: give an integer"),
    "weights in one row": (lambda: started("icrl/ContextualBandit-v0", weights=(0.5, 1)), "arms, lists of 2 numbers"),
    "weights of three": (lambda: started("icrl/ContextualBandit-v0", weights=[(1, 2, 3)] * 4), "lists of 2 numbers"),
    "weights for means": (lambda: started("icrl/BernoulliBandit-v0", weights=(1, 2)), "unknown argument 'weights'"),
    "an arm outside": (lambda: started("icrl/BernoulliBandit-v0").step(50), "action=50 is outside Discrete"),
    "num_envs": (lambda: started(num_envs=0), "num_envs=0"),
    "time limit": (lambda: started(num_envs=2, max_episode_steps=0), "max_episode_steps=0"),
    "autoreset mode": (lambda: started(num_envs=2, autoreset_mode="same"), "autoreset_mode='same': allowed are"),
    "unknown option": (lambda: started().reset(options={"tasks": {}}), "unknown option 'tasks'.*mean 'task'"),
    "options that are no dict": (lambda: started().reset(options=5), "options=5: give a dict of task"),
    "options of rows that are no dict": (
        lambda: started(num_envs=2).reset(options=["task"]),
        r"options=\['task'\]: give a dict of task, reset_mask",
    ),
    "an array for a key": (
        lambda: started("icrl/DarkKeyToDoor-v0", key=np.ones((2, 2))),
        "give key and door, such as {'key': ",
    ),
    "a goal missing": (
        lambda: started("icrl/DarkroomMacro-v0", action_set=tuple(range(100))),
        r"^task {'action_set': .{,80}\.\.\.: give goal and action_set, such as .{,80}\.$",
    ),
    "a long option": (
        lambda: started().reset(options={"x" * 200: 1}),
        r"^unknown option .{,80}: allowed are task\.$",
    ),
    "empty task": (lambda: started().reset(options={"task": {}}), "give goal"),
    "misspelt task": (lambda: started().reset(options={"task": {"gaol": (1, 2)}}), "did you mean 'goal'"),
    "task a str": (lambda: started().reset(options={"task": "x"}), r"options\['task'\]='x': give a dict such as"),
    "too few tasks": (lambda: started(num_envs=3).reset(options={"task": [{"goal": (1, 2)}]}), "3 of them"),
    "ragged tasks": (lambda: started(num_envs=3).reset(options={"task": [[1], [1, 2], 3]}), "3 of them"),
    "float tasks": (lambda: started(num_envs=2).reset(options={"task": np.ones(2)}), "integer array of 2 task ids"),
    "task id": (lambda: started(num_envs=2).reset(options={"task": np.array([0, 81])}), "go from 0 to 80"),
    "mask shape": (lambda: started(num_envs=2).reset(options={"reset_mask": np.ones(3, bool)}), r"give \(2,\) bools"),
    "mask empty": (
        lambda: started(num_envs=2).reset(options={"reset_mask": np.zeros(2, bool)}),
        "bools, one of them True",
    ),
    "action high": (lambda: started().step(5), "action=5 is outside Discrete"),
    "action low": (lambda: started().step(np.int64(-1)), "action=-1"),
    "action float": (lambda: started().step(1.0), "action=1.0: give one integer from 0 to 4"),
    "action bool": (lambda: started().step(True), "action=True"),
    "action array": (lambda: started().step(np.array([1])), r"action=array\(\[1\]\)"),
    "actions high": (lambda: started(num_envs=2).step(np.array([0, 7])), "action=7 is outside"),
    "actions shape": (lambda: started(num_envs=2).step(np.zeros((2, 1), int)), r"integer array of shape \(2,\)"),
    "actions float": (lambda: started(num_envs=2).step(np.zeros(2)), "integer array"),
    "actions ragged": (
        lambda: started(num_envs=2).step([[0], [1, 2]]),
        r"action=\[\[0\], \[1, 2\]\]: give an integer array",
    ),
    "actions missing": (lambda: started(num_envs=2).step(None), "action=None"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_bad_input_loses_nothing():
    env, twin = started(num_envs=3), started(num_envs=3)
    for bad in (lambda: env.step(np.array([0, 0, 9])), lambda: env.reset(options={"task": np.array([1, 2, 99])})):
        with pytest.raises(ValueError):
            bad()
    assert_same(env.step(np.array([0, 2, 4])), twin.step(np.array([0, 2, 4])))


@pytest.mark.parametrize("kwargs", [{}, {"num_envs": 2}, {"num_envs": 2, "goal": (1, 1), "render_mode": "ansi"}])
def test_using_an_env_before_reset_says_so(kwargs):
    env = gymnasium.make_vec("icrl/Darkroom-v0", **kwargs) if kwargs else gymnasium.make("icrl/Darkroom-v0")
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros(2, int) if kwargs else 0)
    for method in (env.unwrapped.expert_action, env.render):
        with pytest.raises(ResetNeeded, match="reset"):
            method()


def test_a_finished_row_must_be_reset_when_autoreset_is_disabled():
    env = started(num_envs=2, autoreset_mode="Disabled", max_episode_steps=1)
    env.step(np.zeros(2, int))
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"rows \[1\] are over"):
        env.step(np.zeros(2, int))


def test_minus_one_never_truncates():
    env = started(num_envs=2, max_episode_steps=-1)
    assert not any(env.step(np.zeros(2, int))[3].any() for _ in range(50))


class Cliff(type(FAMILIES["icrl/Darkroom3x3-v0"].rules)):
    """A room in which the last corner ends an episode."""

    def terminated(self, state, task):
        return state == self.cells - 1


class CliffEnv(ArrayEnv):
    rules_class = Cliff


class CliffVectorEnv(ArrayVectorEnv):
    rules_class = Cliff


@pytest.mark.parametrize("mode", AutoresetMode)
def test_rules_may_end_an_episode_before_its_horizon(mode):
    native = CliffVectorEnv(2, autoreset_mode=mode, size=3, horizon=4, goal=(0, 0))
    limited = [lambda: TimeLimit(CliffEnv(size=3, horizon=4, goal=(0, 0)), 4)] * 2
    sync = gymnasium.vector.SyncVectorEnv(limited, autoreset_mode=mode)
    assert_same(native.reset(seed=0), sync.reset(seed=0))
    ends = []
    for step in range(12):
        action = np.array([2 * (step % 2), 4])  # down and right: over after two steps
        ours, theirs = native.step(action), sync.step(action)
        assert_same(ours, theirs, f"step {step}")
        ends.append((ours[2].tolist(), ours[3].tolist()))
        if mode == AutoresetMode.DISABLED and (over := ours[2] | ours[3]).any():
            for env in (native, sync):
                env.reset(options={"reset_mask": over.copy()})
    assert ends[:2] == [([False, False], [False, False]), ([True, False], [False, False])]
    assert ends[3][1] == [False, True]


def learn(rules, task, episodes, seed=0, sharpness=1.0):
    """Posterior sampling on rules and belief alone: returns (B, episodes), and the belief."""
    rng = np.random.default_rng(seed)
    rows, everyone = len(task), np.ones(len(task), bool)
    belief = rules.belief(rows, rng, sharpness)
    returns = np.zeros((rows, episodes))
    for episode in range(episodes):
        state = rules.start(task)
        obs = rules.observe(state)
        belief.begin(everyone, obs)
        guess = belief.sample(np.arange(rows), rules.horizon)
        rewarded = ~everyone
        for step in range(rules.horizon):
            stale = np.flatnonzero(rewarded | ~belief.possible(guess))
            guess[stale] = belief.sample(stale, rules.horizon - step)
            action = belief.action(guess)
            state, reward = rules.step(state, action, task)
            next_obs = rules.observe(state)
            belief.update(everyone, obs, action, reward, next_obs)
            obs, rewarded = next_obs, reward > 0
            returns[:, episode] += reward
        assert belief.possible(task).all()
    return returns, belief


@pytest.mark.slow
def test_darkroom_belief_finds_goals_as_fast_as_the_prototype():
    rules, task = FAMILIES["icrl/Darkroom-v0"].rules, np.tile(np.arange(81), 30)
    returns, _ = learn(rules, task, 8)
    np.testing.assert_allclose(returns.mean(0), [2.3, 6.3, 9.9, 12.7, 14.8, 16.2, 16.5, 16.5], atol=0.4)
    found = returns[:, :6].sum(1) > 0
    assert found.mean() > 0.985
    np.testing.assert_array_equal(returns[found, 7], rules.optimal_return(task[found]))


def test_key_to_door_belief_learns_both():
    returns, _ = learn(FAMILIES["icrl/DarkKeyToDoor-v0"].rules, some_tasks("icrl/DarkKeyToDoor-v0", 300), 8)
    assert 0.4 < returns[:, 0].mean() < 1.2
    assert returns[:, 7].mean() > 1.95


def test_permuted_belief_learns_the_controls():
    returns, belief = learn(FAMILIES["icrl/DarkroomPermuted-v0"].rules, np.arange(120), 3)
    assert returns[:, 0].mean() > 20
    assert returns[:, 2].mean() > 34
    assert belief.mask.any(1).all()
    assert belief.mask.sum(1).mean() < 7


def test_darkroom_draws_follow_the_sharpened_posterior():
    rules, rng = FAMILIES["icrl/Darkroom3x3-v0"].rules, np.random.default_rng(0)
    belief = rules.belief(30_000, rng, sharpness=1.0)
    rows = np.arange(30_000)
    weight = np.exp(-np.array([2, 1, 2, 1, 0, 1, 2, 1, 2]))
    for steps_left, allowed in [(6, np.ones(9)), (1, [0, 1, 0, 1, 1, 1, 0, 1, 0])]:
        share = np.bincount(belief.sample(rows, steps_left), minlength=9) / len(rows)
        np.testing.assert_allclose(share, weight * allowed / (weight @ allowed), atol=0.01)
    for cell in (4, 1, 4, 3, 4, 5, 4, 7, 4):  # nothing within one step is left: any possible cell will do
        belief.update(rows >= 0, None, None, np.zeros(len(rows)), np.tile(divmod(cell, 3), (len(rows), 1)))
    assert set(belief.sample(rows[:500], 1)) == {0, 2, 6, 8}


@pytest.mark.parametrize("env_id", ["icrl/Darkroom-v0", "icrl/DarkroomPermuted-v0", "icrl/PointRobotSparse-v0"])
def test_infinite_sharpness_takes_the_quickest_hypothesis_and_of_equals_the_first(env_id):
    rules = FAMILIES[env_id].rules
    sharpness = np.array([np.inf, 1.0, np.inf, 0.0])
    beliefs = [rules.belief(4, np.random.default_rng(seed), sharpness) for seed in range(20)]
    drawn = [belief.sample(np.arange(4), rules.horizon) for belief in beliefs]
    assert len({(row[0], row[2]) for row in drawn}) == 1
    assert len({row[1] for row in drawn}) > 1
    assert len({row[3] for row in drawn}) > 5


def test_darkroom_action_prefers_the_cell_not_yet_seen():
    rules, rng = FAMILIES["icrl/Darkroom-v0"].rules, np.random.default_rng(0)
    belief = rules.belief(2000, rng)
    everyone, goal = np.ones(2000, bool), np.full(2000, 80)
    assert 0.45 < (belief.action(goal) == 0).mean() < 0.55  # both ways are new: a coin flip
    belief.update(everyone, None, None, np.zeros(2000), np.tile((5, 4), (2000, 1)))
    belief.begin(everyone, np.tile((4, 4), (2000, 1)))
    assert set(belief.action(goal)) == {2}  # x0+1 leads to (5, 4), which was seen
    assert set(belief.action(np.full(2000, 40))) == {4}
    assert not belief.possible(np.full(2000, 49)).any()
    assert belief.possible(np.full(2000, 40)).all()


def test_rows_that_are_not_live_learn_nothing():
    rules = FAMILIES["icrl/DarkroomPermuted-v0"].rules
    belief = rules.belief(2, np.random.default_rng(0))
    obs = np.zeros((2, 2), int)
    belief.begin(np.ones(2, bool), obs)
    belief.update(np.array([True, False]), obs, np.array([0, 0]), np.zeros(2), np.array([[1, 0], [1, 0]]))
    assert belief.mask.sum(1).tolist() == [24, 120]  # action 0 moved x0+1: 4! orders are left
    belief.update(np.ones(2, bool), obs, np.array([1, 1]), np.zeros(2), np.array([[1, 0], [0, 0]]))
    # Row 1 stayed in the corner: two walls and the stay move fit, so 3 * 4! orders do.
    assert belief.mask.sum(1).tolist() == [12, 72]


def test_picking_up_the_key_leaves_its_cell_possible_for_the_door():
    rules = FAMILIES["icrl/DarkKeyToDoor-v0"].rules
    belief = rules.belief(1, np.random.default_rng(0))
    everyone, here = np.ones(1, bool), np.array([[4, 4]])
    belief.begin(everyone, here)
    belief.update(everyone, here, np.array([4]), np.ones(1), here)
    assert belief.possible(np.array([40 * 81 + 40])).all()
    assert not belief.possible(np.array([41 * 81 + 40])).any()
    belief.update(everyone, here, np.array([4]), np.zeros(1), here)
    assert not belief.possible(np.array([40 * 81 + 40])).any()
    belief.mask[:] = False
    with pytest.raises(ValueError, match="contradicts the rules"):
        belief.sample(np.array([0]), 5)
