"""Action sets in acting: from arguments, envs and histories; no other action is chosen."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from icrl_envs import FAMILIES, register_family, unregister_family

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.action_masks import check_legal, read_action_set
from icrl_agents.core.env_actions import legal_actions
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.methods import METHODS
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes as live_lifetimes
from tests.conftest import one_line
from tests.fakes import SPACES, Variant, lifetimes

ENV = "icrl/BernoulliBandit-v0"
MASK = np.array([[1, 1, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


class TestActing:
    @pytest.mark.slow
    @pytest.mark.parametrize("deterministic", [False, True])
    @pytest.mark.parametrize("method", ["headless-ad", "ad", "dpt", "idt", "cad"])
    def test_no_illegal_action_is_ever_chosen(self, method: str, deterministic: bool):
        agent, steps = Variant(method).build(), lifetimes(count=20)
        mask = MASK
        agent.reset(num_envs=3, action_set=mask, seed=0)
        seen = np.zeros_like(mask)
        for t in range(60):
            action = agent.act(steps.obs[:, t % 20], deterministic=deterministic)
            seen[np.arange(3), action] = True
            none = np.zeros(3, bool)
            agent.observe(steps.next_obs[:, t % 20], steps.reward[:, t % 20], none, none, {})
        assert not (seen & ~mask).any()
        if not deterministic:
            assert seen.sum() > 3

    def test_an_env_tells_its_action_sets(self):
        env = gymnasium.make_vec(ENV, num_envs=3)
        env.reset(seed=0)
        agent = ICAgent(METHODS["headless-ad"](env.single_observation_space, env.single_action_space)).eval()
        agent.reset(env, seed=0)
        mask = agent.context.steps.static["action_mask"]
        np.testing.assert_array_equal(mask, env.unwrapped.action_mask())
        sync = gymnasium.make_vec(ENV, num_envs=3, vectorization_mode="sync")
        sync.reset(seed=0)
        np.testing.assert_array_equal(legal_actions(sync), mask)
        others = gymnasium.make_vec(ENV, num_envs=2, vectorization_mode="async")
        others.reset(seed=0)
        np.testing.assert_array_equal(legal_actions(others), np.stack(others.call("action_mask")))
        others.close()

    def test_an_env_without_sets_has_none(self):
        env = gymnasium.make_vec("icrl/Darkroom-v0", num_envs=2)
        assert legal_actions(env) is None
        for mode in ("sync", "async"):
            poles = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode=mode)
            assert legal_actions(poles) is None
            poles.close()

    def test_a_mask_of_states_is_no_action_set(self):
        taxi = gymnasium.make("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3")  # action_mask(state)
        taxi.reset(seed=0)
        agent = ICAgent(METHODS["headless-ad"](taxi.observation_space, taxi.action_space)).eval()
        agent.reset(taxi)
        assert agent.context.steps.static["action_mask"].all()

    def test_an_env_with_other_actions_will_do(self):
        spaces = (gymnasium.make_vec(ENV, num_envs=1, num_arms=n) for n in (4, 9))
        few, many = spaces
        agent = ICAgent(METHODS["headless-ad"](few.single_observation_space, few.single_action_space)).eval()
        many.reset(seed=0)
        agent.reset(many, seed=0)
        assert agent.context.steps.static["action_mask"].shape == (1, 9)
        one_line(
            lambda: ICAgent(METHODS["ad"](few.single_observation_space, few.single_action_space)).reset(many),
            ValueError,
            "action_space is Discrete(9)",
        )

    def test_sets_that_a_user_gives(self):
        agent = Variant("headless-ad").build()
        agent.reset(num_actions=3)
        assert agent.context.steps.static["action_mask"].tolist() == [[True] * 3]
        agent.reset(num_envs=2, num_actions=[2, 3])
        assert agent.context.steps.static["action_mask"].tolist() == [[True, True, False], [True] * 3]
        agent.reset(num_envs=2, action_set=np.array([[1, 0, 1], [0, 1, 1]], np.int8))  # as an info has it
        assert agent.context.steps.static["action_mask"].tolist() == [[True, False, True], [False, True, True]]
        agent.reset(action_set=np.array([0, 3], np.int8))
        assert agent.context.steps.static["action_mask"].tolist() == [[True, False, False, True]]
        agent.reset(action_set={1, 4})
        assert agent.context.steps.static["action_mask"].tolist() == [[False, True, False, False, True]]
        agent.reset()
        assert agent.context.steps.static["action_mask"].tolist() == [[True] * 5]

    def test_a_new_task_in_some_rows_draws_anew_there(self):
        agent = Variant("headless-ad").build()
        agent.reset(num_envs=3, num_actions=4, seed=0)
        before = agent.context.steps.static["action_vectors"].copy()
        agent.reset(
            mask=np.array([False, True, False]), action_set=np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1] * 4], bool)
        )
        given = agent.context.steps.static
        assert (given["action_vectors"] == before).all((1, 2)).tolist() == [True, False, True]
        assert given["action_mask"].sum(1).tolist() == [4, 2, 4]
        one_line(lambda: agent.reset(mask=np.ones(3, bool), num_actions=6), ValueError, "another number of actions")
        plain = Variant("ad").build()
        plain.reset(num_envs=3)
        plain.reset(mask=np.array([False, True, False]), action_set=[0, 3])  # where all actions were legal before
        assert plain.context.steps.static["action_mask"].sum(1).tolist() == [5, 2, 5]

    @pytest.mark.parametrize("method", ["headless-ad", "ad"])
    def test_a_new_task_in_some_rows_has_the_sets_of_the_env(self, method: str):
        env = gymnasium.make_vec(ENV, num_envs=2)
        agent = ICAgent(METHODS[method](env.single_observation_space, env.single_action_space)).eval()
        few, many = (FAMILIES[ENV].named(name).ids[0] for name in ("num_10", "num_50"))
        for first, second in ((few, many), (many, few)):
            env.reset(options={"task": np.array([many, first])})
            agent.reset(env)
            rows = np.array([False, True])
            env.reset(options={"task": np.array([many, second]), "reset_mask": rows})
            agent.reset(mask=rows)
            mask = agent.context.steps.static["action_mask"]
            np.testing.assert_array_equal(mask, env.unwrapped.action_mask())

    def test_a_set_that_was_given_stays_where_tasks_are_new(self):
        """Only sets that were read off the env are read off it again."""
        rows = np.array([True, False])
        for env_id, method in (("icrl/Darkroom-v0", "ad"), (ENV, "headless-ad")):
            env = gymnasium.make_vec(env_id, num_envs=2)
            env.reset(seed=0)
            agent = ICAgent(METHODS[method](env.single_observation_space, env.single_action_space)).eval()
            agent.reset(env, action_set=[0, 1])
            agent.reset(mask=rows)
            assert agent.context.steps.static["action_mask"].sum(1).tolist() == [2, 2]

    def test_new_tasks_have_no_more_actions_than_their_env(self):
        history = live_lifetimes(ENV, make_source("uniform", ENV), FAMILIES[ENV].named("num_50").ids[:2], 1, 0)
        env = gymnasium.make_vec(ENV, num_envs=2, num_arms=5)
        env.reset(seed=0)
        agent = ICAgent(METHODS["headless-ad"](spaces.Discrete(1), spaces.Discrete(50))).eval()
        agent.reset(env, history=history)
        agent.reset(mask=np.array([True, False]))
        assert agent.context.steps.static["action_mask"].sum(1).tolist() == [5, 5]

    def test_a_planner_may_choose_once_all_actions_are_legal(self):
        agent = Variant("ad", (("dynamics", True),)).build()
        agent.use_plan("lookahead")
        agent.reset(num_envs=2, action_set=[0, 1])
        obs = lifetimes(rows=2, count=1).obs[:, 0]
        one_line(lambda: agent.act(obs), ValueError, "action set")
        agent.reset(num_envs=2, num_actions=5)
        agent.act(obs)

    def test_a_history_brings_its_set(self):
        steps = live_lifetimes(ENV, make_source("uniform", ENV), FAMILIES[ENV].named("num_10").ids[:2], 1, 0)
        agent = ICAgent(METHODS["ad"](spaces.Discrete(1), spaces.Discrete(50))).eval()
        agent.reset(num_envs=2, history=steps)
        assert agent.context.steps.static["action_mask"].sum(1).tolist() == [10, 10]
        agent.reset(num_envs=2, history=steps, num_actions=12)
        assert agent.context.steps.static["action_mask"].sum(1).tolist() == [12, 12]
        bad = steps._replace(static={"action_mask": np.ones((2, 7), bool)})
        one_line(lambda: agent.reset(num_envs=2, history=bad), ValueError, "history's action_mask", "(2, 7)", "(2, 50)")

    @pytest.mark.parametrize("actions", [{"num_actions": 2}, {"action_set": [1, 0]}])
    def test_a_history_may_have_actions_that_are_gone(self, actions: dict):
        agent, steps = Variant("headless-ad").build(), lifetimes(count=6)
        assert steps.action.max() > 1
        agent.reset(num_envs=3, history=steps, seed=0, **actions)
        wide = np.arange(agent.context.steps.static["action_mask"].shape[1]) < 2
        assert len(wide) == steps.action.max() + 1
        assert (agent.context.steps.static["action_mask"] == wide).all()
        for _ in range(20):
            assert (agent.act(steps.obs[:, 0]) < 2).all()
            agent.observe(steps.obs[:, 0], np.zeros(3, np.float32), *np.zeros((2, 3), bool))

    def test_the_step_before_a_history_may_be_gone_too(self):
        """As in a window that has slid since its set was larger."""
        agent, steps = Variant("headless-ad").build(), lifetimes(count=6).map(np.copy)
        steps.action[:], steps.start[:] = 0, False
        steps.prev_action[:, 0], steps.prev_action[:, 1:] = 9, 0
        agent.reset(num_envs=3, num_actions=4, history=steps, seed=0)
        assert agent.context.steps.static["action_mask"].shape == (3, 10)
        assert (agent.act(steps.obs[:, 0]) < 4).all()
        agent.observe(steps.obs[:, 0], np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        agent.reset(mask=np.array([True, False, False]), num_actions=4)
        assert agent.context.steps.static["action_mask"].sum(1).tolist() == [4, 4, 4]

    def test_a_history_of_more_actions_than_the_agents_needs_a_set(self):
        agent, steps = Variant("headless-ad").build(), lifetimes(count=6)
        steps = steps._replace(action=steps.action + 9, prev_action=steps.prev_action + 9)
        one_line(lambda: agent.reset(num_envs=3, history=steps), ValueError, "outside the action set", "num_actions")

    def test_a_planner_is_refused(self):
        agent = Variant("ad", (("dynamics", True),)).build()
        agent.reset(action_set=[0, 2])
        agent.use_plan("beam")
        one_line(lambda: agent.act(lifetimes().obs[0, 0]), ValueError, "plan=None")
        assert agent.act(lifetimes().obs[0, 0], plan=None) in (0, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"action_set": [0, 1], "num_actions": 2}, ["action_set", "num_actions", "one of them"]),
        ({"num_actions": 0}, ["num_actions=0", "1 to 5"]),
        ({"num_actions": 6}, ["num_actions=6", "1 to 5"]),
        ({"num_actions": 2.5}, ["num_actions=2.5"]),
        ({"num_actions": [2, 3]}, ["num_actions=[2, 3]"]),
        ({"action_set": [0, 5]}, ["action_set=[0, 5]", "0 to 4"]),
        ({"action_set": []}, ["action_set=[]"]),
        ({"action_set": [1, 1, 0, 1]}, ["different actions", "or bools"]),
        ({"action_set": [[0, 1], [2]]}, ["action_set"]),
        ({"action_set": "all"}, ["action_set=all"]),
        ({"action_set": True}, ["action_set=True"]),
        ({"action_set": {"a"}}, ["action_set"]),
        ({"action_set": [True, False]}, ["(5,)", "action_set"]),
        ({"action_set": [False] * 5}, ["row 0", "no legal action"]),
    ],
    ids=str,
)
def test_what_is_no_set_is_refused(settings: dict, words: list[str]):
    one_line(lambda: Variant("ad").build().reset(**settings), ValueError, *words)


def test_histories_outside_their_sets_are_refused():
    steps = lifetimes(count=4)._replace(static={"action_mask": np.ones((3, 5), bool)})
    check_legal(steps)
    steps.static["action_mask"][1, steps.action[1, 2]] = False
    one_line(lambda: check_legal(steps), ValueError, f"action {steps.action[1, 2]} in a task", "keeps to action sets")
    check_legal(steps._replace(mask=steps.mask & (np.arange(3) != 1)[:, None]))  # padding may hold anything


def test_sets_are_about_numbered_actions():
    one_line(lambda: Variant("ad").build("vector").reset(num_actions=2), ValueError, "actions 0, 1, ...")
    assert read_action_set(None, None, 3, 0) is None


def test_a_history_records_the_action_sets(tmp_path):
    env = RecordHistory(gymnasium.make_vec(ENV, num_envs=3))
    env.reset(seed=0)
    env.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(env.steps().static["action_mask"], env.unwrapped.action_mask())


def test_a_mask_is_heeded_whether_or_not_the_tasks_are_registered(masked_env):
    before = legal_actions(gymnasium.make(masked_env, good=1))
    register_family(masked_env, [{"good": good} for good in range(3)], split=(0.67, 0))
    try:
        after = legal_actions(gymnasium.make(masked_env, good=1))
    finally:
        unregister_family(masked_env)
    assert before.tolist() == after.tolist() == [[True, True, False]]


class Says(gymnasium.Env):
    """Its `action_mask()` is what the test says."""

    def __init__(self, mask, action_space=None):
        self.mask, self.observation_space = mask, SPACES["grid"][0]
        self.action_space = action_space or spaces.Discrete(5)

    def action_mask(self):
        return self.mask

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.int32), {}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros(5, bool), ["row 0", "no legal action"]),
        (np.ones(3, bool), ["shape", "(5,)"]),
        (np.array([1, 0, 1], np.int8), ["shape", "(5,)"]),
        (np.array([1, 0, 2, 0, 0]), ["0 or 1"]),
        (np.array([1, 0, 0.5, 0, 0]), ["0 or 1"]),
        ([0, 3], ["shape", "(5,)"]),
        (None, ["None"]),
        ("all", ["all"]),
    ],
    ids=str,
)
def test_a_mask_of_an_environment_that_is_none_is_refused(mask, words: list[str]):
    agent, env = Variant("ad").build(), Says(mask)
    one_line(lambda: agent.reset(env), ValueError, "action_mask()", *words)
    rows = SyncVectorEnv([lambda: Says(mask)] * 2)
    one_line(lambda: RecordHistory(rows).reset(), ValueError, "action_mask()", *words)


@pytest.mark.parametrize("mask", [[1, 0, 1, 0, 0], np.array([1.0, 0, 1, 0, 0]), [True, False, True, False, False]])
def test_a_mask_of_an_environment_is_of_any_type(mask):
    np.testing.assert_array_equal(legal_actions(Says(mask)), [[True, False, True, False, False]])


def test_masks_of_an_environment_are_about_numbered_actions():
    agent = Variant("ad").build("multi")
    env = Says(np.array([1, 0, 1]), agent.action_space)
    env.observation_space = agent.observation_space
    one_line(lambda: agent.reset(env), ValueError, "action_mask()", "MultiDiscrete", "Discrete(n)")
