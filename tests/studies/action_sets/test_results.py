"""Statistics over tasks, training seeds and sets, and the sets that an agent is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from icrl_agents.evaluation.figure import require_matplotlib
from icrl_agents.evaluation.references import reference_learners
from icrl_agents.studies.action_sets import lifetimes as action_lives
from icrl_agents.studies.action_sets import report as action_report
from icrl_agents.studies.action_sets import resampling
from icrl_agents.studies.action_sets import results as action_results
from icrl_agents.studies.action_sets.groups import find_entries
from icrl_agents.studies.action_sets.report import write_sets
from icrl_agents.studies.action_sets.results import Report, measure
from icrl_agents.studies.panels import fill_bars
from tests.studies.action_sets.agents import BERNOULLI, MACRO, fresh


def test_intervals_are_over_tasks_and_training_seeds():
    scores = np.random.default_rng(0).normal(5, 2, 400)
    value, low, high = resampling.interval(resampling.resampled([scores]))
    error = scores.std() / 20
    assert value == pytest.approx(scores.mean())
    assert (value - low, high - value) == pytest.approx((1.96 * error, 1.96 * error), rel=0.1)
    other = resampling.resampled([scores + 1, scores + 1])
    np.testing.assert_allclose(other - resampling.resampled([scores]), 1)  # the same tasks for everybody
    apart = resampling.interval(resampling.resampled([np.zeros(9), np.ones(9)]))
    assert apart == pytest.approx((0.5, 0, 1))
    curves = resampling.resampled([np.arange(12.0).reshape(4, 3)])
    assert curves[0] == pytest.approx([4.5, 5.5, 6.5])
    assert resampling.band(curves)[0] == pytest.approx([4.5, 5.5, 6.5])
    np.testing.assert_allclose(np.diff(curves, axis=1), 1)  # the same tasks at every point


def test_every_published_set_is_measured_once():
    names = action_results.default_sets(MACRO)
    assert len(names) == 10
    assert {name.rpartition("_")[2] for name in names} == {"train", "test"}
    assert action_results.default_sets(BERNOULLI)[0] == "train"


def test_the_source_lives_as_many_episodes_as_it_plans_for():
    assert reference_learners(MACRO, 7)["q-learning"].episodes == 7


@pytest.mark.slow
def test_agents_of_a_set_are_measured_where_there_are_as_many_actions(tmp_path, monkeypatch):
    agents = {"all": fresh("ad"), "10": fresh("ad"), "20": fresh("ad")}
    for name in ("10", "20"):
        agents[name].facts["train"]["task_set"] = f"train_{name}"
    monkeypatch.setattr(action_results, "default_sets", lambda env_id: ["num_10", "num_20", "all_new"])
    report = measure(agents, BERNOULLI, tasks=2, relabel=False)
    own = [(row.set, row.learner) for row in report.results if "task_set" in row.learner]
    assert own == [("num_10", "ad (task_set=train_10)"), ("num_20", "ad (task_set=train_20)")]
    assert {mean.learner for mean in report.means} == {*report.references, "ad"}
    (panel,) = action_report.bars(report).values()
    assert [name for name, learners in panel.items() if "ad (task_set=train_k)" in learners] == ["num_10", "num_20"]
    assert list(action_report.looks(report))[5:] == ["ad", "ad (task_set=train_k)"]
    axes = require_matplotlib()().add_subplot()
    fill_bars(axes, panel, action_report.looks(report))
    (bars,) = [bars for bars in axes.containers if bars.get_label() == "ad (task_set=train_k)"]
    assert [bar.get_height() for bar in bars] == [
        panel[name]["ad (task_set=train_k)"].value for name in ("num_10", "num_20")
    ]
    both = measure(agents, BERNOULLI, ["num_10"], tasks=2, relabel=False)  # two on one set are drawn apart
    assert list(action_report.looks(both))[5:] == ["ad", "ad (task_set=train_10)", "ad (task_set=train_20)"]
    shown = action_report.lines(report, lambda result: {result.set: result.curve})
    assert ["ad (task_set=train_k)" in panel for panel in shown.values()] == [True, True, False]
    write_sets(report, tmp_path)  # every figure is drawn
    assert Report.load(tmp_path) == report
    assert {row.name.partition(":")[0] for row in action_report.card_rows(report, report.entries[1])} == {"num_10"}
    chosen = measure({"20": agents["20"]}, BERNOULLI, ["num_10"], tasks=2, relabel=False)  # whoever asks for it
    assert "ad (task_set=train_20)" in {row.learner for row in chosen.results}
    alone = measure({"20": agents["20"]}, BERNOULLI, ["num_20"], tasks=2, relabel=False)
    assert [entry.name for entry in alone.entries] == ["ad (task_set=train_20)"]
    assert "ad (task_set=train_k)" in action_report.means(alone)["different actions in a lifetime"]["all sets"]


def test_macros_are_suited_by_their_number():
    sets, (head, none) = action_results.default_sets(MACRO), (fresh("ad", MACRO), fresh("headless-ad", MACRO))
    for agent, task_set, suited in (
        (head, "test_train", 2),
        (head, "one_perm_train_train", 6),
        (head, "train", 10),
        (head, "train_train", 10),  # the same tasks
        (none, "test_train", 10),
        (head, "train_20", 10),  # which is one of another environment
    ):
        agent.facts["train"]["task_set"] = task_set
        (entry,) = find_entries({"a": agent})
        assert sum(action_results.suits(entry, MACRO, name) for name in sets) == suited


def test_sets_are_drawn_anew_apart():
    """The interval of a mean over eight sets is narrower than that of one, even if all of them bring the same."""
    score, legal = np.random.default_rng(0).random((40, 1)), np.ones((40, 3), bool)
    lives = {who: [action_lives.LifetimeStats(score, score[:, 0], {})] for who in "abc"}
    each = [action_results.on_set("s", number, legal, lives, {}, bandit=False)["a"][1] for number in range(1, 9)]
    mean = action_results.mean_rows({"a": each})[0].score
    one = resampling.interval(each[0].score)
    assert mean.value == pytest.approx(score.mean())
    assert 0.3 < (mean.high - mean.low) / (one.high - one.low) < 0.45  # 1 / sqrt(8)
