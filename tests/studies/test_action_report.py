"""The report on sets of actions: regrets are exact, everybody lives the same tasks, and files say what was measured."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from icrl_envs import FAMILIES
from PIL import Image

from icrl_agents import METHODS, ICAgent
from icrl_agents.evaluation import plots
from icrl_agents.evaluation.evaluate import block_seeds, evaluate
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.evaluation.references import reference_learners
from icrl_agents.evaluation.results import spread, write_report
from icrl_agents.sources import make_source
from icrl_agents.studies.action_sets import lifetimes as action_lives
from icrl_agents.studies.action_sets import report as action_report
from icrl_agents.studies.action_sets import results as action_results
from icrl_agents.studies.action_sets.groups import find_entries
from icrl_agents.studies.action_sets.lifetimes import Relabel, Setup, Watch, run_lifetimes
from icrl_agents.studies.action_sets.report import write_sets
from icrl_agents.studies.action_sets.results import Report, measure
from tests.conftest import one_line
from tests.test_cli import done, refused

BERNOULLI, CONTEXTUAL, MACRO = "icrl/BernoulliBandit-v0", "icrl/ContextualBandit-v0", "icrl/DarkroomMacro-v0"
SIZES = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 20, "slide": 10}


def fresh(method: str, env_id: str = BERNOULLI, seed: int = 0, **settings: Any) -> Any:
    """An agent with random weights."""
    rules, cls = FAMILIES[env_id].rules, METHODS[method]
    own = {"vector_size": 8} if method == "headless-ad" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = cls.Config(**{**SIZES, **own, **settings})
        agent = ICAgent(cls(rules.observation_space, rules.action_space, config))
    agent.facts = {"env_id": env_id, "source": "thompson", "train": {"lr": 1e-3, "updates": 5, "seed": seed}}
    return agent.eval()


class Cycle:
    """Tries `actions` in turn, over and over."""

    def __init__(self, *actions: int):
        self.actions = actions

    def reset(self, env, *, seed=None):
        self.env, self.step = env, 0

    def act(self, obs):
        self.step += 1
        return np.full(self.env.num_envs, self.actions[(self.step - 1) % len(self.actions)])

    def observe(self, obs, reward, terminated, truncated, info):
        """It learns nothing."""


def some_of(env_id: str, name: str, count: int) -> tuple[int, ...]:
    return spread(FAMILIES[env_id].named(name).ids, count)


# ---- living -----------------------------------------------------------------------------------------------------


def test_regret_is_that_of_every_pull_the_last_one_included():
    ids = some_of(BERNOULLI, "all_new", 3)
    tasks = FAMILIES[BERNOULLI].rules.table
    gaps = tasks.best[list(ids)] - tasks.values[list(ids), 2]
    found = run_lifetimes(Cycle(2), Setup(BERNOULLI, ids))
    np.testing.assert_allclose(found.curve, gaps[:, None] * np.arange(1, 301))
    assert found.tried.tolist() == [1, 1, 1]
    assert run_lifetimes(Cycle(2), Setup(BERNOULLI, ids, episodes=2)).curve.shape == (3, 600)


def test_regret_is_what_single_environments_tell():
    ids, seed, actions = some_of(CONTEXTUAL, "num_20", 2), 7, (0, 3, 1, 19, 2, 2, 5)
    found = run_lifetimes(Cycle(*actions), Setup(CONTEXTUAL, ids, seed=seed))
    for row, task in enumerate(ids):
        env, regret = gymnasium.make(CONTEXTUAL), []
        env.reset(seed=seed + row, options={"task": FAMILIES[CONTEXTUAL].rules.task_kwargs(task)})
        for step in range(300):
            *_, truncated, info = env.step(actions[step % len(actions)])
            regret.append(info["regret"])
        assert truncated
        assert regret[-1] > 0
        np.testing.assert_allclose(found.curve[row], np.cumsum(regret))
    assert found.tried.tolist() == [6, 6]


def test_lifetimes_on_a_task_are_averaged(monkeypatch):
    ids, source = some_of(BERNOULLI, "train", 4), make_source("thompson", BERNOULLI)
    each, both = (
        run_lifetimes(source, Setup(BERNOULLI, ids * 2, seed=1)),
        run_lifetimes(source, Setup(BERNOULLI, ids, num_seeds=2, seed=1)),
    )
    assert (each.curve[:4, -1] != each.curve[4:, -1]).any()
    np.testing.assert_allclose(both.curve, (each.curve[:4] + each.curve[4:]) / 2)
    np.testing.assert_allclose(both.tried, (each.tried[:4] + each.tried[4:]) / 2)
    macros = some_of(MACRO, "all_test", 2)
    groups = action_lives.action_groups(MACRO, macros)
    shares = run_lifetimes(Cycle(*range(44, 56)), Setup(MACRO, macros, 2, num_seeds=3), groups=groups).shares
    one = run_lifetimes(Cycle(*range(44, 56)), Setup(MACRO, macros, 2), groups=groups).shares
    np.testing.assert_allclose(shares["unseen"], one["unseen"])
    monkeypatch.setattr("icrl_agents.evaluation.evaluate.MAX_ROWS", 9)
    blocks = run_lifetimes(source, Setup(BERNOULLI, ids, num_seeds=5, seed=1))  # two, two and one on each task
    parts = [
        run_lifetimes(source, Setup(BERNOULLI, ids, num_seeds=n, seed=s))
        for n, s in zip((2, 2, 1), block_seeds(1, 3), strict=True)
    ]
    wanted = sum(n * part.curve for n, part in zip((2, 2, 1), parts, strict=True)) / 5
    np.testing.assert_allclose(blocks.curve, wanted)


def test_success_and_what_was_tried_are_told_by_episode():
    rules, ids = FAMILIES[MACRO].rules, some_of(MACRO, "all_test", 3)
    groups = action_lives.action_groups(MACRO, ids)
    assert {name: group.sum(1).tolist() for name, group in groups.items()} == {"in training": [50] * 3,
                                                                               "unseen": [75] * 3}  # fmt: skip
    found = run_lifetimes(Cycle(*range(44, 56)), Setup(MACRO, ids, episodes=3), groups=groups)
    assert found.curve.shape == (3, 3)
    for row, task in enumerate(ids):
        env, step, tried = gymnasium.make(MACRO, **rules.task_kwargs(task)), 0, set[int]()
        # rows go on while others finish, and what they do then does not count
        for episode in range(3):
            env.reset()
            over = False
            while not over:
                action, step = 44 + step % 12, step + 1
                _, reward, terminated, truncated, _ = env.step(action)
                tried.add(action)
                over = terminated or truncated
            assert found.curve[row, episode] == reward
            assert found.shares["in training"][row, episode] == len([a for a in tried if a < 50]) / 50
            assert found.shares["unseen"][row, episode] == len([a for a in tried if a >= 50]) / 75
        assert found.tried[row] == len(tried)


def test_sets_with_actions_of_one_kind_have_no_shares():
    assert action_lives.action_groups(MACRO, some_of(MACRO, "cut_test_test", 2)) == {}
    assert action_lives.action_groups(BERNOULLI, (0, 1)) == {}


# ---- renumbering ------------------------------------------------------------------------------------------------


def test_renumbering_permutes_the_legal_actions_of_each_row():
    ids = np.array(some_of(BERNOULLI, "all_new", 6))
    watch = Watch(gymnasium.make_vec(BERNOULLI, num_envs=6))
    env = Relabel(watch, seed=3)
    _, info = env.reset(seed=0, options={"task": ids})
    arms, order = info["action_mask"].sum(1), env.order
    assert all(sorted(row[:k]) == list(range(k)) for row, k in zip(order, arms, strict=True))
    assert all(row[k:].tolist() == list(range(k, 50)) for row, k in zip(order, arms, strict=True))
    assert (order[0, :4] != order[1, :4]).any()
    env.step(np.zeros(6, np.int64))
    assert (watch.first.argmin(1) == order[:, 0]).all()
    again = Relabel(gymnasium.make_vec(BERNOULLI, num_envs=6), seed=3)
    again.reset(seed=1, options={"task": ids})
    np.testing.assert_array_equal(again.order, order)
    other = Relabel(gymnasium.make_vec(BERNOULLI, num_envs=6), seed=4)
    other.reset(seed=1, options={"task": ids})
    assert (other.order != order).any()


def test_renumbering_matters_only_to_those_who_know_the_numbers():
    ids, thompson = some_of(BERNOULLI, "train", 200), make_source("thompson", BERNOULLI)
    plain, moved = (
        [run_lifetimes(who, Setup(BERNOULLI, ids), relabel=relabel).curve[:, -1] for who in (thompson, Cycle(1))]
        for relabel in (False, True)
    )
    difference = [action_results.interval(action_results.resampled([b - a])) for a, b in zip(plain, moved, strict=True)]
    assert difference[0].low < 0 < difference[0].high
    assert abs(difference[0].value) < 3
    assert difference[1].low > 30  # arm 1 is among the better half in 95% of these tasks


# ---- intervals --------------------------------------------------------------------------------------------------


def test_intervals_are_over_tasks_and_training_seeds():
    scores = np.random.default_rng(0).normal(5, 2, 400)
    value, low, high = action_results.interval(action_results.resampled([scores]))
    error = scores.std() / 20
    assert value == pytest.approx(scores.mean())
    assert (value - low, high - value) == pytest.approx((1.96 * error, 1.96 * error), rel=0.1)
    other = action_results.resampled([scores + 1, scores + 1])
    np.testing.assert_allclose(other - action_results.resampled([scores]), 1)  # the same tasks for everybody
    apart = action_results.interval(action_results.resampled([np.zeros(9), np.ones(9)]))
    assert apart == pytest.approx((0.5, 0, 1))
    curves = action_results.resampled([np.arange(12.0).reshape(4, 3)])
    assert curves[0] == pytest.approx([4.5, 5.5, 6.5])
    assert action_results.band(curves)[0] == pytest.approx([4.5, 5.5, 6.5])
    np.testing.assert_allclose(np.diff(curves, axis=1), 1)  # the same tasks at every point


# ---- entries ----------------------------------------------------------------------------------------------------


def test_agents_alike_are_training_seeds():
    agents = {
        "a": fresh("headless-ad"),
        "b": fresh("ad"),
        "c": fresh("headless-ad", seed=1),
        "d": fresh("headless-ad", prompt=False, temperature=2.0),
        "e": fresh("headless-ad", dropout=0.1),
    }
    entries = {entry.name: entry for entry in find_entries(agents)}
    assert {name: entry.agents for name, entry in entries.items()} == {
        "headless-ad": ("a", "c"),
        "ad": ("b",),
        "headless-ad (prompt=False)": ("d",),
        "headless-ad (dropout=0.1)": ("e",),
    }
    told = entries["headless-ad (prompt=False)"].hyperparameters
    assert (told["method"], told["temperature"], told["lr"], told["batch_size"]) == ("headless-ad", 2.0, 1e-3, 32)
    assert "seed" not in told
    agents["e"].facts["data"] = {"settings": {"sharpness": 3.0}}
    assert find_entries(agents)[-1].name == "headless-ad (dropout=0.1, source.sharpness=3.0)"
    agents["f"] = fresh("headless-ad", prompt=False, temperature=3.0)  # the short name is taken
    for order in (agents, {"a": agents["a"], "f": agents["f"], "d": agents["d"]}):  # whoever comes first
        names = {path: entry.name for entry in find_entries(order) for path in entry.agents}
        assert names["f"] == "headless-ad (prompt=False, temperature=3.0)"
        assert names["d"] == "headless-ad (prompt=False, temperature=2.0)"


def test_ablations_that_go_together_are_both_told():
    agents = {
        "a": fresh("headless-ad"),
        "b": fresh("headless-ad", votes=False),
        "c": fresh("headless-ad", votes=False, illegal="zero"),
        "d": fresh("headless-ad", votes=False, similarity="cosine"),
    }
    names = [entry.name.removeprefix("headless-ad") for entry in find_entries(agents)]
    assert names == ["", " (votes=False)", " (illegal=zero, votes=False)", " (votes=False, similarity=cosine)"]


def test_foreign_facts_are_no_hyperparameters():
    agent = fresh("ad")
    agent.facts = {"train": [1], "data": "nothing", "source": 3}
    assert "lr" not in find_entries({"a": agent})[0].hyperparameters


def test_seeds_may_begin_with_agents_of_their_own():
    agents = {name: fresh("ad", seed=seed) for seed, name in enumerate("abc")}
    for name in "ab":
        agents[name].facts["train"]["init"] = f"runs/{name}"
    assert [entry.agents for entry in find_entries(agents)] == [("a", "b"), ("c",)]


def test_one_training_is_not_two():
    agents = {"a": fresh("ad"), "b": fresh("ad", seed=1), "c": fresh("ad", seed=1)}
    one_line(lambda: find_entries(agents), ValueError, "c and b", "'ad' of training seed 1")


@pytest.mark.parametrize("change", [{"drawn": "batch"}, {"acting_temperature": 0.5}, {"inner": 20}, {"slide": 7}])
def test_whatever_differs_sets_apart(change):
    first, second = find_entries({"a": fresh("headless-ad"), "b": fresh("headless-ad", seed=1, **change)})
    assert (first.agents, second.agents) == (("a",), ("b",))
    assert second.name == "headless-ad ({}={})".format(*next(iter(change.items())))


# ---- measuring --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bandits() -> Report:
    agents = {"a": fresh("headless-ad"), "b": fresh("headless-ad", seed=1), "c": fresh("ad")}
    return measure(agents, BERNOULLI, ["num_10", "all_new", "num_10"], tasks=3, seed=5)


@pytest.fixture(scope="module")
def macros() -> Report:
    agents = {"a": fresh("headless-ad", MACRO)}
    return measure(agents, MACRO, ["train_test", "all_test", "all_train"], tasks=2, episodes=2, relabel=False)


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


def test_every_published_set_is_measured_once():
    names = action_results.default_sets(MACRO)
    assert len(names) == 10
    assert {name.rpartition("_")[2] for name in names} == {"train", "test"}
    assert action_results.default_sets(BERNOULLI)[0] == "train"


def test_the_source_lives_as_many_episodes_as_it_plans_for():
    assert reference_learners(MACRO, 7)["q-learning"].episodes == 7


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


# ---- files ------------------------------------------------------------------------------------------------------


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
        assert Image.open(tmp_path / "deep" / name).size[0] >= plots.SIZE[0] * plots.DPI


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


def test_pictures_show_the_results(bandits):
    axes = plots.require_matplotlib()().add_subplot()
    (panel,) = action_report.bars(bandits).values()
    looks = action_report.looks(bandits)
    plots.fill_bars(axes, panel, looks)
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
    axes = plots.require_matplotlib()().add_subplot()
    plots.fill_bars(axes, panel, action_report.looks(report))
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
    one = action_results.interval(each[0].score)
    assert mean.value == pytest.approx(score.mean())
    assert 0.3 < (mean.high - mean.low) / (one.high - one.low) < 0.45  # 1 / sqrt(8)


def test_many_variants_can_be_told_apart():
    agents = {str(n): fresh("headless-ad", inner=8 + n) for n in range(12)}
    report = Report(BERNOULLI, "regret", {}, ("random", "thompson", "ucb"), find_entries(agents), (), ())
    looks = action_report.looks(report)
    assert len({(look.colour, look.style) for look in looks.values()}) == len(looks) == 15


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


def test_a_set_that_nothing_can_be_divided_by(bandits):
    nothing = action_results.divide(np.ones(3), np.zeros(3))
    assert action_results.interval(nothing) is None
    results = tuple(result._replace(ratio=None) for result in bandits.results)
    assert "ratio" not in action_report.table(replace(bandits, results=results))[0]
    assert action_report.cell(Interval(1, 0, 2)) == "1.00 [0.00, 2.00]"


# ---- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("agents")
    for name, agent in {"h": fresh("headless-ad"), "a": fresh("ad"), "m": fresh("ad", MACRO)}.items():
        agent.save_pretrained(out / name)
    return [str(out / name) for name in "ham"]


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


def test_the_command_adds_to_the_card_of_the_first_training(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    tasks = some_of(BERNOULLI, "all_new", 2)
    for seed, folder in enumerate((first, second)):
        fresh("headless-ad", seed=seed).save_pretrained(folder)
    words = ("sets", str(first), str(second), "--set", "num_10", "--tasks", 2, "--write")
    assert f"evaluate {first}" in refused(*words)
    write_report(first, [evaluate(ICAgent.from_pretrained(first), BERNOULLI, episodes=1, tasks=tasks)])
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
