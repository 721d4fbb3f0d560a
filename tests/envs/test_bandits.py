"""Bandits and their learners: published regrets, expected returns, action sets, named sets of tasks, noise."""

from __future__ import annotations

import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs import FAMILIES, find_family
from icrl_envs.bandits.gaussian_bandit import LinearBandit
from icrl_envs.base import noise

from icrl_agents import evaluate
from icrl_agents.core.rollout import rollout
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import evaluate as evaluation
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.collection import lifetimes
from tests.envs.families import NATIVE

COINS, CONTEXTS, GAUSS, LINE = (f"icrl/{name}Bandit-v0" for name in ("Bernoulli", "Contextual", "Gaussian", "Linear"))
BANDITS = [name for name in NATIVE if find_family(name).bandit]
every = pytest.mark.parametrize("env_id", BANDITS)


def live(name, env_id, tasks, seed=0, **settings):
    """One recorded episode on each task."""
    return lifetimes(env_id, make_source(name, env_id, settings), np.asarray(tasks), 1, seed)


def regrets(env_id, steps, tasks):
    """The expected regret (B,) of each lifetime, after what the tasks' make() arguments say."""
    total = []
    for row, task in enumerate(tasks):
        arms = np.array(next(iter(FAMILIES[env_id].rules.task_kwargs(int(task)).values())))
        means = steps.obs[row].astype(float) @ arms.T if arms.ndim > 1 else np.tile(arms, (steps.action.shape[1], 1))
        total.append((means.max(1) - means[np.arange(len(means)), steps.action[row]]).sum())
    return np.array(total)


GOLDEN = [  # of 300 pulls, by an independent implementation: 2000 Bernoulli tasks, 500 contextual ones
    (COINS, "uniform", {"train": 127, "inverse": 122, "all_new": 122, "num_10": 123, "num_20": 136}),
    (COINS, "uniform", {"num_25": 138, "num_30": 140, "num_40": 143, "num_50": 144}),
    (COINS, "thompson", {"train": 22, "inverse": 22, "all_new": 22, "num_10": 21, "num_20": 32, "num_25": 37}),
    (COINS, "thompson", {"num_30": 40, "num_40": 48, "num_50": 55}),
    (COINS, "ucb", {"train": 29, "inverse": 29, "all_new": 29, "num_10": 25, "num_20": 46, "num_25": 54}),
    (COINS, "ucb", {"num_30": 61, "num_40": 74, "num_50": 83}),
    (CONTEXTS, "uniform", {"train": 292, "num_20": 350, "num_25": 373, "num_30": 386, "num_40": 409}),
    (CONTEXTS, "uniform", {"num_50": 424, "num_100": 473}),
    (CONTEXTS, "linucb", {"train": 79, "eval": 79, "num_20": 115, "num_25": 131, "num_30": 148, "num_40": 168}),
    (CONTEXTS, "linucb", {"num_50": 185, "num_100": 269}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "name", "golden"), GOLDEN, ids=lambda value: str(value)[:40])
def test_published_regrets(env_id, name, golden):
    for tasks, want in golden.items():
        ids = np.tile(FAMILIES[env_id].named(tasks).ids[:1000], 1 if tasks == "train" else 3)
        assert regrets(env_id, live(name, env_id, ids), ids).mean() == pytest.approx(want, rel=0.05), tasks


LINUCB = tomllib.loads((Path(__file__).parents[2] / "recipes/headless-ad-contextual.toml").read_text())["source"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "name", "settings", "share"),
    [(COINS, "thompson", {"sharpness": 3.0}, 0.75), (CONTEXTS, "linucb", LINUCB, 0.97)],
)
def test_the_recipes_sources_lose_less_than_the_published_ones(env_id, name, settings, share):
    ids = FAMILIES[env_id].named("train").ids[:1000]
    plain, ours = (regrets(env_id, live(name, env_id, ids, **how), ids).mean() for how in ({}, settings))
    assert ours < share * plain


