"""What a user's environment returns and is none of Gymnasium's: one line says what it is and what it should be."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from icrl_envs import register_family, unregister_family

from icrl_agents import ICAgent, RecordHistory, collect, evaluate
from icrl_agents.core.families import find_family, make_tasks
from tests.conftest import one_line

BROKEN = "test/Broken-v0"
OBS = np.zeros(3, np.float32)
GOOD = (OBS, 1.0, False, False, {})


class Broken(gymnasium.Env[Any, Any]):
    """Its first reset and step are right, later ones return what a test sets."""

    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
    after_reset: Any = (OBS, {})
    after_step: Any = GOOD
    count = 0

    def __init__(self, number: int = 0):
        self.number = number

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return Broken.after_reset

    def step(self, action: Any) -> Any:
        self.count += 1
        return GOOD if self.count == 1 else Broken.after_step


def declare() -> None:
    register_family(BROKEN, tasks=[{"number": number} for number in range(6)], split=(0.7, 0), horizon=4, lifetime=1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gymnasium.register(BROKEN, Broken)
    declare()
    monkeypatch.setattr(Broken, "after_reset", (OBS, {}))
    monkeypatch.setattr(Broken, "after_step", GOOD)
    yield
    unregister_family(BROKEN)
    del gymnasium.registry[BROKEN]


def play(agent: ICAgent) -> None:
    """A loop of a user."""
    env = find_family(BROKEN).make(0)
    obs, _ = env.reset(seed=0)
    agent.reset(env)
    for _ in range(2):
        result = env.step(agent.act(obs))
        agent.observe(*result)
        obs = result[0]


WAYS: dict[str, Callable[[ICAgent, Any], Any]] = {
    "collect": lambda agent, path: collect(BROKEN, "uniform", path / "h.h5", streams=1, episodes=1),
    "evaluate": lambda agent, path: evaluate(agent, BROKEN, episodes=1),
}
ONE = "expected one number"
FLAG = "expected True or False"
STEPS = {
    "obs None": (0, None, ("obs None", "shape (3,)")),
    "obs shape": (0, np.zeros(2, np.float32), ("obs [0.0, 0.0] (float32 of shape (2,))", "shape (3,)")),
    "obs batch": (0, OBS[None], ("shape (1, 3)", "shape (3,)")),
    "obs number": (0, 0.0, ("obs 0.0", "shape (3,)")),
    "obs text": (0, "abc", ("obs 'abc'", "shape (3,)")),
    "obs ragged": (0, [1, [2, 3], 4], ("obs [1, [2, 3], 4]", "shape (3,)")),
    "obs dict": (0, {"x": 1}, ("obs {'x': 1}", "shape (3,)")),
    "reward None": (1, None, ("reward None", ONE)),
    "reward (1,)": (1, np.ones(1), ("reward [1.0]", ONE, "float(reward)")),
    "reward [1]": (1, [1.0], ("reward [1.0]", ONE)),
    "reward (2,)": (1, np.ones(2), ("reward [1.0, 1.0]", ONE)),
    "reward text": (1, "1", ("reward '1'", ONE)),
    "reward complex": (1, 1j, ("reward 1j", ONE)),
    "reward huge": (1, 10**400, ("reward 1000", ONE)),
    "terminated None": (2, None, ("terminated None", FLAG)),
    "terminated text": (2, "False", ("terminated 'False'", FLAG)),
    "terminated number": (2, 0.0, ("terminated 0.0", FLAG)),
    "terminated (1,)": (2, np.array([False]), ("terminated [False]", FLAG)),
    "truncated (2,)": (3, np.array([True, False]), ("truncated [True, False]", FLAG)),
    "truncated None": (3, None, ("truncated None", FLAG)),
    "info None": (4, None, ("info None", "expected a dict")),
    "info text": (4, "x", ("info 'x'", "expected a dict")),
    "info list": (4, [], ("info []", "expected a dict")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STEPS)
def test_a_broken_step_of_a_row_is_one_line(name, way, tiny_agent, tmp_path, monkeypatch):
    place, value, said = STEPS[name]
    monkeypatch.setattr(Broken, "after_step", (*GOOD[:place], value, *GOOD[place + 1 :]))
    agent = tiny_agent(Broken.observation_space, Broken.action_space)
    one_line(lambda: WAYS[way](agent, tmp_path), ValueError, "Broken.step()", *said)


RESETS = {
    "None": (None, ("returned None", "(obs, info)")),
    "obs alone": (OBS, ("returned [0.0, 0.0, 0.0]", "(obs, info)")),
    "three": ((OBS, {}, 1), ("(obs, info)",)),
    "obs None": ((None, {}), ("obs None", "shape (3,)")),
    "obs shape": ((np.zeros(2, np.float32), {}), ("obs [0.0, 0.0] (float32 of shape (2,))", "shape (3,)")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RESETS)
@pytest.mark.filterwarnings("ignore:.*(reset|WARN):UserWarning")  # Gymnasium's own checker warns first
def test_a_broken_reset_of_a_row_is_one_line(name, way, tiny_agent, tmp_path, monkeypatch):
    value, said = RESETS[name]
    monkeypatch.setattr(Broken, "after_reset", value)
    agent = tiny_agent(Broken.observation_space, Broken.action_space)
    one_line(lambda: WAYS[way](agent, tmp_path), ValueError, "Broken.reset()", *said)


INTEGERS = {  # space: a value that NumPy would change without a word, or refuse in its own words
    "wrapped": (spaces.Box(-100, 100, (2,), np.int8), np.array([300, 0])),
    "cut": (spaces.Discrete(3), 1.7),
    "cut array": (spaces.MultiDiscrete([3, 3]), np.array([1.5, 0])),
    "one number": (spaces.Discrete(3), np.array([1])),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_not_changed_when_rows_are_joined(name, tiny_agent, tmp_path, monkeypatch):
    space, value = INTEGERS[name]
    monkeypatch.setattr(Broken, "observation_space", space)
    monkeypatch.setattr(Broken, "after_reset", (space.sample(), {}))
    unregister_family(BROKEN)
    declare()
    monkeypatch.setattr(Broken, "after_step", (value, *GOOD[1:]))
    one_line(lambda: WAYS["collect"](None, tmp_path), ValueError, "Broken.step()", "obs", str(space.dtype))


LOOSE = {
    "list": ([0.0, 0.5, 1], 1, np.False_, False, {}),
    "double": (np.zeros(3), np.float64(1), False, np.array(False), {}),
    "tensor": (torch.zeros(3), torch.tensor(1.0), False, False, {"x": [1, [2]]}),
    "bool reward": (np.zeros(3, int), True, False, False, {}),
}


@pytest.mark.parametrize("name", LOOSE)
def test_what_numpy_converts_without_loss_is_taken(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "after_step", LOOSE[name])
    rows, options = make_tasks(BROKEN, [0, 1])
    rows.reset(seed=0, options=options)
    rows.step(np.zeros(2, int))
    obs, reward, terminated, truncated, _ = rows.step(np.zeros(2, int))
    np.testing.assert_array_equal(obs, [np.asarray(LOOSE[name][0], np.float32)] * 2)
    assert reward.tolist() == [1, 1]
    assert not (terminated | truncated).any()


OWN = {
    "obs None": (0, None, ("obs is None", "expected an array of numbers")),
    "obs text": (0, "abc", ("obs is abc", "expected an array of numbers")),
    "obs dict": (0, {"x": 1}, ("obs is {'x': 1}", "expected an array of numbers")),
    "reward None": (1, None, ("reward is None", "expected an array of numbers")),
    "reward text": (1, "1", ("reward is 1", "expected an array of numbers")),
    "reward (1,)": (1, np.ones(1), ("reward has shape (1,), expected ()", "float(reward)")),
    "terminated None": (2, None, ("terminated is None", "expected an array of")),
    "terminated number": (2, 0, ("terminated has dtype int64",)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_broken_step_in_a_users_loop_is_one_line(name, tiny_agent, monkeypatch):
    place, value, said = OWN[name]
    monkeypatch.setattr(Broken, "after_step", (*GOOD[:place], value, *GOOD[place + 1 :]))
    agent = tiny_agent(Broken.observation_space, Broken.action_space)
    one_line(lambda: play(agent), ValueError, *said)


def test_a_reward_for_each_row_is_asked_for(tiny_agent):
    agent = tiny_agent(Broken.observation_space, Broken.action_space)
    agent.reset(num_envs=2, autoreset_mode="Disabled")
    agent.act(np.zeros((2, 3), np.float32))
    ends = np.zeros(2, bool)
    result = np.zeros((2, 3), np.float32), np.ones((2, 1)), ends, ends
    one_line(lambda: agent.observe(*result), ValueError, "reward has shape (2, 1), expected (2,)", "one number a row")


@pytest.mark.parametrize("place", range(4))
def test_a_vector_environment_of_a_user_is_checked_when_it_is_recorded(place, monkeypatch):
    rows = gymnasium.vector.SyncVectorEnv([Broken, Broken])
    good = np.zeros((2, 3), np.float32), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {}
    rows.step = lambda actions: (*good[:place], None, *good[place + 1 :])  # type: ignore[method-assign]
    env = RecordHistory(rows)
    env.reset(seed=0)
    name = ("obs", "reward", "terminated", "truncated")[place]
    one_line(lambda: env.step(np.zeros(2, int)), ValueError, f"{name} is None", "expected an array of numbers")
