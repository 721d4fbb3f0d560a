"""Families that are not the package's: float states with Box actions, and a Gymnasium env without array rules."""

import gymnasium
import numpy as np
import pytest
from rich.console import Console

from icrl_agents import METHODS, HistoryStore, ICAgent, collect, evaluate, train
from icrl_agents.core.families import find_family, make_tasks
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.evaluate import optimal_returns, random_returns
from icrl_agents.evaluation.play import play
from tests.conftest import one_line
from tests.envs.families import POLES, SPRING, WALK, pole_tasks, registered

SMALL = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "window": 8, "slide": 4}


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def agent_for(env_id: str) -> ICAgent:
    family = find_family(env_id)
    return ICAgent(METHODS["ad"](family.observation_space, family.action_space, METHODS["ad"].Config(**SMALL))).eval()


@pytest.mark.parametrize("env_id", [SPRING, POLES])
def test_rows_are_on_their_tasks(env_id):
    """A row does what an environment of its own does that was made with the arguments of the task."""
    env, options = make_tasks(env_id, [0, 3, 3, 1])
    obs, _ = env.reset(seed=5, options=options)
    action = np.stack([env.single_action_space.sample() for _ in range(4)])
    after, reward, *_ = env.step(action)
    for row, task in enumerate([0, 3, 3, 1]):
        single = gymnasium.make(env_id, **find_family(env_id).task_kwargs(task))
        first, _ = single.reset(seed=5 + row)
        np.testing.assert_array_equal(first, obs[row])
        then, one, *_ = single.step(action[row])
        np.testing.assert_allclose(then, after[row], rtol=1e-6)
        assert one == pytest.approx(reward[row])


def test_tasks_without_rules_differ():
    env, _ = make_tasks(POLES, [0, 9])
    assert env.get_attr("length") == tuple(task["length"] for task in (pole_tasks()[0], pole_tasks()[9]))


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [SPRING, POLES])
def test_what_is_not_declared_is_unknown_not_invented(env_id, tmp_path):
    curve = evaluate(agent_for(env_id), env_id, episodes=2)
    assert len(curve.tasks) == len(split_tasks(env_id).test)
    assert np.isnan(curve.optimal).all()
    assert np.isnan(optimal_returns(env_id, np.arange(3))).all()
    assert np.isfinite(random_returns(env_id, np.arange(3))).all()
    curve.plot(tmp_path / "curve.png")


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [SPRING, POLES])
def test_histories_and_trainings(env_id, tmp_path):
    tasks = split_tasks(env_id).train.ids[:2].tolist()
    store = collect(env_id, "ppo", tmp_path / "ppo.h5", streams=2, episodes=2, tasks=tasks, settings={"n_epochs": 1})
    assert HistoryStore(store).tasks == sorted(tasks)
    settings = {**SMALL, "updates": 2, "batch_size": 4, "eval_every": 2, "eval_episodes": 1}
    agent = train("ad", env_id, tmp_path / "run", histories=store, settings=settings, quiet=True, track=[])
    assert agent.facts["env_id"] == env_id
    again = ICAgent.from_pretrained(tmp_path / "run", device="cpu")
    assert all((one == other).all() for one, other in zip(agent.parameters(), again.parameters(), strict=True))


def test_play_compares_with_what_is_known():
    console = Console(record=True, width=100)
    played = play(agent_for(SPRING), SPRING, episodes=2, seed=0, console=console)
    text = console.export_text()
    assert [episode.success for episode in played] == [None, None]
    assert "random -0.50" in text
    assert "optimal" not in text
    assert "nan" not in text


def test_a_family_with_a_single_training_task_is_refused():
    one_line(lambda: split_tasks(WALK), ValueError, WALK, "1 training task", "validation")