@pytest.mark.slow
@every
def test_default_sources_beat_chance_by_far(env_id):
    ids = FAMILIES[env_id].ids[:300]
    learner, chance = (regrets(env_id, live(name, env_id, ids), ids) for name in (default_source(env_id), "uniform"))
    assert learner.mean() < 0.35 * chance.mean()


@pytest.mark.slow
@every
def test_optimal_and_random_returns_are_what_is_expected(env_id):
    rules, task = FAMILIES[env_id].rules, np.arange(2000)
    env = gymnasium.make_vec(env_id, len(task))
    env.reset(seed=3, options={"task": task})
    gain = -rules.optimal_return(task)
    for _ in range(rules.horizon):
        gain += env.step(env.unwrapped.expert_action())[1]
    assert abs(gain.mean()) < 4 * gain.std() / len(task) ** 0.5
    assert gain.std() > 1
    loss = live("uniform", env_id, task).reward.sum(1) - rules.random_return(task)
    assert abs(loss.mean()) < 4 * loss.std() / len(task) ** 0.5


def test_a_curve_tells_returns_and_regret_of_a_named_set():
    curve = evaluate(make_source("thompson", COINS), COINS, "all_new")  # a published lifetime: one episode
    assert curve.split == "all_new"
    assert curve.tasks == tuple(FAMILIES[COINS].named("all_new").ids)
    assert curve.returns.shape == curve.regret.shape == (200, 1)
    assert curve.regret.mean() == pytest.approx(22, abs=3)
    assert (curve.optimal - curve.random).mean() == pytest.approx(122, rel=0.05)
    with pytest.raises(ValueError, match=r"unknown split 'num_55'.*num_50"):
        evaluate(make_source("thompson", COINS), COINS, "num_55")


@pytest.mark.slow
def test_a_curve_of_one_episode_tells_the_pace_of_its_steps(monkeypatch):
    learner, tasks = make_source("thompson", COINS), FAMILIES[COINS].named("num_20").ids[:30]
    curve = evaluate(learner, COINS, tasks=tasks)
    steps = live("thompson", COINS, tasks)
    np.testing.assert_allclose(curve.pace, steps.reward.mean(0))
    assert curve.pace.sum() == pytest.approx(curve.mean[0])
    monkeypatch.setattr(evaluation, "MAX_ROWS", 8)
    parts = evaluate(learner, COINS, tasks=tasks)
    assert parts.pace.sum() == pytest.approx(parts.mean[0])  # blocks count by their rows
    assert evaluate(learner, COINS, episodes=2, tasks=tasks[:2]).pace is None


def test_lifetimes_that_end_at_different_steps_have_no_pace():
    macros = "icrl/DarkroomMacro-v0"
    tasks = FAMILIES[macros].named("train_test").ids[:30]
    found = evaluate(make_source("uniform", macros), macros, episodes=1, tasks=tasks)
    assert 0 < found.mean[0] < 1  # some rows ended early, at the goal
    assert found.pace is None


def test_an_agent_is_not_scored_on_a_named_set_that_it_was_trained_on():
    class Trained(type(make_source("uniform", COINS))):
        facts = {"split_seed": 5}  # noqa: RUF012  a split that mixes the sets

    with pytest.raises(ValueError, match="training tasks"):
        evaluate(Trained(), COINS, "num_10", episodes=1)


@pytest.mark.slow
def test_a_second_episode_goes_on_with_the_same_arms():
    learner = make_source("thompson", COINS)
    env = gymnasium.make_vec(COINS, 200)
    returns = rollout(learner, env, 2, seed=0, options={"task": np.arange(200)})
    first, second = FAMILIES[COINS].rules.optimal_return(np.arange(200)).mean() - returns.mean(0)
    assert second < 0.5 * first


