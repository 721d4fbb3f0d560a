"""The command that measures action sets."""

from __future__ import annotations

import json

import pytest

from icrl_agents import ICAgent
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.evaluation.results import write_report
from icrl_agents.studies.action_sets.results import measure
from tests.cli.test_cli import done, refused
from tests.conftest import one_line
from tests.studies.action_sets.agents import BERNOULLI, MACRO, fresh, some_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("agents")
    for name, agent in {"h": fresh("headless-ad"), "a": fresh("ad"), "m": fresh("ad", MACRO)}.items():
        agent.save_pretrained(out / name)
    return [str(out / name) for name in "ham"]


@pytest.mark.slow
def test_the_command(folders, tmp_path):
    few = "--set", "num_10", "--tasks", 2, "--no-relabel"
    said = json.loads(done("sets", *folders[:2], *few, "--seed", 3, "-o", tmp_path, "--json"))
    assert json.loads((tmp_path / "sets.json").read_text()) == said
    assert [entry["agents"] for entry in said["entries"]] == [folders[:1], folders[1:2]]
    assert said["settings"]["seed"] == 3
    words = ("sets", folders[1], *few, "-o", tmp_path)
    assert "--overwrite" in refused(*words)
    assert "thompson" in done(*words, "--overwrite")
    assert len(json.loads((tmp_path / "sets.json").read_text())["entries"]) == 1


@pytest.mark.slow
def test_the_command_adds_to_the_card_of_the_first_training(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    tasks = some_of(BERNOULLI, "all_new", 2)
    for seed, folder in enumerate((first, second)):
        fresh("headless-ad", seed=seed).save_pretrained(folder)
    words = ("sets", str(first), str(second), "--set", "num_10", "--tasks", 2, "--write")
    assert f"evaluate {first}" in refused(*words)
    write_report(first, [evaluate(ICAgent.from_pretrained(first), BERNOULLI, episodes=1, tasks=tasks)])
    other = "icrl/GaussianBandit-v0"
    told = refused("sets", str(first), "--env", other, "--set", "eval", "--tasks", 1, "--write")
    assert f"results of {BERNOULLI} in {first}, these would be of {other}: leave --write out" in told
    before = (second / "README.md").read_text()
    done(*words)
    card = (first / "README.md").read_text()
    for name in (
        "num_10: regret |",
        "num_10: normalised |",
        "num_10: regret, actions renumbered |",
        "num_10: change by renumbering |",
        "num_10: ratio |",
        "num_10: ratio to gittins |",
        "| 2 trainings x 2 tasks |",
    ):
        assert name in card
    assert (second / "README.md").read_text() == before
    done("sets", str(first), str(second), "--set", "num_20", "--tasks", 2, "--no-relabel", "--write")
    card = (first / "README.md").read_text()
    assert "num_10: regret |" in card  # what was added before stays
    assert "num_20: regret |" in card


@pytest.mark.slow
def test_what_cannot_be_measured_is_told_in_a_line(folders, tmp_path):
    assert "did you mean 'num_50'" in refused("sets", folders[0], "--set", "num_5O")
    assert MACRO in refused("sets", folders[0], folders[2])
    assert "Darkroom-v0" in refused("sets", folders[0], "--env", "icrl/Darkroom-v0")
    assert "tasks=0" in refused("sets", folders[0], "--tasks", 0)
    (tmp_path / "bars.png").write_text("mine")
    assert "bars.png" in refused("sets", folders[0], "-o", tmp_path)
    trained = fresh("ad")
    trained.facts["split_seed"] = 3
    one_line(lambda: measure({"a": trained}, BERNOULLI), ValueError, "split_seed=3")
    one_line(lambda: measure({"m": fresh("ad", MACRO)}, BERNOULLI, ["num_10"]), ValueError, "space")
