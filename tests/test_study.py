"""A study trains every combination once, continues after an interruption, and puts its table on the card."""

import json

import numpy as np
import pytest

from icrl_agents.evaluation import Curve, evaluate
from icrl_agents.report import write_report
from icrl_agents.study import include, study, study_table
from tests.test_training import FAST, ID

SETTINGS = {**FAST, "updates": 2}


def run(out, **changes):
    wanted = {"splits": [0, 1], "seeds": [0, 3], "settings": SETTINGS, "episodes": 3, "num_seeds": 2, **changes}
    return study("ad", ID, out, **wanted)


def test_every_combination_once(tmp_path, monkeypatch):
    curves = run(tmp_path)
    assert set(curves) == {(0, 0), (0, 3), (1, 0), (1, 3)}
    facts = json.loads((tmp_path / "split1-seed3/config.json").read_text())["facts"]
    assert (facts["split_seed"], facts["train"]["seed"]) == (1, 3)
    assert json.loads((tmp_path / "study.json").read_text())["table"]

    def fail(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("icrl_agents.training.train", fail)
    again = run(tmp_path)
    assert all(np.array_equal(curve.runs, again[cell].runs) for cell, curve in curves.items())
    (tmp_path / "split0-seed3/curve.json").unlink()  # killed between training and evaluation
    assert np.array_equal(run(tmp_path)[0, 3].runs, curves[0, 3].runs)


def test_processes_do_not_change_it(tmp_path):
    one, two = run(tmp_path / "1", seeds=[0]), run(tmp_path / "2", seeds=[0], jobs=2)
    assert all(np.allclose(one[cell].runs, two[cell].runs) for cell in one)


def test_table():
    def curve(level):
        runs = np.full((2, 3, 12), float(level))
        return Curve("icrl/Darkroom-v0", "test", (0, 1, 2), runs, np.full(3, 10.0), np.zeros(3))

    rows = {row.name: row for row in study_table({(0, 0): curve(4), (0, 1): curve(6), (1, 0): curve(8)})}
    found = rows["2 splits x 2 training seeds: mean return, episode 10"]
    assert found.value == 6.0
    assert 4 <= found.low < 6 < found.high <= 8
    assert rows["2 splits x 2 training seeds: share of optimum, episode 10"].value == 0.6
    worst = next(row for name, row in rows.items() if "worst task" in name)
    assert (worst.value, worst.note) == (0.4, "split seed 0, training seed 0")


def test_it_goes_on_the_card(tmp_path):
    curves = run(tmp_path, seeds=[0])
    folder = tmp_path / "split0-seed0"
    from icrl_agents import ICAgent

    write_report(folder, [evaluate(ICAgent.from_pretrained(folder), ID, "test", 3, 2)])
    include(folder, curves)
    assert "2 splits x 1 training seeds" in (folder / "README.md").read_text()
    assert "2 splits x 1 training seeds" in (folder / "results.json").read_text()


@pytest.mark.parametrize("changes", [{"jobs": 0}, {"splits": []}, {"settings": {**SETTINGS, "seed": 1}}])
def test_mistakes(tmp_path, changes):
    with pytest.raises(ValueError, match=r"at least one of each|varies seed itself"):
        run(tmp_path, **changes)
