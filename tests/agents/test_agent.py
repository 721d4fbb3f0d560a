"""The agent API: lifecycle, checks, batches, autoreset modes."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import icrl_agents
from icrl_agents.agents.agent import ICAgent
from icrl_agents.methods import METHODS
from icrl_agents.methods.ad import ADConfig
from icrl_agents.methods.base.config import AgentConfig
from tests.conftest import one_line
from tests.fakes import SPACES, Variant, variants

ID = "icrl/Darkroom-v0"
OBS = np.array([4, 4], np.int32)


@pytest.fixture
def agent():
    return Variant("ad").build()


def live(agent, env, steps, seed=0):
    """The loop of the README; gives every action."""
    actions, done = [], True
    for _ in range(steps):
        obs = env.reset(seed=seed if not actions else None)[0] if done else obs  # noqa: F821 - done at first
        action = agent.act(obs)
        obs, reward, terminated, truncated, info = env.step(action)
        agent.observe(obs, reward, terminated, truncated, info)
        actions.append(int(action))
        done = terminated or truncated
    return actions


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("rows", [None, 1, 3])
def test_actions_lie_in_the_space(kind, rows):
    agent = Variant("ad").build(kind)
    agent.reset(num_envs=rows, seed=0)
    for step in range(20):
        agent.observation_space.seed(step)
        samples = [agent.observation_space.sample() for _ in range(rows or 1)]
        action = agent.act(np.stack(samples) if rows else samples[0], deterministic=step % 2 == 0)
        for one in action if rows else [action]:
            assert agent.action_space.contains(one), (one, type(one))
        flags = np.zeros(rows, bool) if rows else False
        agent.observe(np.stack(samples) if rows else samples[0], np.zeros(rows) if rows else 0.0, flags, flags, {})


def test_reset_forgets_everything(agent):
    env = gymnasium.make(ID, goal=(5, 4))
    agent.reset(seed=0)
    first = live(agent, env, 50)
    agent.reset(seed=0)
    assert live(agent, env, 50) == first
    assert agent.context.length[0] > 0


def test_a_new_episode_forgets_nothing(agent):
    env = gymnasium.make(ID, goal=(5, 4))
    agent.reset(seed=0)
    live(agent, env, 22)
    seen = agent.context.visible()
    assert seen.truncated[0].sum() == 1
    assert seen.first[0].sum() == 1
    assert np.array_equal(seen.prev_reward[0, 1:], seen.reward[0, :-1])


def test_only_masked_rows_forget(agent):
    env = gymnasium.make_vec(ID, num_envs=3)
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0)
    for _ in range(3):
        result = env.step(agent.act(obs))
        agent.observe(*result)
        obs = result[0]
    agent.reset(mask=np.array([False, True, False]))
    assert agent.context.length.tolist() == [3, 0, 3]
    assert agent.context.memory.lengths.tolist() == [3, 0, 3]


def test_steps_that_were_taken_from_a_context_outlive_its_task():
    agent = Variant("ad").build(window=8)
    agent.reset(num_envs=2, seed=0)

    def live(value):
        for _ in range(3):
            agent.act(np.full((2, 2), value))
            agent.observe(np.full((2, 2), value), np.full(2, float(value)), *np.zeros((2, 2), bool), {})

    live(1)
    seen = agent.context.visible()
    assert seen.columns.keys() | seen.extras.keys()
    before = seen.map(np.copy)
    agent.reset(mask=np.array([True, False]))
    live(2)
    for name, value in {**seen.columns, **seen.extras}.items():
        assert np.array_equal(value, {**before.columns, **before.extras}[name]), name


def contexts(mode, steps=50):
    """What an agent knows after scripted actions in a vector env of `mode`."""
    env = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    agent = Variant("ad").build(window=64)
    obs, _ = env.reset(seed=0, options={"task": {"goal": (5, 4)}})
    agent.reset(env, seed=0)
    scripts, taken, resetting = np.random.default_rng(0).integers(0, 5, (2, 200)), np.zeros(2, int), np.zeros(2, bool)
    while taken.min() < steps:
        agent.act(obs)
        action = scripts[np.arange(2), taken]
        agent.session.acted = action  # the same actions in all modes
        obs, reward, terminated, truncated, info = env.step(action)
        agent.observe(obs, reward, terminated, truncated, info)
        taken += ~resetting
        ended = terminated | truncated
        resetting = ended & ~resetting & (mode == AutoresetMode.NEXT_STEP)
        if mode == AutoresetMode.DISABLED and ended.any():
            obs, _ = env.reset(options={"reset_mask": ended})
    return agent.context.visible().window(0, steps)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_autoreset_modes_give_the_same_context(mode):
    expected, found = contexts(AutoresetMode.SAME_STEP), contexts(mode)
    for name, one in expected.columns.items():
        np.testing.assert_array_equal(one, found.columns[name], err_msg=name)
    ends = np.argwhere(expected.truncated)
    assert len(ends) == 4
    for row, step in ends:  # the final observation continues the walk, a reset one would be the centre
        assert abs(expected.next_obs[row, step] - expected.obs[row, step]).sum() <= 1


def test_same_step_is_recognised_without_the_env(agent):
    agent.reset(num_envs=2, seed=0)
    agent.act(np.stack([OBS, OBS]))
    final = np.array([np.array([8, 8], np.int32), None], object)
    ends = np.array([True, False])
    agent.observe(np.stack([OBS, OBS]), np.zeros(2), ends & False, ends, {"final_obs": final})
    assert agent.context.visible().next_obs[:, 0].tolist() == [[8, 8], [4, 4]]


class TestMistakes:
    """Each gets one clear error and loses nothing."""

    def test_act_before_reset(self, agent):
        with pytest.raises(RuntimeError, match=r"call agent.reset\(\)"):
            agent.act(OBS)

    def test_act_twice(self, agent):
        agent.reset(seed=0)
        agent.act(OBS)
        with pytest.raises(RuntimeError, match="twice: call observe"):
            agent.act(OBS)
        agent.observe(OBS, 0.0, False, False, {})
        agent.act(OBS)

    def test_observe_before_act(self, agent):
        agent.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"observe.* before act"):
            agent.observe(OBS, 0.0, False, False)

    @pytest.mark.parametrize(
        ("obs", "message"),
        [
            (np.array([4, 4, 4], np.int32), r"shape \(3,\), expected \(2,\)"),
            (np.zeros((5, 2), np.int32), r"reset\(num_envs=5\)"),
            (np.array([4.5, 4.0]), "dtype float64, expected int32"),
            (np.array([9, 0], np.int32), r"outside \[0, 0\]..\[8, 8\]"),
            (None, "obs is None, expected an array of numbers"),
        ],
    )
    def test_bad_obs(self, agent, obs, message):
        agent.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            agent.act(obs)
        agent.act(OBS)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"reward": np.nan}, "NaN"),
            ({"reward": np.zeros(2)}, "reward has shape"),
            ({"terminated": 1}, "terminated has dtype int64"),
            ({"truncated": np.zeros(1, bool)}, "truncated"),
            ({"obs": np.array([-1, 0], np.int32)}, "outside"),
        ],
    )
    def test_bad_observe(self, agent, change, message):
        agent.reset(seed=0)
        agent.act(OBS)
        good = {"obs": OBS, "reward": 0.0, "terminated": False, "truncated": False}
        with pytest.raises(ValueError, match=message):
            agent.observe(**{**good, **change})
        agent.observe(**good)
        assert agent.context.length[0] == 1

    def test_foreign_env(self, agent):
        with pytest.raises(ValueError, match="the env's observation_space is Discrete"):
            agent.reset(gymnasium.make("FrozenLake-v1"))

    @pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
    def test_bad_num_envs(self, agent, value):
        with pytest.raises(ValueError, match="num_envs="):
            agent.reset(num_envs=value)

    def test_env_and_num_envs_differ(self, agent):
        with pytest.raises(ValueError, match="num_envs=2, but the env has 3"):
            agent.reset(gymnasium.make_vec(ID, num_envs=3), num_envs=2)

    @pytest.mark.parametrize("mask", [np.zeros(2, bool), np.zeros(3, int), [True]])
    def test_bad_mask(self, agent, mask):
        agent.reset(num_envs=3)
        with pytest.raises(ValueError, match="mask has dtype"):
            agent.reset(mask=mask)

    def test_mask_between_act_and_observe(self, agent):
        agent.reset(num_envs=2)
        agent.act(np.stack([OBS, OBS]))
        with pytest.raises(RuntimeError, match="after observe, before the next act"):
            agent.reset(mask=np.array([True, False]))

    @pytest.mark.parametrize("env", ["icrl/Darkroom-v0", 4])
    def test_no_env(self, agent, env):
        with pytest.raises(ValueError, match="expected a Gymnasium environment"):
            agent.reset(env)

    def test_bad_final_obs(self, agent):
        agent.reset(num_envs=2)
        obs, ends = np.stack([OBS, OBS]), np.array([True, False])
        agent.act(obs)
        final = np.array([np.array([9, 9], np.int32), None], object)
        with pytest.raises(ValueError, match=r"info\['final_obs'\].*outside"):
            agent.observe(obs, np.zeros(2), ends & False, ends, {"final_obs": final})
        final[0] = OBS
        agent.observe(obs, np.zeros(2), ends & False, ends, {"final_obs": final})
        assert agent.context.length.tolist() == [1, 1]

    def test_full_context(self, agent):
        agent.reset(num_envs=1)
        step = np.array([0]), np.zeros(1), OBS[None], np.zeros(1, bool), np.zeros(1, bool), np.ones(1, bool)
        for _ in range(agent.config.window):
            agent.context.close(*step)
        with pytest.raises(ValueError, match="holds 9 steps already"):
            agent.context.close(*step)

    def test_damaged_weights(self, agent):
        agent.reset(seed=0)
        torch.nn.init.constant_(agent.method.body.norm.weight, float("nan"))
        with pytest.raises(ValueError, match="not finite"):
            agent.act(OBS)

    def test_training_mode(self, agent):
        agent.train()
        agent.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"agent.eval\(\)"):
            agent.act(OBS)

    def test_space_without_codec(self):
        with pytest.raises(ValueError, match="no codec for Text"):
            ICAgent(METHODS["ad"](spaces.Text(3), spaces.Discrete(2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": "64"}, "width='64' is not an int"),
        ({"width": True}, "not an int"),
        ({"width": 10**9}, "width=1000000000 is outside"),
        ({"width": 30, "heads": 4}, "even multiple"),
        ({"window": 8, "slide": 8}, "slide=8 must be smaller than window=8"),
        ({"dropout": float("nan")}, "outside"),
    ],
)
def test_bad_config(settings, message):
    with pytest.raises(ValueError, match=message):
        AgentConfig(**settings)


def test_bad_layout():
    with pytest.raises(ValueError, match="layout='packd', choose"):
        ADConfig(layout="packd")
    with pytest.raises(ValueError, match="predicts actions only"):
        ADConfig(layout="packed", dynamics=True)


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_memory_does_not_grow(variant):
    agent = variant.build()
    agent.reset(seed=0)
    sizes = set()
    for _ in range(3 * agent.config.window):
        agent.act(OBS)
        agent.observe(OBS, 0.0, False, False, {})
        sizes.add(len(pickle.dumps((agent.context.steps.columns, agent.context.memory))))
    assert len(sizes) == 1


def test_public_names():
    for name in icrl_agents.__all__:
        assert getattr(icrl_agents, name) is not None
    assert len(icrl_agents.__all__) <= 15
    with pytest.raises(AttributeError, match="no attribute 'agnet'"):
        icrl_agents.agnet  # noqa: B018


def test_sampling_follows_the_distribution(agent):
    agent.reset(num_envs=4000, seed=0)
    obs = np.tile(OBS, (4000, 1))
    action = agent.act(obs)
    with torch.no_grad():
        agent.reset(num_envs=1)
        expected = agent.policy(agent.context, OBS[None]).logits.exp()[0].numpy()
    found = np.bincount(action, minlength=5) / 4000
    np.testing.assert_allclose(found, expected, atol=0.04)


class TestAroundAMethod:
    """An agent forwards what users of a `torch.nn.Module` need to its method, and says in three lines what it is."""

    def test_weights_are_those_of_the_method(self, agent):
        assert list(agent.state_dict()) == list(agent.method.state_dict())
        assert [id(one) for one in agent.parameters()] == [id(one) for one in agent.method.parameters()]
        assert [name for name, _ in agent.named_parameters()] == [name for name, _ in agent.method.named_parameters()]

    def test_mode_and_device_are_those_of_the_method(self, agent):
        assert agent.train() is agent
        assert agent.training is agent.method.training is True
        assert agent.eval() is agent
        assert agent.training is agent.method.training is False
        assert agent.to("meta") is agent
        assert agent.device == agent.method.device == torch.device("meta")
        assert all(parameter.is_meta for parameter in agent.parameters())

    def test_spaces_and_config_are_those_of_the_method(self, agent):
        assert agent.config is agent.method.config
        assert agent.observation_space is agent.method.observation_space
        assert agent.action_space is agent.method.action_space

    def test_two_agents_may_share_a_method_and_know_different_tasks(self, agent):
        other = ICAgent(agent.method)
        agent.reset(seed=0)
        other.reset(num_envs=2, seed=0)
        agent.act(OBS)
        agent.observe(OBS, 0.0, False, False, {})
        assert (agent.context.length.tolist(), other.context.length.tolist()) == ([1], [0, 0])

    def test_it_says_what_it_is_in_three_lines(self, agent):
        agent.facts["env_id"] = ID
        assert repr(agent).splitlines() == [
            "ICAgent(AD, new)",
            f"  trained on {ID}: {agent.observation_space} -> {agent.action_space}",
            f"  {sum(p.numel() for p in agent.parameters()):,} parameters, window of 9 steps, on cpu",
        ]
        assert repr(ICAgent.from_pretrained("icrl/ad-darkroom")).startswith("ICAgent(AD, icrl/ad-darkroom)\n")

    def test_facts_are_its_own(self, agent):
        facts = {"env_id": ID}
        one, other = ICAgent(agent.method, facts), ICAgent(agent.method)
        one.facts["source"] = "posterior"
        assert (facts, other.facts) == ({"env_id": ID}, {})


@pytest.mark.parametrize("method", ["icrl/ad-darkroom", METHODS["ad"], None], ids=["id", "class", "nothing"])
def test_an_agent_needs_a_method(method):
    one_line(lambda: ICAgent(method), TypeError, "expected a Method", "from_pretrained")
