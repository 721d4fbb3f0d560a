"""The report on action sets: learners share tasks, files and figures hold what was measured."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from icrl_agents.evaluation.figure import DPI, SIZE, require_matplotlib
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.studies.action_sets import report as action_report
from icrl_agents.studies.action_sets import resampling
from icrl_agents.studies.action_sets.groups import find_entries
from icrl_agents.studies.action_sets.lifetimes import Setup, run_lifetimes
from icrl_agents.studies.action_sets.report import write_sets
from icrl_agents.studies.action_sets.results import Report, measure
from icrl_agents.studies.panels import fill_bars
from tests.cli.test_cli import done, refused
from tests.conftest import one_line
from tests.studies.action_sets.agents import BERNOULLI, MACRO, fresh, some_of


@pytest.fixture(scope="module")
def bandits() -> Report:
    agents = {"a": fresh("headless-ad"), "b": fresh("headless-ad", seed=1), "c": fresh("ad")}
    return measure(agents, BERNOULLI, ["num_10", "all_new", "num_10"], tasks=3, seed=5)


@pytest.fixture(scope="module")
def macros() -> Report:
    agents = {"a": fresh("headless-ad", MACRO)}
    return measure(agents, MACRO, ["train_test", "all_test", "all_train"], tasks=2, episodes=2, relabel=False)


@pytest.mark.slow
def test_bandits_are_scaled_by_random_play_and_the_source(bandits):
    assert bandits.measure == "regret"
    assert bandits.references == ("random", "thompson", "ucb", "thompson, tuned", "gittins")
    found = {(result.set, result.learner): result for result in bandits.results}
    assert list(found)[:7] == [("num_10", name) for name in (*bandits.references, "headless-ad", "ad")]
    assert len(found) == 14
    for name in ("num_10", "all_new"):
        mine, best = found[name, "headless-ad"], found[name, "gittins"]
        assert mine.ratios["gittins"].value == pytest.approx(mine.final.value / best.final.value)
        assert (best.ratios["gittins"], list(best.ratios)) == ((1, 1, 1), ["thompson, tuned", "gittins"])
        assert found[name, "random"].normalised == (0, 0, 0)
        assert found[name, "thompson"].normalised == found[name, "thompson"].ratio == (1, 1, 1)
        random, source, mine = (found[name, who].final.value for who in ("random", "thompson", "headless-ad"))
        assert found[name, "headless-ad"].normalised.value == pytest.approx((mine - random) / (source - random))
        assert found[name, "headless-ad"].ratio.value == pytest.approx(mine / source)
        assert found[name, "random"].relabelled is None
    headless = found["num_10", "headless-ad"]
    assert headless.difference.value == pytest.approx(headless.relabelled.value - headless.final.value)
    assert headless.actions == 10
    assert 1 <= headless.tried.value <= 10
    assert [len(part) for part in headless.curve] == [300] * 3
    assert headless.curve[0][-1] == pytest.approx(headless.final.value, abs=1e-4)
    ids = some_of(BERNOULLI, "num_10", 3)
    each = [
        run_lifetimes(fresh("headless-ad", seed=seed), Setup(BERNOULLI, ids, seed=5)).curve[:, -1].mean()
        for seed in (0, 1)
    ]
    assert headless.final.value == pytest.approx(np.mean(each))


@pytest.mark.slow
def test_macros_have_success_and_tried_actions(macros):
    assert (macros.measure, macros.references) == ("success", ("random", "q-learning"))
    assert {result.normalised for result in macros.results} == {None}
    for result in macros.results:
        assert 0 <= result.final.value <= 1
        assert len(result.curve[0]) == 2
        assert list(result.shares) == (["in training", "unseen"] if result.set.startswith("all") else [])
    assert set(action_report.bars(macros)) == {"test goals", "train goals"}
    assert list(action_report.bars(macros)["test goals"]) == ["train", "all"]
    header, _ = action_report.table(macros)
    assert header == ["set", "learner", "tasks", "actions", "success", "tried"]


@pytest.mark.slow
def test_files_tell_what_was_measured(bandits, tmp_path):
    write_sets(bandits, tmp_path / "deep")
    names = {path.name for path in (tmp_path / "deep").iterdir()}
    assert names == set(action_report.FILES) - {action_report.TRIED}
    data = json.loads((tmp_path / "deep" / "sets.json").read_text())
    assert data["entries"][0]["agents"] == ["a", "b"]
    assert data["settings"] == {"tasks": 3, "num_seeds": 1, "seed": 5, "episodes": 1}
    assert [row["curve"] for row in data["results"]] == [list(map(list, row.curve)) for row in bandits.results]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "deep" / "sets.csv").read_text())))
    assert [float(row["regret"]) for row in rows] == [result.final.value for result in bandits.results]
    assert [rows[5][name] for name in ("set", "learner", "tasks")] == ["num_10", "headless-ad", "3"]
    assert rows[0]["relabelled_high"] == ""
    lines = (tmp_path / "deep" / "sets.md").read_text().splitlines()
    assert (
        lines[0]
        == "| set | learner | tasks | actions | regret | normalised | ratio | tried | relabelled | difference |"
    )
    assert lines[2 + 3].split(" | ")[4] == str(bandits.results[3].final)
    table = list(csv.reader((tmp_path / "deep" / "hyperparameters.csv").read_text().splitlines()))
    assert table[0][:5] == ["name", "method", "width", "layers", "heads"]
    assert [row[0] for row in table[1:]] == ["headless-ad", "ad"]
    for name in (action_report.BARS, action_report.CURVES):
        assert Image.open(tmp_path / "deep" / name).size[0] >= SIZE[0] * DPI


@pytest.mark.slow
def test_files_are_replaced_all_or_none(bandits, macros, tmp_path):
    write_sets(bandits, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write_sets(macros, tmp_path)  # whose figures are others
    assert {path.name for path in tmp_path.iterdir()} == {*action_report.FILES, "notes.txt"} - {action_report.CURVES}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "sets.csv").unlink()
    (tmp_path / "sets.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write_sets(bandits, tmp_path)
    (tmp_path / "sets.csv").rmdir()
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == {name: content for name, content in before.items() if name != "sets.csv"}


@pytest.mark.slow
def test_pictures_show_the_results(bandits):
    axes = require_matplotlib()().add_subplot()
    (panel,) = action_report.bars(bandits).values()
    looks = action_report.looks(bandits)
    fill_bars(axes, panel, looks)
    assert looks["ad"].colour == looks["ad, renumbered"].colour != looks["headless-ad"].colour
    assert (looks["ad"].hatch, looks["ad, renumbered"].hatch) == ("", "////")
    shown = {
        bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers if bars.get_label()[0] != "_"
    }
    assert shown["ad"] == [result.final.value for result in bandits.results if result.learner == "ad"]
    moved = "headless-ad, renumbered"
    assert list(shown) == [*bandits.references, "headless-ad", moved, "ad", "ad, renumbered"]
    assert shown[moved] == [row.relabelled.value for row in bandits.results if row.learner == "headless-ad"]
    lines = action_report.lines(bandits, lambda result: {result.set: result.curve})
    assert lines["num_10"]["ucb"].mean == bandits.results[2].curve[0]


@pytest.mark.slow
def test_means_are_those_over_all_sets(bandits, macros):
    (title, score), (_, tried) = action_report.means(bandits).items()
    assert title == "normalised regret, 0 random, 1 thompson"
    mine = [row for row in bandits.results if row.learner == "ad"]
    assert len(mine) > 1
    assert score["all sets"]["ad"].value == pytest.approx(np.mean([row.normalised.value for row in mine]))
    assert tried["all sets"]["ad"].value == pytest.approx(np.mean([row.tried.value for row in mine]))
    assert score["all sets"]["thompson"] == (1, 1, 1)
    assert "ad, renumbered" in score["all sets"]
    success = action_report.means(macros)["final success"]["all sets"]["q-learning"]
    all_of = [row.final for row in macros.results if row.learner == "q-learning"]
    assert success.value == pytest.approx(np.mean([final.value for final in all_of]))


def test_many_variants_can_be_told_apart():
    agents = {str(n): fresh("headless-ad", inner=8 + n) for n in range(12)}
    report = Report(BERNOULLI, "regret", {}, ("random", "thompson", "ucb"), find_entries(agents), (), ())
    looks = action_report.looks(report)
    assert len({(look.colour, look.style) for look in looks.values()}) == len(looks) == 15


@pytest.mark.slow
def test_what_was_measured_apart_is_reported_together(bandits, tmp_path):
    parts = []
    for entry in bandits.entries:
        results = tuple(row for row in bandits.results if row.learner in (*bandits.references, entry.name))
        means = tuple(row for row in bandits.means if row.learner in (*bandits.references, entry.name))
        parts.append(replace(bandits, entries=(entry,), results=results, means=means))
        write_sets(parts[-1], tmp_path / entry.name)
    loaded = [Report.load(tmp_path / entry.name) for entry in bandits.entries]
    assert loaded == parts
    both = Report.join(loaded)
    assert both.entries == bandits.entries
    assert sorted(both.results, key=str) == sorted(bandits.results, key=str)
    assert sorted(both.means, key=str) == sorted(bandits.means, key=str)
    one_line(lambda: Report.join([both, loaded[0]]), ValueError, "several reports", loaded[0].entries[0].name)
    mine = loaded[0].entries[0]
    ablated = mine._replace(hyperparameters={**mine.hyperparameters, "prompt": False})
    both = Report.join([loaded[0], replace(loaded[0], entries=(ablated,))])
    assert [entry.name for entry in both.entries] == ["headless-ad", "headless-ad (prompt=False)"]
    counts = Counter(row.learner for row in both.results)
    assert counts["headless-ad"] == counts["headless-ad (prompt=False)"] == counts["random"] > 0
    older = json.loads((tmp_path / parts[0].entries[0].name / "sets.json").read_text())
    del older["means"]
    for name in ("renumber", "choice"):  # settings that an older version did not have yet
        del older["entries"][0]["hyperparameters"][name]
    (tmp_path / "sets.json").write_text(json.dumps(older))
    assert set(Report.load(tmp_path).entries[0].hyperparameters) == set(mine.hyperparameters)
    assert {**Report.load(tmp_path).entries[0].hyperparameters} == mine.hyperparameters
    assert action_report.MEANS not in action_report.figures(Report.load(tmp_path))
    other = replace(loaded[1], settings={**loaded[1].settings, "tasks": 9})
    one_line(lambda: Report.join([loaded[0], other]), ValueError, "settings", "measure them with the same settings")
    (tmp_path / "sets.json").write_text('{"env_id": 3}')
    one_line(lambda: Report.load(tmp_path), ValueError, "no report on sets")
    folders = [word for entry in bandits.entries for word in ("--stored", tmp_path / entry.name)]
    assert "thompson" in done("sets", *folders, "-o", tmp_path / "both")
    assert (tmp_path / "both" / "means.png").stat().st_size > 1000
    assert "not both" in refused("sets", "icrl/ad-darkroom", *folders)
    assert "not both" in refused("sets")
    measuring = ("--tasks", 9), ("--seeds", 2), ("--seed", 0), ("--no-relabel",), ("--episodes", 1)
    for option in (("--write",), ("--env", BERNOULLI), ("--set", "num_10"), *measuring):
        assert "or --stored" in refused("sets", *folders, *option)


@pytest.mark.slow
def test_a_set_that_nothing_can_be_divided_by(bandits):
    nothing = resampling.divide(np.ones(3), np.zeros(3))
    assert resampling.interval(nothing) is None
    results = tuple(result._replace(ratio=None) for result in bandits.results)
    assert "ratio" not in action_report.table(replace(bandits, results=results))[0]
    assert action_report.cell(Interval(1, 0, 2)) == "1.00 [0.00, 2.00]"
