"""Reference learners do what textbooks say, step by step, and lose what another implementation lost."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.stats
from icrl_envs import FAMILIES

from icrl_agents.core.families import find_family
from icrl_agents.evaluation.references import RANDOM, STRONGER, reference_learners
from icrl_agents.evaluation.results import spread
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.bandits.gittins import gittins_indices
from icrl_agents.sources.collection import lifetimes
from icrl_agents.studies.action_sets.lifetimes import Setup, run_lifetimes
from tests.benchmarks import tune_references

COINS, CONTEXTS = "icrl/BernoulliBandit-v0", "icrl/ContextualBandit-v0"


def recorded(name: str, env_id: str, rows: int = 4, **settings: Any) -> Any:
    """A lifetime on the first training tasks."""
    env = RecordHistory(gymnasium.make_vec(env_id, rows))
    make_source(name, env_id, settings).run(env, 1, 0, {"task": np.arange(rows)})
    return env.steps(1)


# ---- Gittins ----------------------------------------------------------------------------------------------------


def index_by_bisection(left: int, successes: int, failures: int) -> float:
    """The charge at which an arm that may be pulled `left` more times is worth nothing, by plain recursion."""
    low, high = 0.0, 1.0
    for _ in range(30):
        charge = (low + high) / 2

        @cache
        def worth(left: int, s: int, f: int, charge: float = charge) -> float:
            if not left:
                return 0.0
            p = (1 + s) / (2 + s + f)
            return max(0.0, p - charge + p * worth(left - 1, s + 1, f) + (1 - p) * worth(left - 1, s, f + 1))

        low, high = (charge, high) if worth(left, successes, failures) > 0 else (low, charge)
    return low


def test_indices_are_those_of_a_plain_recursion():
    tables = gittins_indices(12)
    assert [table.shape for table in tables] == [(size, size) for size in range(12, 0, -1)]
    assert tables[0][2, 3] == pytest.approx(3 / 7, abs=1e-4)  # with one pull left only the mean counts
    assert tables[1][0, 0] == pytest.approx(5 / 9, abs=4e-3)  # by hand
    for left, s, f in ((2, 1, 0), (3, 0, 0), (5, 2, 1), (8, 0, 3), (9, 3, 0), (12, 0, 0)):
        assert tables[left - 1][s, f] == pytest.approx(index_by_bisection(left, s, f), abs=8e-3), (left, s, f)


def value_of(policy: Any, left: int, arms: tuple[tuple[int, int], ...]) -> float:
    """What a policy earns in `left` pulls of arms with these counts, exactly, under a uniform prior."""
    if not left:
        return 0.0
    values = []
    for arm in policy(left, arms):
        s, f = arms[arm]
        p = (1 + s) / (2 + s + f)
        won, lost = ((*arms[:arm], after, *arms[arm + 1 :]) for after in ((s + 1, f), (s, f + 1)))
        values.append(p * (1 + value_of(policy, left - 1, won)) + (1 - p) * value_of(policy, left - 1, lost))
    return max(values)


def test_the_index_is_nearly_bayes_optimal():
    """Two new arms, eight pulls: the best that can be done, by trying both arms everywhere."""
    tables = gittins_indices(8)

    def by_index(left: int, arms: tuple[tuple[int, int], ...]) -> list[int]:
        return [int(np.argmax([tables[left - 1][arm] for arm in arms]))]

    best = value_of(lambda left, arms: (0, 1), 8, ((0, 0), (0, 0)))
    assert 0.999 * best <= value_of(by_index, 8, ((0, 0), (0, 0))) <= best
    assert value_of(lambda left, arms: (0,), 8, ((0, 0), (0, 0))) == pytest.approx(4)


def test_gittins_plans_for_its_first_pulls_and_then_takes_the_best_arm():
    """After them its regret is that of arms that seem best: a few percent of what the search cost, and no error."""
    tasks = np.arange(60)
    long, short = (
        lifetimes(COINS, make_source("gittins", COINS, s), tasks, n, 0) for s, n in (({"pulls": 300}, 3), ({}, 1))
    )
    np.testing.assert_array_equal(long.action[:, :300], short.action)
    best = find_family(COINS).optimal_return(tasks)[:, None]
    regret = (best - long.reward.reshape(60, 3, 300).sum(2)).mean(0)
    assert (regret[1:] < 0.5 * regret[0]).all()
    late = long.action[:, 300:].reshape(60, 2, 300)
    assert (np.diff(late, axis=2) != 0).mean() < 0.05


def test_a_lifetime_too_long_for_tables_is_refused():
    env = RecordHistory(gymnasium.make_vec(COINS, 2))
    with pytest.raises(ValueError, match="at most 400 pulls, a lifetime here has 600: give pulls=300"):
        make_source("gittins", COINS).run(env, 2, 0, {"task": np.arange(2)})
    assert "gittins" in reference_learners(COINS, 1)
    assert "gittins" not in reference_learners(COINS, 2)


# ---- the others -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"alpha": 1.4, "ridge": 2.0, "unpulled_first": False}, {"alpha": 2.0, "fade": True}]
)
def test_linucb_pulls_what_the_textbook_would(settings):
    """Li et al. 2010, algorithm 1, with an inverse from nothing at every step; Lattimore 2015 for `fade`."""
    plain = {"alpha": 0.3, "ridge": 1.0, "unpulled_first": True, "fade": False}
    alpha, ridge, first, fade = {**plain, **settings}.values()
    steps, arms = recorded("linucb", CONTEXTS, **settings), FAMILIES[CONTEXTS].rules.action_mask(np.arange(4)).sum(1)
    for row, count in enumerate(arms):
        gram, target = [ridge * np.eye(2) for _ in range(count)], np.zeros((count, 2))
        pulled = np.zeros(count, bool)
        pulls = zip(steps.obs[row].astype(float), steps.action[row], steps.reward[row], strict=True)
        for time, (x, action, reward) in enumerate(pulls, 1):
            inverse = [np.linalg.inv(matrix) for matrix in gram]
            weight = alpha * np.sqrt(np.log(300 / time)) if fade else alpha
            scores = [a @ b @ x + weight * np.sqrt(x @ a @ x) for a, b in zip(inverse, target, strict=True)]
            wanted = np.where(pulled, scores, np.inf) if first else np.array(scores)
            assert wanted[action] == pytest.approx(wanted.max(), abs=1e-6) or np.isinf(wanted[action])
            gram[action] = gram[action] + np.outer(x, x)
            target[action] += reward * x
            pulled[action] = True


@pytest.mark.slow
def test_bayes_ucb_pulls_what_the_textbook_would():
    steps, arms = recorded("bayes-ucb", COINS), FAMILIES[COINS].rules.action_mask(np.arange(4)).sum(1)
    for row, count in enumerate(arms):
        won, lost = np.ones(count), np.ones(count)
        for time, (action, reward) in enumerate(zip(steps.action[row], steps.reward[row], strict=True)):
            scores = scipy.stats.beta.ppf(1 - 1 / (time + 2), won, lost)
            assert scores[action] == pytest.approx(scores.max())
            won[action], lost[action] = won[action] + reward, lost[action] + 1 - reward


@pytest.mark.parametrize(
    ("name", "golden"),  # by an independent implementation, 100 tasks of two seeds
    [
        ("bayes-ucb", {"train": 13.8, "num_20": 19.4}),
        ("gittins", {"train": 10.5, "all_new": 12.2, "num_20": 15.4, "num_50": 22.3}),
    ],
)
@pytest.mark.slow
def test_regrets_are_those_of_another_implementation(name, golden):
    for task_set, want in golden.items():
        ids = spread(FAMILIES[COINS].named(task_set).ids, 150)
        assert run_lifetimes(make_source(name, COINS), Setup(COINS, ids)).curve[:, -1].mean() == pytest.approx(
            want, rel=0.2
        ), task_set


@pytest.mark.parametrize("env_id", STRONGER)
@pytest.mark.slow
def test_stronger_references_lose_less_than_the_source(env_id):
    ids, source = spread(FAMILIES[env_id].named("train").ids, 200), default_source(env_id)
    found = {
        name: run_lifetimes(one, Setup(env_id, ids)).curve[:, -1].mean()
        for name, one in reference_learners(env_id, 1).items()
    }
    assert list(found) == [RANDOM, source, "ucb", *STRONGER[env_id]]
    assert max(found[name] for name in STRONGER[env_id]) < found[source] < found[RANDOM]


@pytest.mark.slow
def test_the_script_that_chose_their_settings_measures_them(monkeypatch):
    monkeypatch.setattr(tune_references, "TASKS", 2)
    plain, sharp = (
        tune_references.regrets(COINS, "thompson", {"sharpness": sharpness}, ["train_20"]) for sharpness in (1.0, 12.0)
    )
    assert 0 < sharp[0] < plain[0]
