"""Environments with Dict and Tuple observations act and are recorded as flat float32 vectors."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs import GymFamily, flat_env, register_family, unregister_family

from icrl_agents import METHODS, HistoryStore, ICAgent, collect, evaluate
from icrl_agents.core.families import make_tasks
from icrl_agents.core.spaces import space_to_json, value_range
from icrl_agents.nn.codecs import make_codec
from tests.conftest import one_line

ID = "test/Parts-v0"
PARTS = spaces.Dict(
    place=spaces.Dict(x=spaces.Box(-9, 9, (2,), np.float64)),
    kind=spaces.Discrete(3, start=1),
    lamps=spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(2))),
)


class Parts(gymnasium.Env):
    """Random observations of several parts; the reward is the task's at action 1."""

    def __init__(self, pay: float = 1.0, observation_space=PARTS, action_space=None):
        self.pay, self.observation_space = pay, observation_space
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), self.pay * action, False, False, {}


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register(ID, Parts, max_episode_steps=5, disable_env_checker=True)
    register_family(GymFamily(ID, [{"pay": 0.1 * number} for number in range(12)]))
    yield
    unregister_family(ID)
    del gymnasium.registry[ID]


def test_the_values_are_those_that_gymnasium_flattens():
    env, twin = flat_env(Parts()), Parts()
    vector, _ = env.reset(seed=3)
    parts, _ = twin.reset(seed=3)
    np.testing.assert_array_equal(vector, spaces.flatten(PARTS, parts).astype(np.float32))
    assert env.observation_space.contains(vector)
    assert vector.shape == (2 + 3 + 2 + 2,)
    assert flat_env(env) is env


def test_rows_are_flat():
    env, _ = make_tasks(ID, [0, 3])
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2, 9)
    assert obs.dtype == np.float32
    _, reward, *_ = env.step(np.array([1, 1]))
    assert reward.tolist() == pytest.approx([0.0, 0.3])


@pytest.mark.slow
def test_histories_and_evaluation(tmp_path):
    store = collect(ID, "ppo", tmp_path / "parts.h5", streams=1, episodes=2, tasks=[1], settings={"n_epochs": 1})
    assert HistoryStore(store)[1, :].obs.shape[2:] == (9,)
    family = make_tasks(ID, [0]).env
    spaces_of_one = family.single_observation_space, family.single_action_space
    agent = ICAgent(METHODS["ad"](*spaces_of_one, METHODS["ad"].Config(width=8, layers=1, heads=2, window=8, slide=4)))
    assert evaluate(agent.eval(), ID, episodes=2).mean.shape == (2,)


def test_an_agent_says_which_wrapper_to_use(tiny_agent):
    flat = flat_env(Parts())
    agent = tiny_agent(flat.observation_space, flat.action_space)
    agent.reset(flat)
    one_line(lambda: agent.reset(Parts()), ValueError, "observation_space", "icrl_envs.flat_env(env)")
    one_line(lambda: make_codec(PARTS, 8), ValueError, "no codec for Dict", "icrl_envs.flat_env(env)")


def test_actions_of_several_parts_are_refused():
    one_line(lambda: flat_env(Parts(action_space=spaces.Tuple((spaces.Discrete(2),)))), ValueError, "Tuple", "Box")
    endless = spaces.Dict(words=spaces.Sequence(spaces.Discrete(3)))
    one_line(lambda: flat_env(Parts(observation_space=endless)), ValueError, "Sequence", "fixed size")


PARTS_OR_MORE = {
    "Text": (spaces.Text(5), False),
    "Tuple": (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))), True),
    "Dict": (PARTS, True),
    "Sequence": (spaces.Sequence(spaces.Discrete(2)), False),
    "Dict of Sequence": (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), False),
    "Graph": (spaces.Graph(spaces.Discrete(2), None), False),
    "OneOf": (spaces.OneOf((spaces.Discrete(2), spaces.Discrete(3))), False),
}


@pytest.mark.parametrize("name", PARTS_OR_MORE)
@pytest.mark.parametrize("refuse", [lambda space: make_codec(space, 8), value_range, space_to_json])
def test_flattening_is_advised_where_it_helps(name, refuse):
    space, flattens = PARTS_OR_MORE[name]
    flat, wrapped = ": flatten observations by icrl_envs.flat_env(env)", ": make it one array, such as a Box"
    one_line(lambda: refuse(space), ValueError, flat if flattens else wrapped, "ActionWrapper")


@pytest.mark.parametrize("name", PARTS_OR_MORE)
def test_actions_of_several_parts_are_not_to_be_flattened(name, tiny_agent):
    space, _ = PARTS_OR_MORE[name]
    agent = tiny_agent(spaces.Box(0, 1, (5,), np.float32), spaces.Discrete(2))
    env = Parts(action_space=space, observation_space=agent.observation_space)
    one_line(lambda: agent.reset(env), ValueError, "action_space", "ActionWrapper")
