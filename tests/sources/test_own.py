"""Own lifetimes of an agent: what is recorded, that it can be repeated, and what is refused."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from icrl_agents import HistoryStore, ICAgent, collect, evaluate, train
from icrl_agents.cli.app import app
from icrl_agents.core.families import make_tasks
from icrl_agents.core.rollout import rollout
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import make_source
from tests.conftest import one_line

ENV = "icrl/Darkroom3x3-v0"
HOW = {"streams": 2, "episodes": 3, "progress": lambda done, total: None}
TRAINING = {
    "updates": 2,
    "window": 12,
    "slide": 4,
    "batch_size": 4,
    "eval_every": 0,
    "width": 8,
    "layers": 1,
    "heads": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A short training on histories of psrl, which the agent's own lifetimes can be added to."""
    out = tmp_path_factory.mktemp("own")
    first = collect(ENV, "posterior", out / "posterior.h5", tasks=[1, 2, 3], **HOW)
    train("dpt", ENV, out / "agent", histories=first, settings=TRAINING, quiet=True, track=[])
    return out


def stop(done: int, total: int) -> None:
    """Progress that interrupts a collection after its first block."""
    if done:
        raise KeyboardInterrupt


@pytest.fixture
def agent(folder):
    return ICAgent.from_pretrained(folder / "agent", device="cpu")


def test_it_acts_as_for_its_users_and_the_expert_labels_its_steps(agent, tmp_path):
    path = collect(ENV, agent, tmp_path / "own.h5", tasks=[2], **HOW)
    with HistoryStore(path) as store:
        found, info = store[2], store.info
    seed = int(np.random.SeedSequence([0, 2]).generate_state(1)[0])
    rows, options = make_tasks(ENV, [2, 2])
    env = RecordHistory(rows)
    returns = rollout(agent, env, 3, seed=seed, options=options)
    np.testing.assert_array_equal(found.action, env.steps(3).action)
    np.testing.assert_allclose(found.reward.sum(1), returns.sum(1))
    assert "expert_action" in found.extras
    assert (info.source, info.settings["agent"], info.assumes) == ("agent", "agent", "what its agent was trained on.")


def test_any_number_of_processes_records_the_same_bytes(agent, tmp_path):
    one, two = (
        collect(ENV, agent, tmp_path / f"{n}.h5", tasks=[1, 2, 5], processes=n, **HOW).read_bytes() for n in (1, 2)
    )
    assert one == two


def test_a_collection_is_not_continued_with_other_weights_or_another_temperature(agent, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        collect(ENV, agent, tmp_path / "own.h5", tasks=[1, 2], **{**HOW, "progress": stop})
    config = agent.config
    agent.method.config = replace(config, acting_temperature=5.0)
    again = partial(collect, ENV, agent, tmp_path / "own.h5", tasks=[1, 2], **HOW)
    one_line(again, FileExistsError, "own.h5", "settings")
    agent.method.config = config
    next(agent.parameters()).data.add_(1)
    one_line(again, FileExistsError, "own.h5", "settings")


def test_a_planner_is_part_of_what_an_agent_is(agent, tmp_path):
    agent.method.config = replace(agent.config, dynamics=True)
    plain = agent.identity()
    agent.use_plan("lookahead")
    known = agent.identity()
    assert {**known, "plan": None} == {**plain, "plan": None}
    assert known["plan"]["depth"] == agent.planner.depth


def test_an_interrupted_collection_goes_on_with_the_agent_that_training_returned_or_with_its_folder(folder, tmp_path):
    trained = train("dpt", ENV, tmp_path / "new", histories=folder / "posterior.h5", settings=TRAINING, quiet=True)
    collection = {**HOW, "tasks": [1, 2], "progress": stop}
    with pytest.raises(KeyboardInterrupt):
        collect(ENV, trained, tmp_path / "own.h5", **collection)
    loaded = ICAgent.from_pretrained(tmp_path / "new", device="cpu")
    assert (trained.source, trained.identity()) == (loaded.source, loaded.identity())
    collect(ENV, loaded, tmp_path / "own.h5", **{**collection, "progress": lambda done, total: None})


def test_workers_need_no_torch():
    words = "import sys, icrl_agents.sources.collection, icrl_agents.sources.own; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_both_histories_train_together_and_the_facts_name_both(folder, agent, tmp_path):
    own = collect(ENV, agent, tmp_path / "own.h5", tasks=[1, 2, 3], **HOW)
    again = train(
        "dpt", ENV, tmp_path / "run", histories=[folder / "posterior.h5", own], settings=TRAINING, quiet=True, track=[]
    )
    facts = again.facts
    assert facts["source"] == "posterior, agent"
    assert facts["assumes"].endswith("what its agent was trained on.")
    kinds = [sorted(part["settings"]) for part in facts["data"]["collections"]]
    assert kinds[1] == ["agent", "changes", "config", "late", "weights"]


def test_settings_are_for_sources_with_a_name(agent, tmp_path):
    one_line(
        lambda: collect(ENV, agent, tmp_path / "x.h5", settings={"noise": 0.1}, **HOW), ValueError, "noise", "leave"
    )
    for given, said in (
        (5, "source=5"),
        (ICAgent, "ICAgent"),
        (make_source("uniform", "icrl/BernoulliBandit-v0"), "Uniform"),
    ):
        one_line(lambda given=given: collect(ENV, given, tmp_path / "x.h5", **HOW), ValueError, said, "is no agent")
    one_line(lambda: evaluate(ICAgent, ENV), TypeError, "ICAgent", "is a class")
    assert not list(tmp_path.iterdir())


def test_a_collection_that_fails_at_once_leaves_nothing_and_one_that_has_begun_is_kept(agent, tmp_path):
    other = "icrl/BernoulliBandit-v0"
    one_line(lambda: collect(other, agent, tmp_path / "own.h5", tasks=[1], **HOW), ValueError, "observation")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        collect(ENV, agent, tmp_path / "own.h5", tasks=[1, 2], **{**HOW, "progress": stop})
    parts = sorted(tmp_path.rglob("part-*"))
    one_line(lambda: collect(ENV, agent, tmp_path / "own.h5", tasks=[1], **HOW), FileExistsError, "tasks")
    assert parts
    assert sorted(tmp_path.rglob("part-*")) == parts


def test_the_command_takes_the_folder_of_an_agent(folder, tmp_path):
    def call(*words: object):
        return CliRunner().invoke(app, ["collect", "--env", ENV, *map(str, words), "-o", str(tmp_path / "own.h5")])

    done = call("--source", folder / "agent", "--streams", 1, "--episodes", 1)
    assert done.exit_code == 0, done.stderr
    with HistoryStore(tmp_path / "own.h5") as store:
        assert replace(store.info, versions={}).source == "agent"
    for name, said in ((folder / "none", "none"), ("nobody", "source 'nobody'")):
        wrong = call("--source", name, "--overwrite")
        assert wrong.exit_code
        assert wrong.stderr.count("\n") == 1
        assert said in wrong.stderr
    wrong = call("--source", folder / "agent", "--set", "noise=0.1", "--overwrite")
    assert "noise" in wrong.stderr
