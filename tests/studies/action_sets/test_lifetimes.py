"""Lifetimes on action sets: regrets are exact, tries are counted, actions are renumbered within a set."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES

from icrl_agents.evaluation.evaluate import block_seeds
from icrl_agents.sources import make_source
from icrl_agents.studies.action_sets import lifetimes as action_lives
from icrl_agents.studies.action_sets import resampling
from icrl_agents.studies.action_sets.lifetimes import Relabel, Setup, Watch, run_lifetimes
from tests.studies.action_sets.agents import BERNOULLI, CONTEXTUAL, MACRO, Cycle, some_of


def test_regret_is_that_of_every_pull_the_last_one_included():
    ids = some_of(BERNOULLI, "all_new", 3)
    tasks = FAMILIES[BERNOULLI].rules.table
    gaps = tasks.best[list(ids)] - tasks.values[list(ids), 2]
    found = run_lifetimes(Cycle(2), Setup(BERNOULLI, ids))
    np.testing.assert_allclose(found.curve, gaps[:, None] * np.arange(1, 301))
    assert found.tried.tolist() == [1, 1, 1]
    assert run_lifetimes(Cycle(2), Setup(BERNOULLI, ids, episodes=2)).curve.shape == (3, 600)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_renumbering_matters_only_to_those_who_know_the_numbers():
    ids, thompson = some_of(BERNOULLI, "train", 200), make_source("thompson", BERNOULLI)
    plain, moved = (
        [run_lifetimes(who, Setup(BERNOULLI, ids), relabel=relabel).curve[:, -1] for who in (thompson, Cycle(1))]
        for relabel in (False, True)
    )
    difference = [resampling.interval(resampling.resampled([b - a])) for a, b in zip(plain, moved, strict=True)]
    assert difference[0].low < 0 < difference[0].high
    assert abs(difference[0].value) < 3
    assert difference[1].low > 30  # arm 1 is among the better half in 95% of these tasks