def test_infos_tell_the_expected_regret_and_the_action_set():
    means = (0.2, 0.9, 0.5)
    env = gymnasium.make(COINS, means=means)
    _, info = env.reset(seed=0)
    assert info.keys() == {"task", "success", "optimal_return", "regret", "action_mask"}
    assert (info["regret"], info["success"], info["optimal_return"]) == (0.0, False, 300 * 0.9)
    assert info["action_mask"].tolist() == env.unwrapped.action_mask().tolist() == [1, 1, 1] + [0] * 47
    assert env.action_space.sample(info["action_mask"]) < 3
    assert env.unwrapped.expert_action() == 1
    for action, regret in [(0, 0.7), (1, 0.0), (2, 0.4), (3, 0.7), (49, 0.7)]:  # missing arms pay like the worst one
        reward, info = env.step(action)[1::3]
        assert reward in (0.0, 1.0)
        assert info["regret"] == pytest.approx(regret)
        assert info["success"] is (action == 1)


def test_missing_arms_pay_like_the_worst_one():
    env = gymnasium.make_vec(COINS, 4000, means=(0.7, 0.2))
    env.reset(seed=0)
    assert env.step(np.full(4000, 30))[1].mean() == pytest.approx(0.2, abs=0.03)


def test_contexts_decide_what_is_best():
    weights = ((1.0, 0.0), (-1.0, 0.0), (0.0, 3.0))
    env = gymnasium.make(CONTEXTS, weights=weights)
    obs, info = env.reset(seed=0)
    assert info["optimal_return"] == pytest.approx(expected_best(np.array(weights)) * 300, rel=0.01)
    for step in range(20):
        assert obs.dtype == np.float32
        means = np.array(weights) @ obs.astype(float)
        assert env.unwrapped.expert_action() == means.argmax()
        obs, _, _, _, info = env.step(step % 4)
        paid = means[step] if step % 4 < 3 and step < 3 else np.append(means, means.min())[step % 4]
        assert info["regret"] == pytest.approx(means.max() - paid)


def expected_best(weights, num=400_000):
    contexts = np.random.default_rng(0).normal(size=(num, 2)) / 2**0.5
    return (contexts @ weights.T).max(1).mean()


@pytest.mark.slow
def test_rewards_and_contexts_follow_their_laws():
    env = gymnasium.make_vec(CONTEXTS, 20_000, weights=((1.0, 0.0), (0.0, 2.0)))
    contexts, noises = [env.reset(seed=0)[0]], []
    for _ in range(3):
        obs, reward = env.step(np.ones(20_000, int))[:2]
        noises.append(reward - 2 * contexts[-1][:, 1])
        contexts.append(obs)
    columns = np.column_stack([*(context * 2**0.5 for context in contexts), *noises])  # all standard normal
    np.testing.assert_allclose(np.cov(columns.T), np.eye(11), atol=0.04)
    np.testing.assert_allclose(columns.mean(0), 0, atol=0.03)
    np.testing.assert_allclose((columns**4).mean(0), 3, atol=0.3)
    assert np.abs(np.corrcoef(columns[:-1, 0], columns[1:, 0])[0, 1]) < 0.03  # neighbours' seeds are neighbours


def test_noise_is_uniform_and_a_function_of_its_position():
    position = np.arange(100_000) + 2**55
    numbers = np.stack([noise.uniform(position, number) for number in range(noise.DRAWS)])
    np.testing.assert_allclose(np.histogram(numbers, 20, (0, 1))[0], numbers.size / 20, rtol=0.03)
    np.testing.assert_allclose(np.corrcoef([*numbers, numbers[0, np.arange(-1, 99_999)]]), np.eye(5), atol=0.02)
    alone = np.concatenate([noise.normals(position[i : i + 1], 2) for i in range(2000)])
    np.testing.assert_array_equal(noise.normals(position, 2)[:2000], alone)
    assert noise.uniform(np.zeros(1, np.int64), 0) > 0
    assert np.abs(noise.normals(position, 0)).max() < noise.FARTHEST


