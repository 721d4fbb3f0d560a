"""The table of all released agents: published numbers beside ours, resumable, and readable from the cards alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from icrl_envs import FAMILIES

from icrl_agents import ICAgent
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.evaluation.results import write_report
from icrl_agents.hub import remote as hub
from icrl_agents.methods import METHODS
from icrl_agents.studies import compare as comparison
from icrl_agents.studies.compare import PUBLISHED, Entry, compare, released, rows, stored
from tests.conftest import one_line

ID = "icrl/Darkroom-v0"


@pytest.fixture
def folders(tiny_agent, tmp_path, monkeypatch) -> tuple[str, ...]:
    """Two trainings of an agent with dynamics; lifetimes of two episodes."""
    monkeypatch.setattr(comparison, "EPISODES", 2)
    monkeypatch.setattr(comparison, "SHOWN", (1, 2))
    rules, made = FAMILIES[ID].rules, []
    for seed in (0, 1):
        agent = tiny_agent(rules.observation_space, rules.action_space, seed=seed, dynamics=True)
        agent.facts = {"env_id": ID, "split_seed": None}
        agent.save_pretrained(tmp_path / f"ad-darkroom-seed{seed}")
        made.append(str(tmp_path / f"ad-darkroom-seed{seed}"))
    return tuple(made)


def test_the_published_table_is_complete_and_possible():
    assert all(set(methods) == {"ad", "dpt", "idt"} <= set(METHODS) for methods in PUBLISHED.values())
    for env_id, methods in PUBLISHED.items():
        best = FAMILIES[env_id].rules.optimal_return(FAMILIES[env_id].ids).max()
        assert all(0 < number < best for published in methods.values() for number in published)
    assert PUBLISHED[ID]["ad"] == (13.67, 15.42)
    assert PUBLISHED["icrl/DarkKeyToDoor-v0"]["idt"] == (1.35, 1.56)


@pytest.mark.slow
def test_compare(folders, tmp_path):
    told: list[str] = []
    (measured,) = compare([Entry("ad", ID, folders)], tmp_path / "out", num_seeds=2, on_done=told.append)
    assert len(told) == 4
    assert measured.plain.runs.shape == measured.planned.runs.shape == (4, 8, 2)  # two trainings, two lifetimes each
    assert measured.planned.name == "ad, planned"
    (line,) = rows([measured])
    assert line == (
        f"{ID} (17.25)",
        "ad",
        "13.67",
        str(measured.plain.at(2)),
        "15.42",
        str(measured.planned.at(2)),
        "2 trainings x 8 tasks x 2 lives",
    )
    assert " | ".join(line) in (tmp_path / "out" / "table.md").read_text()
    (data,) = json.loads((tmp_path / "out" / "table.json").read_text())
    assert data["ours"]["plain"]["2"] == pytest.approx(list(measured.plain.at(2)))
    assert data["published"] == {"plain": 13.67, "planned": 15.42}
    assert (tmp_path / "out" / "darkroom-v0.png").stat().st_size > 1000


@pytest.mark.slow
def test_an_interrupted_comparison_keeps_what_it_has(folders, tmp_path, monkeypatch):
    entry, done = Entry("ad", ID, folders), []
    first = compare([entry], tmp_path / "out", num_seeds=1)
    kept = sorted((tmp_path / "out" / "curves").glob("*.json"))
    assert len(kept) == 4
    kept[0].unlink()
    monkeypatch.setattr(comparison, "evaluate", lambda *a, **k: done.append(1) or Curve.load(kept[1]))
    again = compare([entry], tmp_path / "out", num_seeds=1)
    assert len(done) == 1
    np.testing.assert_array_equal(again[0].planned.runs[1], first[0].planned.runs[1])


@pytest.mark.slow
def test_planning_on_some_tasks_is_told_beside_the_same_ones_without(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "PLAN_TASKS", {ID: 3})
    (measured,) = compare([Entry("ad", ID, folders)], tmp_path / "out", num_seeds=2)
    without = measured.plain.on(measured.planned.tasks).at(2).value
    assert rows([measured])[0][5] == f"{measured.planned.at(2)} (3 tasks; {without:.2f} without)"


@pytest.mark.slow
def test_the_figure_has_the_source(folders, tmp_path, monkeypatch):
    shown: list[list[str]] = []

    def draw(curves):
        shown.append([curve.name for curve in curves])
        return b"picture"

    monkeypatch.setattr("icrl_agents.evaluation.plots.draw_curves", draw)
    agent = ICAgent.from_pretrained(folders[0])
    agent.facts["source"] = "posterior"
    agent.save_pretrained(tmp_path / "known")
    for entry in (Entry("ad", ID, (str(tmp_path / "known"),)), Entry("ad", ID, (str(tmp_path / "known"),), "ppo")):
        compare([entry], tmp_path / "out", num_seeds=1)
    assert shown == [["ad", "ad, planned", "source posterior"], ["ad (ppo)", "ad (ppo), planned"]]


@pytest.mark.slow
def test_another_planner_or_weights_are_measured_anew(folders, tmp_path):
    first, other = Entry("ad", ID, folders[:1]), Entry("ad", ID, folders[1:])
    found = [compare([entry], tmp_path / "out", num_seeds=1, plan=plan)[0]
             for entry, plan in ((first, "lookahead"), (first, "beam"), (other, "beam"))]  # fmt: skip
    assert [measured.planned.facts["joined"][0]["plan"]["when"] for measured in found] == ["known", "full", "full"]
    assert (found[0].plain.runs == found[1].plain.runs).all()
    assert (found[1].plain.runs != found[2].plain.runs).any()


@pytest.mark.slow
def test_another_config_is_measured_anew_on_the_tasks_of_its_split(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "PLAN_TASKS", {ID: 2})
    agent, folder = ICAgent.from_pretrained(folders[0]), tmp_path / "other"
    found = []
    for change, split in (({}, None), ({"acting_temperature": 0.1}, None), ({}, 3)):
        agent.method.config = replace(agent.config, **{"acting_temperature": 1.0, **change})
        agent.facts["split_seed"] = split
        agent.save_pretrained(folder)
        found += compare([Entry("ad", ID, (str(folder),))], tmp_path / "out", num_seeds=1)
    assert (found[0].plain.runs != found[1].plain.runs).any()
    held_out = split_tasks(ID, 3).test.ids
    assert found[2].plain.tasks == tuple(held_out)
    assert found[2].planned.tasks == (held_out[0], held_out[-1])


@pytest.mark.slow
def test_stored_results_need_no_measuring(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path)
    (measured,) = compare([Entry("ad", ID, folders[:1])], tmp_path / "out", num_seeds=1)
    curves = [Curve.from_json({**measured.plain.to_json(), "name": "agent"})]
    entry = Entry("ad", ID, ("icrl/ad-darkroom-seed0", "elsewhere"))
    write_report(folders[0], curves)
    assert rows([stored(entry)])[0][5] == "not measured"
    write_report(folders[0], [*curves, Curve.from_json({**measured.planned.to_json(), "name": "planned"})])
    assert rows([stored(entry)]) == rows([measured])
    every = replace(evaluate(ICAgent.from_pretrained(folders[0]), ID, "all", 2), name="all 81 tasks")
    write_report(folders[0], [*curves, every])
    (_, last) = rows([stored(entry)])
    assert (last[0], last[3], last[5:]) == (f"{ID}, all tasks (16.54)", str(every.at(2)), ("not measured", "81 tasks"))


def test_released_finds_every_agent_of_the_table(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "bundled_folder", lambda: Path(folders[0]).parent)
    assert [entry.agents for entry in released()] == [("icrl/ad-darkroom-seed0",), ("icrl/ad-darkroom-seed1",)]
    more = tmp_path / "more"
    shutil.copytree(folders[1], more / "ad-darkroom-seed0-seed7")
    (more / "ad-darkroom-seed0-seed8").mkdir()  # not trained to its end
    (more / "ad-darkroom-seed0-seed7.log").touch()
    assert released(more)[0].agents == ("icrl/ad-darkroom-seed0", str(more / "ad-darkroom-seed0-seed7"))
    for nothing in (tmp_path / "nowhere", more / "ad-darkroom-seed0-seed8"):
        one_line(lambda where=nothing: released(where), FileNotFoundError, str(nothing), "name the folder")


def test_an_unknown_planner_costs_nothing(tmp_path):
    one_line(lambda: compare([], tmp_path, plan="lookahed"), ValueError, "lookahed", "did you mean 'lookahead'")
