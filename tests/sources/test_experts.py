"""Experts that a caller gives: functions, models, agents; in labels, in the behaviour, in worker processes."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from icrl_agents import METHODS, HistoryStore, ICAgent, collect
from icrl_agents.core.families import find_family, make_tasks
from icrl_agents.histories.experts import WithExpert, find_expert
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import Block, Objects, collect_command, lifetimes, run_block
from icrl_agents.sources.experts import as_expert
from tests.conftest import one_line
from tests.sources.reach import REACH, registered

ROOM = "icrl/Darkroom3x3-v0"
PURE = {"start": 0.0, "end": 0.0}
HERE = "tests.sources.test_experts"


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def stay(obs):
    """An expert without knowledge of the task."""
    return np.full(len(obs), 4)


def reach(obs, tasks):
    """The expert of Reach, at half its speed."""
    goals = np.array([[task["x"], task["y"]] for task in tasks])
    return np.clip(5 * (goals - obs), [-2, -1], [1, 2])


class Model:
    """What Stable-Baselines3 offers."""

    def predict(self, obs, deterministic=False):
        return np.where(deterministic, 3, 0).repeat(len(obs)), None


def live(env_id, given, name="noise", episodes=2, **settings):
    source = make_source(name, env_id, settings)
    source.expert = as_expert(given)
    return lifetimes(env_id, source, np.array([0, 4, 5]), episodes, 0)


@pytest.mark.parametrize(
    ("given", "action"), [(stay, 4), (f"{HERE}:stay", 4), (Model(), 3)], ids=["function", "path", "model"]
)
def test_it_replaces_the_expert_of_the_environment(given, action):
    steps = live(ROOM, given, **PURE)
    assert (steps.action == action).all()
    assert (steps.extras["expert_action"] == action).all()
    labels = live(ROOM, given, "posterior")
    assert (labels.extras["expert_action"] == action).all()
    assert not (labels.action == action).all()


def test_a_function_may_read_the_tasks():
    steps = live(REACH, reach, spread=0.0, **PURE)
    np.testing.assert_array_equal(steps.action, steps.extras["expert_action"])
    assert np.abs(steps.reward[:, -1]).max() < 0.05
    tasks = [find_family(REACH).task_kwargs(task) for task in (0, 4, 5)]
    np.testing.assert_allclose(steps.action[:, 7], reach(steps.obs[:, 7], tasks))


def test_an_agent_reads_what_was_done_not_what_it_proposed():
    family = find_family(ROOM)
    config = METHODS["ad"].Config(width=8, layers=1, heads=1, inner=8, window=30, slide=10)
    agent = ICAgent(METHODS["ad"](family.observation_space, family.action_space, config)).eval()
    steps = live(ROOM, agent, start=1.0, end=1.0)
    read = agent.context.steps
    np.testing.assert_array_equal(read.action[:, :12], steps.action)
    np.testing.assert_allclose(read.reward[:, :12], steps.reward)
    assert not np.array_equal(steps.action, steps.extras["expert_action"])


def test_it_is_asked_once_a_step():
    asked = []
    rows, options = make_tasks(ROOM, [0, 4])
    env = RecordHistory(WithExpert(rows, as_expert(lambda obs: asked.append(1) or stay(obs)), []))
    make_source("noise", ROOM).run(env, 1, 0, options)
    assert len(asked) == 6
    assert find_expert(env)().tolist() == [4, 4]


def test_a_store_names_its_expert(tmp_path):
    path = tmp_path / "named.h5"
    collect(ROOM, None, path, streams=1, episodes=1, expert=stay, settings=PURE)
    with HistoryStore(path) as store:
        assert store.info.source == "noise"
        assert store.info.settings["expert"] == f"{HERE}:stay"
        assert (store[store.tasks[0], 0].action == 4).all()
        command = collect_command(store.info, store.tasks, "named.h5")
    assert f"'expert=\"{HERE}:stay\"'" in command
    path = tmp_path / "object.h5"
    collect(ROOM, "noise", path, streams=1, episodes=1, expert=Model())
    with HistoryStore(path) as store:
        assert store.info.settings["expert"] == "<Model>"
        assert collect_command(store.info, store.tasks, "object.h5") is None


class Trained(Model):
    """A model with weights."""

    def __init__(self, weight):
        self.policy = SimpleNamespace(state_dict=lambda: {"weight": np.full(3, weight)})


@pytest.mark.parametrize("kind", ["model", "agent"])
def test_a_collection_is_not_continued_with_an_expert_of_other_weights(kind, tmp_path, tiny_agent):
    family = find_family(ROOM)

    def make(seed):
        if kind == "model":
            return Trained(seed)
        agent = tiny_agent(family.observation_space, family.action_space)
        next(agent.parameters()).data.add_(seed)
        return agent

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    how = {"tasks": [1], "streams": 1, "episodes": 1}
    with pytest.raises(KeyboardInterrupt):
        collect(ROOM, "uniform", tmp_path / "h.h5", expert=make(1), progress=stop, **how)
    one_line(lambda: collect(ROOM, "uniform", tmp_path / "h.h5", expert=make(2), **how), FileExistsError, "settings")
    collect(ROOM, "uniform", tmp_path / "h.h5", expert=make(1), **how)
    with HistoryStore(tmp_path / "h.h5") as store:
        assert len(store.info.settings["expert.weights"]) == 64


@pytest.mark.parametrize("given", [stay, f"{HERE}:stay", Model()], ids=["function", "path", "model"])
def test_worker_processes_get_it(given, tmp_path):
    collect(ROOM, "noise", tmp_path / "h.h5", tasks=[3], streams=2, episodes=1, expert=given)
    with HistoryStore(tmp_path / "h.h5") as store:
        block = Block(store.info, (3,), Objects(as_expert(given), None))
        again = run_block(pickle.loads(pickle.dumps(block)))[3]
        np.testing.assert_array_equal(again.action, store[3, :].action)
        np.testing.assert_array_equal(again.extras["expert_action"], store[3, :].extras["expert_action"])


def test_mistakes_are_one_line(tmp_path):
    out = tmp_path / "h.h5"
    one_line(lambda: collect(ROOM, "noise", out, processes=2, expert=lambda obs: stay(obs)), ValueError, "workers")
    one_line(lambda: as_expert(3), ValueError, "expert=3 cannot act", "module:function")
    for wrong in (ICAgent, Model):
        one_line(lambda wrong=wrong: as_expert(wrong), ValueError, wrong.__name__, "cannot act")
    one_line(lambda: as_expert("nowhere"), ValueError, "'nowhere' is no import path")
    one_line(lambda: as_expert("nowhere:go"), ValueError, "'nowhere:go' is not found", "Python path")
    one_line(lambda: as_expert(f"{HERE}:gone"), ValueError, "is not found")
    one_line(lambda: live(ROOM, lambda obs: np.zeros(7, int)), ValueError, "has shape (7,), expected (3,)")
    one_line(lambda: live(ROOM, lambda obs: np.full(3, 0.5)), ValueError, "dtype float64, expected int64")
    assert list(tmp_path.iterdir()) == []
