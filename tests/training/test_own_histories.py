"""Training with a source that learns one task at a time: it collects its histories first, once, and resumes."""

import json
import signal

import gymnasium
import numpy as np
import pytest

from icrl_agents import HistoryStore, train
from icrl_agents.core.families import env_spaces, find_family
from icrl_agents.core.splits import split_tasks
from icrl_agents.sources import collection
from tests.conftest import one_line
from tests.sources.reach import REACH, registered
from tests.training.test_run_folder import at_update

ID = "icrl/Darkroom3x3-v0"
TINY = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6}
FAST = {**TINY, "updates": 2, "batch_size": 4, "eval_every": 0, "episodes": 2, "streams": 3, "source": "ppo"}
QUICK = {"source.n_steps": 6, "source.batch_size": 12, "source.n_epochs": 1}


def run(out, more=None, **given):
    return train("ad", ID, out, settings={**FAST, **QUICK, **(more or {})}, device="cpu", quiet=True, track=[], **given)


def never(*block):
    raise AssertionError("nothing is left to collect")


@pytest.mark.slow
def test_histories_are_collected_first_and_once(tmp_path, monkeypatch):
    agent = run(tmp_path / "run")
    path = tmp_path / "run-histories.h5"
    with HistoryStore(path) as store:
        assert store.tasks == sorted(split_tasks(ID).train.ids.tolist())
        assert (store.info.source, store.info.streams, store.info.episodes) == ("ppo", 3, 2)
        assert store.info.settings["n_steps"] == 6
    assert agent.facts["source"] == "ppo"
    assert agent.facts["data"]["histories"] == path.name
    note = json.loads((tmp_path / "run/train.json").read_text())
    assert note["histories"] == str(path)
    monkeypatch.setattr(collection, "run_block", never)
    assert run(tmp_path / "run", resume=True).facts == agent.facts
    again = run(tmp_path / "run", overwrite=True)
    assert all((one == other).all() for one, other in zip(agent.parameters(), again.parameters(), strict=True))
    one_line(lambda: run(tmp_path / "run", {"streams": 4}, resume=True), ValueError, "streams=4")


def test_what_a_method_cannot_learn_is_refused_before_its_histories_are_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "run_block", never)
    with monkeypatch.context() as space:
        space.setattr(find_family(ID), "observation_space", gymnasium.spaces.Box(0, 9, (), np.int64))
        one_line(lambda: run(tmp_path / "run"), ValueError, "no codec for Box(0, 9, (), int64)")


@pytest.mark.slow
def test_an_interrupted_collection_goes_on(tmp_path, monkeypatch):
    done, collect_block = [], collection.run_block

    def interrupted(block):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(block.tasks)
        return collect_block(block)

    monkeypatch.setattr(collection, "run_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert not (tmp_path / "run/train.json").exists()
    rest = []
    monkeypatch.setattr(collection, "run_block", lambda block: rest.append(block.tasks) or collect_block(block))
    run(tmp_path / "run", resume=True)
    assert not set(done) & set(rest)
    with HistoryStore(tmp_path / "run-histories.h5") as store:
        assert len(store.tasks) == len(done) + len(rest)


@pytest.mark.slow
def test_other_histories_are_not_replaced_unless_asked(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run/train.json").unlink()
    path = tmp_path / "run-histories.h5"
    before = path.read_bytes()
    elsewhere = tmp_path / "other"
    path.rename(tmp_path / "other-histories.h5")
    one_line(lambda: run(elsewhere, {"streams": 2}), FileExistsError, "other-histories.h5 exists")
    assert (tmp_path / "other-histories.h5").read_bytes() == before
    run(elsewhere, {"streams": 2}, overwrite=True)
    with HistoryStore(tmp_path / "other-histories.h5") as store:
        assert store.info.streams == 2


def go(obs, tasks):
    """An expert that knows the tasks."""
    return np.clip(np.array([[task["x"], task["y"]] for task in tasks]) - obs, [-2, -1], [1, 2])


class Go:
    """The same as an object."""

    def __call__(self, obs, tasks):
        return go(obs, tasks)


SMALL = {**TINY, "updates": 2, "batch_size": 4, "eval_every": 0, "episodes": 2, "checkpoint_every": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "name"), [(go, "tests.training.test_own_histories:go"), (Go(), "<Go>")], ids=["function", "object"]
)
def test_an_expert_labels_the_lifetimes_of_a_training(given, name, tmp_path):
    with registered():
        settings = {**SMALL, "source.expert": given}
        agent = train("dpt", REACH, tmp_path / "run", settings=settings, device="cpu", quiet=True, track=[])
        assert agent.facts["source"] == "noise"
        assert agent.facts["data"]["settings"]["expert"] == name
        note = json.loads((tmp_path / "run/train.json").read_text())
        assert note["source"] == {"expert": name}
        again = train(
            "dpt", REACH, tmp_path / "run", settings=settings, device="cpu", quiet=True, track=[], resume=True
        )
        assert again.facts == agent.facts


@pytest.mark.slow
def test_an_agent_is_the_expert_of_another(tmp_path):
    settings = {**SMALL, "source.slips": 0.5}
    train("ad", ID, tmp_path / "first", settings=settings, device="cpu", quiet=True, track=[])
    settings = {**SMALL, "source.expert": str(tmp_path / "first")}
    agent = train("dpt", ID, tmp_path / "second", settings=settings, device="cpu", quiet=True, track=[])
    assert agent.facts["source"] == "noise"
    assert agent.facts["data"]["settings"]["expert"] == str(tmp_path / "first")


@pytest.mark.slow
def test_a_run_is_not_resumed_with_an_expert_of_other_weights(tmp_path, tiny_agent, monkeypatch):
    def give(seed):
        tiny_agent(*env_spaces(ID), seed=seed).save_pretrained(tmp_path / "first")

    def go_on(**more):
        settings = {**SMALL, "source.expert": str(tmp_path / "first")}
        return train("ad", ID, tmp_path / "run", settings=settings, device="cpu", quiet=True, track=[], **more)

    give(seed=0)
    with monkeypatch.context() as patch:
        at_update(patch, 1, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            go_on()
    give(seed=1)
    one_line(lambda: go_on(resume=True), ValueError, "first", "weights", "resume with that one")
    give(seed=0)
    assert go_on(resume=True).origin == "run"


def test_an_unusable_init_is_refused_before_anything_is_collected(tmp_path, tiny_agent, monkeypatch):
    monkeypatch.setattr(collection, "run_block", never)
    other = tiny_agent(gymnasium.make("CartPole-v1").observation_space)
    other.save_pretrained(tmp_path / "other")
    one_line(lambda: run(tmp_path / "run", {"init": str(tmp_path / "other")}), ValueError, "other", "acts in")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