@pytest.mark.slow
@every
def test_seeds_fix_rewards_and_episodes_differ(env_id):
    env = gymnasium.make_vec(env_id, 3)

    def episode(**reset):
        obs = env.reset(**reset)[0]
        return np.array([env.step(np.zeros(3, int))[1] for _ in range(40)]), obs

    task = {"task": np.zeros(3, int)}
    (one, obs), (same, again), (other, _) = (episode(seed=seed, options=task) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(obs, again)
    assert (one != other).any(0).all()
    assert (one[:, 0] != one[:, 1]).any()  # tasks alike, noise not
    assert (other != episode()[0]).any(0).all()  # the next episode
    single = gymnasium.make(env_id)
    single.reset(seed=1, options={"task": task["task"][0]})
    assert [single.step(0)[1] for _ in range(40)] == one[:, 1].tolist()


def test_named_sets_follow_their_laws():
    tasks, rules = FAMILIES[COINS], FAMILIES[COINS].rules
    assert list(rules.named) == ["train", "inverse", "all_new", *(f"num_{k}" for k in (10, 20, 25, 30, 40, 50))]
    odd = {}
    for name in ("train", "inverse", "all_new"):
        means = [task["means"] for task in tasks.named(name)]
        odd[name] = np.mean([min(row[1::2]) >= 0.5 > max(row[::2]) for row in means])
        assert {len(row) for row in means} == set(range(4, 21))
    assert (odd["train"], odd["inverse"]) == (0.95, 0.05)
    assert odd["all_new"] < 0.1
    assert {len(task["means"]) for task in tasks.named("num_40")} == {40}
    scales = {name: np.std(FAMILIES[CONTEXTS].named(name)[7]["weights"]) for name in ("eval", "eval_scaled")}
    assert 0.4 < scales["eval"] < 1.1 < scales["eval_scaled"] < 2.2
    with pytest.raises(ValueError, match=r"unknown set of tasks 'nun_40'.*did you mean 'num_40'"):
        tasks.named("nun_40")
    with pytest.raises(ValueError, match="unknown set of tasks 'train'"):
        FAMILIES["icrl/Darkroom-v0"].named("train")


@every
def test_all_but_the_training_set_is_held_out(env_id):
    tasks = FAMILIES[env_id]
    splits = split_tasks(env_id)
    assert sorted([*splits.train.ids, *splits.validation.ids]) == tasks.named("train").ids.tolist()
    held_out = [id for name in tasks.rules.named if name != "train" for id in tasks.named(name).ids]
    assert held_out == splits.test.ids.tolist()


def test_sets_to_train_on_have_the_law_of_training_and_are_outside_the_split():
    tasks = FAMILIES[COINS]
    assert tasks.rules.training == tuple(tasks.rules.extra) == tuple(f"train_{k}" for k in (10, 20, 25, 30, 40, 50))
    assert [ids.start for ids in tasks.rules.extra.values()] == list(range(11_600, 23_600, 2000))
    means = np.array([task["means"] for task in tasks.named("train_40")])
    assert means.shape == (2000, 40)
    assert np.mean((means[:, 1::2].min(1) >= 0.5) & (means[:, ::2].max(1) < 0.5)) == 0.95
    splits = split_tasks(COINS, task_set="train_40")
    assert sorted([*splits.train.ids, *splits.validation.ids]) == tasks.named("train_40").ids.tolist()
    assert len(splits.validation) == 200
    assert splits.test.ids.tolist() == tasks.named("num_40").ids.tolist()  # as many arms
    assert set(tasks.named("num_10").ids) < set(split_tasks(COINS, task_set="train_10").test.ids)
    assert not gymnasium.make_vec(COINS, 2, num_arms=9).unwrapped.rules.extra
    for name, why in (("num_40", "unknown set of tasks to train on 'num_40'"), ("train_41", "did you mean 'train_40'")):
        with pytest.raises(ValueError, match=why):
            split_tasks(COINS, task_set=name)
    with pytest.raises(ValueError, match="split_seed=3 splits all tasks again"):
        split_tasks(COINS, 3, "train_40")


def test_tasks_are_the_same_for_ever():
    best = FAMILIES[COINS].rules.table.best[[0, 9999, 10_000, 11_599]]
    pinned = [0.9094585182025896, 0.6584678140726534, 0.9192505297798337, 0.9661766080232284]
    np.testing.assert_allclose(best, pinned, rtol=1e-12)
    position = np.array([0, 1, 2**55])
    np.testing.assert_allclose(
        noise.uniform(position, 1), [0.8833108082136427, 0.10634669156721249, 0.34144923167593894], rtol=1e-12
    )


def test_a_number_of_arms_makes_a_smaller_action_space():
    env = gymnasium.make_vec(COINS, 50, num_arms=7)
    assert env.single_action_space == spaces.Discrete(7)
    _, info = env.reset(seed=0)
    assert info["action_mask"].all()
    assert list(env.unwrapped.rules.named) == ["train", "inverse", "all_new"]
    assert gymnasium.make(CONTEXTS, num_arms=150).action_space.n == 150


def test_options_choose_action_sets():
    env = gymnasium.make_vec(COINS, 3)
    known = FAMILIES[COINS][5]["means"]
    tasks = [{"means": (0.1, 0.2)}, {"means": known}, {"means": (0.1, 0.2, 0.3)}]
    behind = FAMILIES[COINS].rules.set_tasks
    for _ in range(2):  # given again they are the same tasks
        _, info = env.reset(options={"task": tasks})
        assert info["task"].tolist() == [behind, 5, behind + 1]
        assert info["action_mask"].sum(1).tolist() == [2, len(known), 3]
    np.testing.assert_allclose(info["optimal_return"], [60, 300 * max(known), 90])
    _, info = env.reset(options={"task": info["task"]})  # what infos tell can be given back
    assert info["task"].tolist() == [behind, 5, behind + 1]
    with pytest.raises(ValueError, match=f"from 0 to {behind + 1}"):
        env.reset(options={"task": np.full(3, behind + 2)})
    env.step([1, 0, 2])
    single = gymnasium.make(COINS)
    single.reset(options={"task": {"means": [1, 0]}})
    assert single.step(0)[1] == 1.0
    assert single.reset()[1]["task"] == behind


def test_means_of_the_linear_bandit_lie_on_a_plane():
    means = np.array([task["means"] for task in FAMILIES[LINE][:50]])
    assert np.linalg.matrix_rank(means) == 2
    theta = np.linalg.lstsq(LinearBandit.features(10), means.T, rcond=None)[0]
    np.testing.assert_allclose(LinearBandit.features(10) @ theta, means.T, atol=1e-9)


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
@every
def test_drawings_show_the_arms(env_id, render_mode):
    env = gymnasium.make(env_id, render_mode=render_mode)
    _, info = env.reset(seed=0)
    before = env.render()
    arms = info["action_mask"].sum()
    env.step(1)
    after = env.render()
    if render_mode == "ansi":
        assert len(after.splitlines()) == arms
        assert after.splitlines()[1].startswith(">  1")
        assert after.count("*") == 1
        assert ">" not in before
    else:
        assert after.shape == before.shape == (96, 12 * env.action_space.n, 3)
        assert ((after == (38, 84, 160)).all(-1).any(0).nonzero()[0] // 12 == 1).all()


LEARNERS = {
    COINS: ("thompson", "ucb", "bayes-ucb", "gittins", "epsilon-greedy", "uniform"),
    CONTEXTS: ("linucb", "uniform", "epsilon-greedy"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "name"), [(env_id, name) for env_id in LEARNERS for name in LEARNERS[env_id]])
@pytest.mark.parametrize("mode", ["native", "sync"])
def test_learners_keep_to_the_action_set(env_id, name, mode):
    kwargs = {} if mode == "native" else {"vectorization_mode": "sync"}
    env = RecordHistory(gymnasium.make_vec(env_id, 4, **kwargs))
    ids = FAMILIES[env_id].ids[:4]
    options = {"task": ids if mode == "native" else int(ids[0])}
    make_source(name, env_id).run(env, 1, 0, options)
    arms = FAMILIES[env_id].rules.table.arms[ids if mode == "native" else ids[:1]]
    action = env.steps(1).action
    assert (action < arms[:, None]).all()
    assert (action.max(1) == arms - 1).all()


def test_uniform_knows_its_probabilities():
    steps = live("uniform", COINS, np.arange(50))
    arms = FAMILIES[COINS].rules.table.arms[:50]
    np.testing.assert_allclose(np.exp(steps.extras["log_prob"]), np.tile(1 / arms[:, None], 300), rtol=1e-6)


@pytest.mark.slow
def test_epsilon_greedy_goes_from_random_to_greedy():
    steps = live("epsilon-greedy", COINS, np.full(4000, 3))
    arms = FAMILIES[COINS].rules.table.arms[3]
    chance = np.exp(steps.extras["log_prob"])
    np.testing.assert_allclose(chance[:, 0], 1 / arms, rtol=1e-6)
    assert chance[:, 100].min() == pytest.approx(0.5 / arms, rel=0.01)
    assert (chance[:, 200:] > 0.3).all()
    np.testing.assert_allclose((1 / chance[:, 50]).mean(), arms, rtol=0.1)  # the support is every arm
    short = RecordHistory(gymnasium.make_vec(COINS, 2, horizon=30, max_episode_steps=30))
    make_source("epsilon-greedy", COINS).run(short, 1, 0, {"task": np.full(2, 3)})
    assert np.exp(short.steps().extras["log_prob"])[:, -1].min() > 0.3  # greedy at its end, too
    endless = gymnasium.make_vec(COINS, 2, max_episode_steps=-1)
    with pytest.raises(ValueError, match="needs a time limit"):
        make_source("epsilon-greedy", COINS).run(RecordHistory(endless), 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "env_id"), [("ucb", COINS), ("linucb", CONTEXTS)])
def test_confidence_bounds_try_every_arm_first_in_any_order(name, env_id):
    ids = FAMILIES[env_id].named("num_20").ids[:50]
    steps = live(name, env_id, ids)
    np.testing.assert_array_equal(np.sort(steps.action[:, :20], 1), np.tile(np.arange(20), (50, 1)))
    assert len(np.unique(steps.action[:, 0])) > 10
    chance = np.tile(1 / np.arange(20, 0, -1), (50, 1))
    np.testing.assert_allclose(np.exp(steps.extras["log_prob"][:, :20]), chance, rtol=1e-6)


@pytest.mark.slow
def test_linucb_is_a_ridge_regression_of_every_arm():
    env = gymnasium.make_vec(CONTEXTS, 3)
    learner = make_source("linucb", CONTEXTS)
    record = RecordHistory(env)
    learner.run(record, 1, 0, {"task": np.arange(3)})
    steps = record.steps(1)
    for row in range(3):
        for arm in range(4):
            mine = steps.action[row] == arm
            x, reward = steps.obs[row, mine].astype(float), steps.reward[row, mine].astype(float)
            gram = np.eye(2) + x.T @ x
            np.testing.assert_allclose(learner.inverse[row, arm], np.linalg.inv(gram), atol=1e-8)
            np.testing.assert_allclose(learner.weights[row, arm], np.linalg.solve(gram, x.T @ reward), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "env_id", "match"),
    [
        ("thompson", GAUSS, "learns from 0 and 1, use 'gaussian-thompson'"),
        ("gittins", GAUSS, "at most 400 pulls|learns from 0 and 1"),
        ("bayes-ucb", GAUSS, "source 'bayes-ucb' learns from 0 and 1"),
        ("linucb", COINS, "needs observations that are vectors"),
        ("ucb", "Pendulum-v1", "source 'ucb' needs actions"),
    ],
)
def test_an_unfit_environment_is_one_clear_line(name, env_id, match):
    with pytest.raises(ValueError, match=match) as error:
        make_source(name, env_id).run(RecordHistory(gymnasium.make_vec(env_id, 2)), 1, 0)
    assert "\n" not in str(error.value)
