"""Families that are not the package's: float states with Box actions, and a Gymnasium env without array rules."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES, unregister_family
from icrl_envs.base.gym import rows
from rich.console import Console

from icrl_agents import METHODS, HistoryStore, ICAgent, collect, evaluate, train
from icrl_agents.core.families import check_same_tasks, define, find_family, make_tasks, restore_family, sendable
from icrl_agents.core.process.jobs.backends import Backend, open_workers
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import evaluate as evaluation
from icrl_agents.evaluation.evaluate import optimal_returns, random_returns
from icrl_agents.evaluation.play import play
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.sources import collection
from icrl_agents.studies.cells import Cell, run_cells
from tests.conftest import one_line
from tests.envs.dials import DIALS, VALUES, Dial, dials, set_dial
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


# ---- environments that exist already ----------------------------------------------------------------------------

WAYS = {"make": "make", "options": "options", "a function": set_dial}


@pytest.mark.parametrize("way", WAYS)
def test_random_play_of_foreign_environments_is_bounded(way, monkeypatch):
    """Rewards of random play are the value times 1 on average, in episodes of value + 1 steps, at most 5."""
    with dials(pass_task=WAYS[way]):
        found = random_returns(DIALS, np.arange(8), seed=2)
        expected = [value * min(value + 1, 5) for value in range(1, 9)]
        np.testing.assert_allclose(found, expected, rtol=0.2)
        asked = []
        whole = Dial.step
        monkeypatch.setattr(Dial, "step", lambda self, action: asked.append(1) or whole(self, action))
        random_returns(DIALS, np.arange(8), seed=3)
        assert 1000 < len(asked) < 40_000


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_agent_of_a_foreign_environment_is_measured(vectorization, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_RANDOM", 4)
    monkeypatch.setattr(rows, "MAX_PROCESSES", 4)  # so that all goes in blocks
    with dials(pass_task=set_dial, vectorization=vectorization):
        monkeypatch.setattr(find_family(DIALS), "max_rows", None if vectorization == "sync" else 4)
        store = collect(DIALS, "uniform", tmp_path / "h.h5", streams=2, episodes=2, tasks=[0, 1, 2])
        with HistoryStore(store) as found:
            for task, value in enumerate((1, 2, 3)):
                steps = found[task]
                np.testing.assert_array_equal(steps.reward[steps.mask], value * steps.action[steps.mask])
        curve = evaluate(agent_for(DIALS), DIALS, episodes=2, num_seeds=2)
        assert curve.runs.shape == curve.success.shape == (2, 4, 2)
        assert np.isfinite(curve.random).all()


@pytest.mark.slow
def test_worker_processes_know_the_families_of_a_user(tmp_path, monkeypatch):
    """Two processes collect the same histories as one, and measure the same returns and successes."""
    monkeypatch.setattr(collection, "ROWS", 1)  # a block for each task
    with dials(pass_task=set_dial):
        monkeypatch.setattr(find_family(DIALS), "max_rows", 4)  # blocks of 2
        measured, agent, finished = {"episodes": 3, "num_seeds": 2}, agent_for(DIALS), []
        here = evaluate(agent, DIALS, **measured)
        with open_workers(Backend(), 2, sendable([DIALS])) as workers:
            there = evaluate(agent, DIALS, **measured, workers=workers, on_episode=finished.append)
        np.testing.assert_array_equal(here.runs, there.runs)
        np.testing.assert_array_equal(here.success, there.success)
        assert here.success.any()
        assert not here.success.all()
        assert finished[-1] == 3
        assert len(finished) == 4
        words = {"streams": 2, "episodes": 2, "tasks": [0, 1]}
        stores = [
            HistoryStore(collect(DIALS, "uniform", tmp_path / f"{count}.h5", **words, processes=count))
            for count in (1, 2)
        ]
        assert stores[0].info == stores[1].info
        for task in (0, 1):
            one, other = (store[task] for store in stores)
            for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
from icrl_envs import register_family

gymnasium.register("my/Late-v0", "late_poles:CartPoleEnv", max_episode_steps=9)
register_family("my/Late-v0", tasks=[{"sutton_barto_reward": value} for value in (False, True)], split=[0.5, 0])
"""
GIVE = "import pickle, late_poles, icrl_envs; print(pickle.dumps(icrl_envs.registration('my/Late-v0')).hex())"
TAKE = """
import pickle, sys, gymnasium, icrl_envs
icrl_envs.restore([pickle.loads(bytes.fromhex(sys.argv[1]))])
gymnasium.make("my/Late-v0")
assert len(icrl_envs.FAMILIES["my/Late-v0"]) == 2
"""


