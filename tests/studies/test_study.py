"""A study trains every combination once, continues after an interruption, and puts its table on the card."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from icrl_envs import FAMILIES

from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.evaluation.results import write_report
from icrl_agents.studies.seeds import include, study, study_table
from tests.cli.test_cli import refused
from tests.conftest import one_line
from tests.training.test_training import FAST, ID

SETTINGS = {**FAST, "updates": 2}


def run(out, **changes):
    env_id = changes.pop("env_id", ID)
    wanted = {"splits": [0, 1], "seeds": [0, 3], "settings": SETTINGS, "episodes": 3, "num_seeds": 2, **changes}
    return study("ad", env_id, out, **wanted)


@pytest.mark.slow
def test_every_combination_once(tmp_path, monkeypatch):
    curves = run(tmp_path)
    assert set(curves) == {(0, 0), (0, 3), (1, 0), (1, 3)}
    facts = json.loads((tmp_path / "split1-seed3/config.json").read_text())["facts"]
    assert (facts["split_seed"], facts["train"]["seed"]) == (1, 3)
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["table"]
    assert (found["settings"], found["splits"], found["seeds"], found["episodes"]) == (SETTINGS, [0, 1], [0, 3], 3)
    assert "torch" in found["versions"]

    def fail(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("icrl_agents.training.loop.train", fail)
    again = run(tmp_path)
    assert all(np.array_equal(curve.runs, again[cell].runs) for cell, curve in curves.items())
    (tmp_path / "split0-seed3/curve.json").unlink()  # killed between training and evaluation
    assert np.array_equal(run(tmp_path)[0, 3].runs, curves[0, 3].runs)
    monkeypatch.undo()
    for name in ("curve.json", "config.json"):  # killed while the agent was written, the weights first
        (tmp_path / "split0-seed3" / name).unlink()
    assert np.array_equal(run(tmp_path)[0, 3].runs, curves[0, 3].runs)


@pytest.mark.slow
def test_processes_do_not_change_it(tmp_path):
    one, two = run(tmp_path / "1", seeds=[0]), run(tmp_path / "2", seeds=[0], jobs=2)
    assert all(np.allclose(one[cell].runs, two[cell].runs) for cell in one)


LEVELS = {(0, 0): 4, (0, 1): 6, (1, 0): 8, (1, 1): 6}


def test_table():
    def curve(level):
        runs = np.full((2, 3, 12), float(level))
        return Curve("icrl/Darkroom-v0", "test", (0, 1, 2), runs, np.full(3, 10.0), np.zeros(3))

    rows = {row.name: row for row in study_table({cell: curve(level) for cell, level in LEVELS.items()})}
    found = rows["2 splits x 2 training seeds: mean return, episode 10"]
    assert found.value == 6.0
    assert 4 <= found.low < 6 < found.high <= 8
    assert rows["2 splits x 2 training seeds: share of optimum, episode 10"].value == 0.6
    worst = next(row for name, row in rows.items() if "worst task" in name)
    assert (worst.value, worst.note) == (0.4, "split seed 0, training seed 0")
    assert found.over == "2 splits x 2 training seeds"
    assert not [name for name in rows if "success" in name]
    reached = [replace(curve(4), success=np.arange(12) < count + np.zeros((2, 3, 1))) for count in (11, 12)]
    unknown = [replace(one, optimal=np.full(3, np.nan)) for one in reached]
    rows = {row.name: row for row in study_table({(0, 0): unknown[0], (0, 1): unknown[1]})}
    row = rows["1 split x 2 training seeds: success, episodes 10-12"]
    assert (row.value, row.low, row.high, row.unit) == (0.8333, 0.6667, 1, "success rate")
    assert "1 split x 2 training seeds: best-so-far success, episode 12" in rows
    assert not [name for name in rows if "optimum" in name or "worst" in name]


def test_trainings_on_one_split_are_not_as_many_splits():
    def curve(level):
        return Curve("icrl/Darkroom-v0", "test", (0,), np.full((1, 1, 12), float(level)), np.ones(1), np.zeros(1))

    name = "2 splits x 4 training seeds: mean return, episode 10"
    cells = {(split, seed): curve(level) for split, level in ((0, 0.2), (1, 0.8)) for seed in range(4)}
    found = {row.name: row for row in study_table(cells)}[name]
    assert (found.value, found.low, found.high) == (0.5, 0.2, 0.8)  # as of two splits with one training each


def test_a_share_of_costs_is_larger_where_they_are_smaller():
    def curve(level, best=-2.0):
        runs = np.full((2, 3, 12), float(level))
        return Curve("icrl/PointRobot-v0", "test", (0, 1, 2), runs, np.full(3, best), np.full(3, -12.0))

    name = "1 split x 1 training seed: share of optimum, episode 10"
    for level, share in ((-2, 1.0), (-7, 0.5), (-12, 0.0)):
        rows = {row.name: row for row in study_table({(0, 0): curve(level)})}
        assert rows[name].value == rows["1 split x 1 training seed: worst task of all, episodes 3-12"].value == share
    nothing_to_gain = study_table({(0, 0): replace(curve(-12), optimal=np.full(3, -12.0))})
    assert not [row.name for row in nothing_to_gain if "optimum" in row.unit]


@pytest.mark.slow
def test_it_goes_on_the_card(tmp_path):
    curves = run(tmp_path, seeds=[0])
    folder = tmp_path / "split0-seed0"
    from icrl_agents import ICAgent

    write_report(folder, [evaluate(ICAgent.from_pretrained(folder), ID, "test", 3, 2)])
    include(folder, curves)
    assert "2 splits x 1 training seed:" in (folder / "README.md").read_text()
    results = json.loads((folder / "results.json").read_text())
    assert results["study"] == results["table"][-len(results["study"]) :] == [r._asdict() for r in study_table(curves)]


@pytest.mark.slow
def test_the_card_is_of_an_agent_of_the_study(tmp_path, tiny_agent):
    rules = FAMILIES[ID].rules
    agent, folder = tiny_agent(rules.observation_space, rules.action_space), tmp_path / "agent"
    agent.save_pretrained(folder)
    words = ("research", "seeds", "ad", "--env", ID, "-o", tmp_path / "out", "--into", folder)
    assert f"--into adds to results, {folder} has none" in refused(*words)
    write_report(folder, [evaluate(agent, ID, "test", 1)])
    other = "icrl/Darkroom-v0"
    told = refused("research", "seeds", "ad", "--env", other, "-o", tmp_path / "out", "--into", folder)
    assert f"these would be of {other}: leave --into out" in told
    told = refused("research", "seeds", "dpt", "--env", ID, "-o", tmp_path / "out", "--into", folder)
    assert f"{folder} is an agent of ad, the study is of dpt" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_measurement_keeps_its_rows_another_training_does_not(tmp_path):
    from icrl_agents import ICAgent

    curves, folder = run(tmp_path, seeds=[0]), tmp_path / "split0-seed0"
    results = folder / "results.json"

    def read():
        return json.loads(results.read_text())

    write_report(folder, [curves[0, 0]])
    results.write_text(json.dumps({**read(), "versions": {"torch": "1"}}))
    include(folder, curves)
    rows = read()["study"]
    assert read()["versions"] == {"torch": "1"}  # the study did not measure it again
    write_report(folder, [curves[0, 0]])
    assert read()["study"] == rows == read()["table"][-len(rows) :]
    assert read()["versions"] != {"torch": "1"}
    assert "2 splits x 1 training seed:" in (folder / "README.md").read_text()
    ICAgent.from_pretrained(tmp_path / "split1-seed0").save_pretrained(folder)
    one_line(lambda: include(folder, curves), ValueError, "other weights")
    write_report(folder, [curves[0, 0]])
    assert read()["study"] == []
    assert "training seed" not in results.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {**SETTINGS, "lr": 0.5}}, "lr=0.5"),
        ({"env_id": "icrl/Darkroom-v0"}, "env_id='icrl/Darkroom-v0'"),
        ({"episodes": 4}, "episodes=4"),
        ({"num_seeds": 1}, "num_seeds=1"),
    ],
)
def test_cells_of_another_study_are_refused(tmp_path, changes, words):
    cell = {"splits": [0], "seeds": [0]}
    run(tmp_path, **cell)
    done = tmp_path / "split0-seed0/curve.json"
    before = done.read_bytes()
    one_line(lambda: run(tmp_path, **cell, **changes), ValueError, words, "another folder")
    assert done.read_bytes() == before
    done.unlink()
    if "episodes" in changes or "num_seeds" in changes:  # trained as wanted, and not evaluated otherwise
        assert run(tmp_path, **cell, **changes)[0, 0].facts == {"episodes": 3, "num_seeds": 2, "seed": 0, **changes}
    else:
        one_line(lambda: run(tmp_path, **cell, **changes), ValueError, words, "another folder")


def test_a_study_without_a_setting_is_another_one(tmp_path):
    """A trial with few updates is not taken for the study itself."""
    cell = {"splits": [0], "seeds": [0]}
    run(tmp_path, **cell)
    some = {name: value for name, value in SETTINGS.items() if name != "updates"}
    words = f"updates={SETTINGS['updates']}", "another folder"
    one_line(lambda: run(tmp_path, **cell, settings=some), ValueError, *words)
    slips = {"source.slips": 0.5}
    run(tmp_path / "slips", **cell, settings=SETTINGS | slips)
    one_line(lambda: run(tmp_path / "slips", **cell), ValueError, "source.slips=0.5", "another folder")


def test_a_folder_that_was_moved_is_another_cell(tmp_path):
    run(tmp_path, splits=[0], seeds=[0])
    shutil.move(tmp_path / "split0-seed0", tmp_path / "split0-seed1")
    one_line(lambda: run(tmp_path, splits=[0], seeds=[1]), ValueError, "seed=1", "another folder")
    (tmp_path / "split0-seed1/train.json").unlink()
    one_line(lambda: run(tmp_path, splits=[0], seeds=[1]), ValueError, "train.json", "another folder")


def stay(obs):
    return 0 * obs[:, 0]


def test_an_expert_from_python_is_named_and_goes_on(tmp_path):
    settings = {**SETTINGS, "source": "noise", "source.expert": stay}
    curve = run(tmp_path, splits=[0], seeds=[0], settings=settings)[0, 0]
    noted = json.loads((tmp_path / "study.json").read_text())["settings"]
    assert noted == {**settings, "source.expert": "tests.studies.test_study:stay"}
    assert np.array_equal(run(tmp_path, splits=[0], seeds=[0], settings=settings)[0, 0].runs, curve.runs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jobs": 0}, "jobs=0 is outside 1"),
        ({"splits": []}, r"splits=\[\]: give at least one"),
        ({"splits": [0, 1, 0]}, r"splits=\[0, 1, 0\]: give at least one, each once"),
        ({"seeds": [3, 3]}, r"seeds=\[3, 3\]: give at least one, each once"),
        ({"settings": {**SETTINGS, "seed": 1}}, "varies seed itself"),
        ({"settings": {"task_set": "train_20"}}, "each --seed instead"),
    ],
)
def test_mistakes(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, **changes)
