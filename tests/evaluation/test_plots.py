"""The figure and the report: what they say is what the curves say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icrl_agents.core.files.strict_json import parse_json
from icrl_agents.evaluation import figure, plots
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.intervals import bootstrap, mean
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results import all_tasks, build_results, dump_results, headline, measure, write_report
from icrl_agents.evaluation.results_table import results_table, spans
from icrl_agents.hub import checkpoint
from icrl_agents.hub.cards import Row, make_card
from icrl_agents.methods import METHODS
from icrl_agents.sources import make_source
from tests.conftest import one_line

ID = "icrl/Darkroom-v0"
TASKS = (38, 51)  # goal=(4, 2), worth 19, and goal=(5, 6), worth 18


def learning(episodes: int = 50, seeds: int = 4, name: str = "agent", top: float = 17.0, **changes: Any) -> Curve:
    """Both tasks climb to `top` in episode 10; the second one stays 3 below."""
    ramp = np.minimum(np.arange(1, episodes + 1) / 10, 1) * top
    noise = np.random.default_rng(0).normal(0, 0.5, (seeds, 2, 1))
    runs = ramp + noise - np.array([0, 3])[:, None]
    best, floor = np.array([19.0, 18.0]), np.array([0.25, 0.75])
    return Curve(**{"env_id": ID, "split": "test", "tasks": TASKS, "runs": runs, "optimal": best,
                    "random": floor, "name": name, **changes})  # fmt: skip


# ---- the figure -------------------------------------------------------------------------------------------------


def draw(*curves: Curve) -> Any:
    axes = figure.require_matplotlib()().add_subplot()
    plots.fill_curves(axes, curves)
    return axes


def test_curves_of_one_figure_have_names_that_differ():
    """By what is known of them: where they are from, their tasks, else a number."""
    plain = learning(name="ad")
    origins = [replace(plain, origin=origin) for origin in ("old", "new")]
    assert names_in(origins) == {"ad (old)", "ad (new)"}
    assert names_in([plain, replace(plain, split="train")]) == {"ad (test)", "ad (train)"}
    assert names_in([plain, plain, replace(plain, name="dpt")]) == {"ad (1)", "ad (2)", "dpt"}
    assert names_in([plain, replace(plain, name="ad, planned")]) == {"ad", "ad, planned"}


def names_in(curves: list[Curve]) -> set[str]:
    """The labels of the lines of a figure."""
    return {curve.name for curve in plots.told_apart(curves)}


@pytest.mark.slow
def test_lines_are_the_curves():
    agent, source = learning(), learning(name="source posterior", top=12.0)
    axes = draw(agent, source)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"agent", "source posterior", "optimal (18.50)", "random (0.50)"}
    np.testing.assert_allclose(lines["agent"].get_ydata(), agent.mean)
    np.testing.assert_allclose(lines["source posterior"].get_ydata(), source.mean)
    assert lines["agent"].get_xdata().tolist() == list(range(1, 51))
    assert set(lines["optimal (18.50)"].get_ydata()) == {18.5}
    assert set(lines["random (0.50)"].get_ydata()) == {0.5}
    assert lines["source posterior"].get_color() == figure.GREY != lines["agent"].get_color()
    assert {lines[name].get_linestyle() for name in ("optimal (18.50)", "random (0.50)")} == {"--", ":"}
    band = axes.collections[0].get_paths()[0].get_extents()
    low, high = agent.band()
    assert (band.ymin, band.ymax) == pytest.approx((low.min(), high.max()))
    assert ID in axes.get_title()
    assert "2 test tasks" in axes.get_title()
    assert "episode" in axes.get_xlabel()
    assert "return" in axes.get_ylabel()


def test_of_a_single_episode_the_regret_of_its_steps_is_drawn():
    pace = np.linspace(0.02, 0.06, 300)
    agent, source = (learning(1, name=name, pace=pace) for name in ("agent", "source thompson"))
    axes = draw(agent, source)
    lines = {line.get_label(): line for line in axes.get_lines()}
    x, y = lines["agent"].get_data()
    assert x.tolist() == list(range(1, 301))
    np.testing.assert_allclose(y, 18.5 * x / 300 - np.cumsum(pace))
    (bar, _) = (container for container in axes.containers)
    ends = bar[2][0].get_segments()[0][:, 1]
    low, high = bootstrap(mean, agent.optimal - agent.runs[:, :, 0])[1:]
    assert ends.tolist() == pytest.approx([min(low, y[-1]), max(high, y[-1])])
    assert lines["random (18.00 in the end)"].get_ydata().tolist() == [0, 18]
    assert "step" in axes.get_xlabel()
    assert axes.get_ylabel() == "regret so far"
    unknown = draw(learning(1, pace=pace, optimal=np.full(2, np.nan)))
    assert unknown.get_ylabel() == "reward so far"
    np.testing.assert_allclose(unknown.get_lines()[0].get_ydata(), np.cumsum(pace))
    assert "return" in draw(agent, learning(1)).get_ylabel()  # one of them knows no steps: a point each


def test_the_first_line_shows_below_the_next_and_the_legend_says_what_bands_are(monkeypatch):
    lines = draw(learning(), learning(name="planned")).get_lines()
    first, second = (line for line in lines if "(" not in line.get_label())
    assert first.get_linewidth() > second.get_linewidth()
    shown = []
    monkeypatch.setattr(plots, "to_png", lambda figure: shown.append(figure) or b"")
    plots.draw_curves([learning()])
    assert shown[0].legends[0].get_title().get_text() == "95% intervals over 2 tasks x 4 lives"


def test_success_is_drawn_as_a_share_of_lifetimes(tmp_path):
    """Also where lifetimes are single episodes, whose returns are drawn by step."""
    found = learning(success=np.random.default_rng(0).random((4, 2, 50)) < 0.5)
    for name, scores in (("success", found.success_rate), ("best_so_far", found.best_so_far)):
        axes = figure.require_matplotlib()().add_subplot()
        plots.fill_curves(axes, [found], name)
        (line,) = axes.get_lines()  # no return of random or optimal play
        np.testing.assert_allclose(line.get_ydata(), scores.mean)
        assert "success" in axes.get_ylabel()
        assert axes.get_ylim() == pytest.approx((0, 1), abs=0.1)
    axes = figure.require_matplotlib()().add_subplot()
    plots.fill_curves(axes, [learning(1, pace=np.ones(3), success=np.ones((4, 2, 1), bool))], "success")
    assert axes.get_lines()[0].get_ydata().tolist() == [1]
    one_line(lambda: learning().plot(tmp_path / "c.png", measure="success"), ValueError, ID, "no success")
    one_line(lambda: found.plot(tmp_path / "c.png", measure="regret"), ValueError, "measure='regret'", "best_so_far")
    assert not list(tmp_path.iterdir())


def test_without_an_optimum_there_is_no_line_for_it():
    assert len(draw(learning(optimal=np.full(2, np.nan))).get_lines()) == 2


@pytest.mark.slow
def test_the_picture_is_small_and_whole(tmp_path):
    path = tmp_path / "deep" / "curve.png"
    learning().plot(path, [learning(name="source posterior", top=12.0), learning(name="other", seeds=2)])
    image = Image.open(io.BytesIO(path.read_bytes()))
    assert image.size == (figure.SIZE[0] * 160, figure.SIZE[1] * 160)
    assert len(path.read_bytes()) < 80_000
    assert len(set(np.asarray(image.convert("L")).ravel().tolist())) > 20  # not an empty sheet
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_other_kinds_of_picture(tmp_path, kind, start):
    plots.plot_curves([learning(episodes=1)], tmp_path / f"curve.{kind}")
    assert (tmp_path / f"curve.{kind}").read_bytes().startswith(start)


def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    monkeypatch.setattr("icrl_agents.core.process.packages.import_module", missing)


def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch):
    other = replace(learning(), env_id="icrl/Darkroom3x3-v0")
    one_line(lambda: plots.plot_curves([learning(), other], tmp_path / "c.png"), ValueError, ID, "one id")
    one_line(lambda: plots.plot_curves([learning()], tmp_path / "c.txt"), ValueError, "c.txt", ".png")
    without_matplotlib(monkeypatch)
    one_line(lambda: plots.plot_curves([learning()], tmp_path / "c.png"), ImportError, "icrl-agents[plots]")
    assert not list(tmp_path.iterdir())


# ---- the report -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("episodes", "expected"),
    [
        (1, [(1, 1)]),
        (3, [(1, 1), (3, 3), (1, 3)]),
        (12, [(1, 1), (5, 5), (10, 10), (12, 12), (3, 12)]),
        (20, [(1, 1), (5, 5), (10, 10), (20, 20), (10, 20)]),
        (50, [(1, 1), (5, 5), (10, 10), (10, 20), (50, 50), (40, 50)]),
        (100, [(1, 1), (5, 5), (10, 10), (10, 20), (50, 50), (40, 50), (1, 100), (100, 100), (91, 100)]),
    ],
)
def test_spans_that_are_reported(episodes, expected):
    assert spans(episodes) == expected


def test_the_table_says_what_the_curves_say():
    agent, source = learning(), learning(name="source posterior", top=12.0)
    rows = {row.name: row for row in results_table([agent, source, learning(name="other", top=10.0)])}
    row = rows["mean return, episodes 40-50"]
    assert row[1:4] == pytest.approx(agent.at(40, 50), abs=1e-4)
    assert row.value == pytest.approx(agent.runs[:, :, 39:50].mean(), abs=1e-4)
    assert rows["interquartile mean, episodes 10-20"].value == pytest.approx(agent.iqm(10, 20).value, abs=1e-4)
    worst = rows["worst task's share of its optimum, episodes 40-50"]
    assert worst.value == pytest.approx(agent.runs[:, 1, 39:50].mean() / 18, abs=1e-4)
    assert worst.note == "goal=(5, 6)"
    assert rows["other: mean return, episode 10"].value == pytest.approx(agent.at(10).value - 7, abs=1e-4)
    references = {row.name: row.value for row in rows.values() if row.reference}
    expected = {"random": 0.5, "optimal": 18.5, "source posterior, episodes 40-50": source.at(40, 50).value}
    assert references == pytest.approx(expected, abs=1e-4)


def test_results_are_strict_json_and_hold_the_curves(tmp_path):
    curves = [learning(episodes=12, optimal=np.full(2, np.nan)), learning(episodes=12, name="source posterior")]
    results = build_results(curves, [Row("extra", 1.5)])
    assert parse_json(dump_results(results).encode(), tmp_path) == json.loads(json.dumps(results))
    assert (results["episodes"], results["num_seeds"]) == (12, 4)
    np.testing.assert_array_equal(Curve.from_json(results["curves"][1]).runs, curves[1].runs)
    names = [row["name"] for row in results["table"]]
    assert names[-1] == "extra"
    assert "optimal" not in names
    assert not [name for name in names if "share" in name]


def test_the_headline_is_the_end_of_the_agents_own_curve():
    results = build_results([learning(), learning(name="other", top=10.0)])
    end = learning().at(40, 50).value
    assert headline(results) == f"{end:.2f} of 18.50 in episodes 40-50"
    assert headline({**results, "table": []}) == ""
    reached = build_results([learning(success=np.ones((4, 2, 50), bool))])
    assert headline(reached) == f"{end:.2f} of 18.50 in episodes 40-50, success 1.00"


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"source": "posterior", "data": {"settings": {"sharpness": 2.0}}}, "source posterior"),
        ({"source": "q-learning", "data": "nonsense"}, "source q-learning"),
        ({"source": "ppo"}, None),  # learns over hundreds of episodes
        ({"source": "posterior", "data": {"settings": {"sharpness": "x"}}}, None),  # facts of somebody else
        ({"source": "posterior", "data": {"settings": ["sharpness"]}}, None),
        ({"source": ["posterior"]}, None),
        ({}, None),
    ],
)
def test_the_source_is_measured_where_it_is_known(facts, name):
    learner = make_source("q-learning", ID)
    learner.facts = facts
    first, every, *rest = measure(learner, ID, EvalSpec(episodes=2, num_seeds=1))
    assert (first.name, every.name) == ("q-learning", "all 81 tasks")
    assert [curve.name for curve in rest] == ([] if name is None else [name])
    assert len({(curve.tasks, curve.split, curve.runs.shape) for curve in (first, *rest)}) == 1


@pytest.mark.parametrize(
    ("env_id", "tasks"),
    [
        ("icrl/Darkroom3x3-v0", "1 validation and 1 test tasks, trained on the other 7"),
        (ID, "7 validation and 8 test tasks, trained on the other 66"),
        ("icrl/DarkKeyToDoor-v0", None),  # its 328 test tasks stand for all
        ("icrl/DarkroomMacro-v0", None),
    ],
)
def test_where_test_tasks_are_few_all_tasks_are_measured_too(env_id, tasks):
    curves = all_tasks(make_source("uniform", env_id), env_id, episodes=1)
    if tasks is None:
        assert curves == []
        return
    rows = {
        row.name: row for row in results_table([*measure(make_source("uniform", env_id), env_id, EvalSpec(episodes=1))])
    }
    (every,) = curves
    row = rows[f"{every.name}: mean return, episode 1"]
    assert row.value == pytest.approx(every.at(1).value, abs=1e-4)
    assert row.note == tasks
    assert row.over == str(every.sample)
    assert rows[f"{every.name}: optimal"].value == pytest.approx(every.optimal.mean(), abs=1e-4)
    assert rows[f"{every.name}: lives not solved, episode 1"].value > 0.5
    assert rows["mean return, episode 1"].over != row.over


@pytest.mark.slow
def test_a_source_that_cannot_live_there_is_left_out():
    """Thompson sampling of 0 and 1, on normal rewards: the agent has been measured by then."""
    env_id = "icrl/GaussianBandit-v0"
    learner = make_source("uniform", env_id)
    learner.facts = {"source": "thompson", "data": {}}
    (curve,) = measure(learner, env_id, EvalSpec(num_seeds=1))
    assert (curve.name, curve.runs.shape[2]) == ("uniform", 1)


@pytest.mark.slow
def test_a_report_is_written_into_the_agents_folder(tiny_agent, tmp_path):
    agent = tiny_agent()
    agent.save_pretrained(tmp_path)
    before = (tmp_path / "README.md").read_text()
    write_report(tmp_path, [learning(), learning(name="source posterior")])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["weights_sha256"] == checkpoint.weights_sha256(tmp_path)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    card = (tmp_path / "README.md").read_text()
    assert card != before
    assert card == make_card(tmp_path, METHODS)
    assert f"| mean return, episodes 40-50 | {learning().at(40, 50).value:.4g} |" in card
    assert "(curve.png)" in card
    assert not [file for file in tmp_path.iterdir() if "tmp" in file.name]


def test_a_folder_without_an_agent_gets_no_report(tmp_path):
    one_line(lambda: write_report(tmp_path, [learning()]), FileNotFoundError, "model.safetensors")
    assert not list(tmp_path.iterdir())