def test_a_worker_does_not_register_again_what_the_module_of_the_environment_registers(tmp_path):
    (tmp_path / "late_poles.py").write_text(MODULE)
    python = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=False)
    given = python([sys.executable, "-c", GIVE])
    done = python([sys.executable, "-W", "error::UserWarning", "-c", TAKE, given.stdout.strip()])
    assert done.returncode == 0, done.stderr


def test_a_family_that_no_other_process_can_make_is_refused_before_the_work(tmp_path):
    with dials(pass_task=lambda env, task: set_dial(env, task)):
        call = partial(collect, DIALS, "uniform", tmp_path / "h.h5", processes=2)
        one_line(call, ValueError, f"the family {DIALS} cannot be sent to worker processes", "top of a module")
        assert list(tmp_path.iterdir()) == []
        one_line(lambda: run_all(tmp_path), ValueError, "cannot be sent to worker processes")
        assert list(tmp_path.iterdir()) == []


def run_all(folder: Path) -> None:
    list(run_cells([Cell("ad", DIALS, folder / "cell", {"source": "uniform"}, EvalSpec(episodes=1, num_seeds=1))], 2))


def test_one_test_task_is_enough_and_two_training_tasks():
    with dials([{"value": 1}, {"value": 2}], test_tasks=[{"value": 3}], split=None):
        assert [len(part) for part in split_tasks(DIALS)] == [1, 1, 1]


def test_training_and_test_tasks_swapped_are_other_tasks():
    """The checksum covers which tasks are for training, not just which there are."""
    with dials():
        facts = {"family": find_family(DIALS).definition}
        check_same_tasks(DIALS, facts, "it was trained")
    with dials(split=(0.5, 1)):
        one_line(lambda: check_same_tasks(DIALS, facts, "it was trained"), ValueError, DIALS, "other tasks")
        check_same_tasks(DIALS, {"family": "damaged"}, "it was trained")
    with dials(horizon=3):
        check_same_tasks(DIALS, facts, "it was trained")


def test_long_lists_of_tasks_are_recorded_by_their_checksum():
    with dials([{"value": number, "label": "x" * 100} for number in range(3000)]):
        found = define(DIALS)["family"]
        assert "tasks" not in found
        assert len(found["checksum"]) == 64
        with pytest.raises(ValueError, match="give --tasks"):
            restore_family(DIALS, {"family": found})


DAMAGED = {
    "a name of an argument": {"family": "icrl/Darkroom-v0"},
    "a split": {"split": [0.5, 0, "random"]},
    "a horizon": {"horizon": "long"},
    "a task": {"tasks": [{"value": 1}, 2]},
    "a way": {"pass_task": ["make"]},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_of_tasks_is_one_line(name):
    with dials():
        record = {**define(DIALS)["family"], **DAMAGED[name]}
        unregister_family(DIALS)
        with pytest.raises(ValueError) as caught:
            restore_family(DIALS, {"family": record})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 400
        assert DIALS not in FAMILIES
        restore_family(DIALS, define_again(record, name))
        assert find_family(DIALS).num_tasks == 8


def define_again(record: dict, name: str) -> dict:
    """The record as it was."""
    whole = {key: value for key, value in record.items() if key not in DAMAGED[name]}
    return {"family": {"tasks": VALUES, "split": [0.5, 0], "horizon": 5, "pass_task": "make", **whole}}
