"""The report of a store's confident runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from icrl_agents import HistoryStore, collect
from icrl_agents.cli.app import app
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.evaluation.figure import require_matplotlib
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.writer import HistoryWriter
from icrl_agents.methods.base.transforms import confident_runs
from icrl_agents.studies import marks as report
from tests.fakes import GRID
from tests.methods.test_confident_runs import S, U, history, plain_runs, random_steps

# ---- the report -------------------------------------------------------------------------------------------------

ENV = "icrl/Darkroom3x3-v0"  # episodes of 6 steps


def cells(chances: list[list[float]], lengths: list[int], ends: tuple[int, ...] = ()) -> Steps:
    rows = [history(row, ends) for row in chances]
    steps = stack_steps(
        *(np.concatenate([getattr(row, name) for row in rows]) for name in
          ("obs", "action", "reward", "next_obs", "terminated", "truncated")),
        mask=np.arange(len(chances[0])) < np.array(lengths)[:, None],
        extras={"log_prob": np.concatenate([row.extras["log_prob"] for row in rows])},
    )  # fmt: skip
    return steps


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Task 3: two runs of 3 and 4 in 16 steps; task 8: none in 20; task 11: 10 of 20, 5 of them in each episode."""
    histories = {
        3: cells([[U, S, S, S, U, S, S, U, U, U], [S, S, S, S, U, U, S, S, S, S]], [10, 6]),
        8: cells([[U] * 10, [S, U] * 5], [10, 10]),
        11: cells([[S] * 10, [U] * 10], [10, 10], ends=(4, 9)),
    }
    info = HistoryInfo(
        env_id="icrl/Darkroom-v0",
        env_kwargs={},
        observation_space=space_to_json(GRID),
        action_space=space_to_json(gymnasium.spaces.Discrete(5)),
        source="noise",
        settings={},
        assumes="nothing.",
        seed=0,
        streams=2,
        episodes=1,
        versions={},
    )
    with HistoryWriter(tmp_path / "tiny.h5", info, list(histories)) as writer:
        writer.add(histories)
        writer.finish()
    return tmp_path / "tiny.h5"


def test_the_report_of_a_tiny_store(store: Path):
    with HistoryStore(store) as histories:
        found = report.measure_marks(histories, 0.7, 3)
    rows = [(row.task, row.steps, row.runs, row.marked) for row in found.tasks]
    assert rows == [(3, 16, 2, 7), (8, 20, 0, 0), (11, 20, 2, 10)]
    assert (found.total.steps, found.total.runs, found.total.marked) == (56, 4, 17)
    assert found.typical == 3
    shares = {"all": 17 / 56, "mean": (7 / 16 + 0 + 0.5) / 3, "std": np.std([7 / 16, 0, 0.5]), "min": 0.0, "max": 0.5}
    assert found.to_json()["share"] == {name: pytest.approx(value, abs=1e-6) for name, value in shares.items()}


@pytest.mark.parametrize("seed", range(2))
def test_marked_steps_are_those_of_the_runs(seed: int):
    steps = random_steps(seed)
    expected = np.zeros(steps.mask.shape, bool)
    for row in range(len(expected)):
        for start, stop in plain_runs(steps, row, 0.6, 3):
            expected[row, start:stop] = True
    found = report.in_run(confident_runs(steps, 0.6, 3))
    np.testing.assert_array_equal(found & steps.mask, expected)


def test_the_picture_shows_the_runs():
    steps = history([U, S, S, S, U, S, S, S, S], ends=(6,))
    panels = require_matplotlib()().subplots(2)
    report.fill(panels, steps, 0.7, 3)
    spans = [path.get_extents() for path in panels[0].collections[0].get_paths()]
    assert [(span.x0, span.x1) for span in spans] == [(1, 4)]
    points, threshold = panels[0].get_lines()
    np.testing.assert_allclose(points.get_ydata(), np.exp(steps.extras["log_prob"][0]))
    assert set(threshold.get_ydata()) == {0.7}
    np.testing.assert_array_equal(panels[1].get_lines()[0].get_ydata(), steps.reward[0])
    report.fill(require_matplotlib()().subplots(2), history([S, U, S]), 0.7, 3)  # nothing to shade


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.slow
def test_the_command_prints_and_writes(store: Path, tmp_path: Path):
    result = call("marks", store, "--min-length", 3, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == ["task", "steps", "runs", "marked", "share"]
    assert lines[2:] == [
        ["3", "16", "2", "7", "43.8%"],
        ["8", "20", "0", "0", "0.0%"],
        ["11", "20", "2", "10", "50.0%"],
        ["all", "56", "4", "17", "30.4%"],
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["marks.json", "marks.png"]
    found = json.loads((tmp_path / "out" / "marks.json").read_text())
    told = {"env_id": "icrl/Darkroom-v0", "source": "noise", "threshold": 0.7, "min_length": 3}
    assert {name: found[name] for name in told} == told
    assert found["tasks"][0] == {"task": 3, "steps": 16, "runs": 2, "marked": 7, "share": 0.4375}
    picture = np.asarray(Image.open(tmp_path / "out" / "marks.png").convert("L"))
    assert len(set(picture.ravel().tolist())) > 20
    again = call("marks", store, "-o", tmp_path / "out")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert call("marks", store, "-o", tmp_path / "out", "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "out" / "marks.json").read_text())["share"]["all"] == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--threshold", "1.5"], "threshold=1.5 is outside"),
        (["--min-length", "0"], "min_length=0 is outside"),
    ],
)
def test_mistakes_of_the_command_cost_a_line(options: list[str], told: str, store: Path):
    result = call("marks", store, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr


def test_a_store_without_probabilities(tmp_path: Path):
    path = collect(ENV, "posterior", tmp_path / "posterior.h5", streams=1, episodes=2)
    result = call("marks", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "log_prob" in result.stderr
