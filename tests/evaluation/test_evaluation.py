"""`evaluate`, `Curve` and the one loop, on scripted learners whose returns are known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import scipy.stats
from gymnasium.vector import AutoresetMode, VectorEnv
from icrl_envs import FAMILIES, find_family

from icrl_agents import ICAgent
from icrl_agents.core.boundary import Boundary
from icrl_agents.core.rollout import rollout
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import evaluate as evaluation
from icrl_agents.evaluation import results as report
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import RandomLearner, evaluate, random_returns
from icrl_agents.evaluation.intervals import bootstrap, mean
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.evaluation.results_table import PLANNED, last_quarter, results_table
from icrl_agents.evaluation.watching import Watch, read_success
from icrl_agents.sources import make_source
from tests.conftest import one_line
from tests.envs.families import METAWORLD, PROCGEN
from tests.fakes import Variant

ID = "icrl/Darkroom-v0"
EAST, SOUTH = 4 * 9 + 7, 7 * 9 + 4  # tasks three moves from the start (4, 4), neither on the way to the other
REACHED = 18.0  # the return of walking straight to either and staying: 20 + 1 - 3


class Walker:
    """In its n-th episode it walks to the n-th of its targets, x0 first, and stays there."""

    def __init__(self, *targets: int, size: int = 9):
        self.targets = np.array([divmod(target, size) for target in targets])
        self.facts: dict[str, Any] = {}

    def reset(self, env: VectorEnv, *, seed: int | None = None) -> None:
        self.boundary = Boundary(env.num_envs, env.metadata.get("autoreset_mode"))
        self.episode = np.zeros(env.num_envs, int)

    def act(self, obs: np.ndarray) -> np.ndarray:
        d0, d1 = (self.targets[self.episode % len(self.targets)] - obs).T
        return np.select([d0 > 0, d0 < 0, d1 > 0, d1 < 0], [0, 1, 2, 3], 4)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        self.boundary.read(obs, terminated, truncated, info)
        self.episode += self.boundary.ended


def curve(runs: Any, optimal: Any = None, **changes: Any) -> Curve:
    runs = np.asarray(runs, float)
    tasks = tuple(range(runs.shape[1]))
    best = np.full(len(tasks), 20.0) if optimal is None else np.asarray(optimal, float)
    return Curve(**{"env_id": ID, "split": "test", "tasks": tasks, "runs": runs, "optimal": best,
                    "random": np.zeros(len(tasks)), **changes})  # fmt: skip


# ---- the loop ---------------------------------------------------------------------------------------------------


def test_a_scripted_learner_earns_what_is_known():
    done = []
    found = evaluate(
        Walker(EAST, SOUTH, SOUTH), ID, episodes=3, num_seeds=2, tasks=[EAST, SOUTH], on_episode=done.append
    )
    assert (found.env_id, found.split, found.tasks) == (ID, "tasks", (EAST, SOUTH))
    assert found.runs.tolist() == [[[REACHED, 0, 0], [0, REACHED, REACHED]]] * 2
    assert found.returns.tolist() == [[REACHED, 0, 0], [0, REACHED, REACHED]]
    assert found.optimal.tolist() == [REACHED, REACHED]
    assert found.share(2, 3).tolist() == [0, 1]
    assert found.at(2, 3) == (REACHED / 2, 0, REACHED)  # the same in every run, but not on every task
    assert found.success.tolist() == [[[True, False, False], [False, True, True]]] * 2
    assert done == [1, 2, 3]


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_all_autoreset_modes_give_the_same_returns(mode, vectorization):
    options = {"autoreset_mode": mode}
    native = vectorization == "vector_entry_point"
    settings = options if native else {"vector_kwargs": options}
    env = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=vectorization, **settings)
    task = {"task": np.array([EAST, SOUTH])} if native else {"task": {"goal": (4, 7)}}
    watch = Watch(2, 4)
    returns = rollout(Walker(SOUTH, EAST), env, 4, seed=0, options=task, on_step=watch)
    first = [0, REACHED] * 2
    assert returns.tolist() == [first, [REACHED, 0] * 2 if native else first]
    np.testing.assert_array_equal(watch.success.found, returns > 0)
    assert sum(watch.pace.total) == returns.sum()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_refused(value):
    class Broken(gymnasium.vector.VectorWrapper):
        def step(self, actions: Any) -> Any:
            obs, _, *rest = self.env.step(actions)
            return obs, np.array([1.0, value]), *rest

    env = Broken(gymnasium.make_vec(ID, num_envs=2, vectorization_mode="vector_entry_point"))
    with pytest.raises(ValueError, match=f"reward holds NaN or infinity: {value}"):
        rollout(RandomLearner(), env, 1, seed=0)


class Bell(gymnasium.Env):
    """Episodes of `steps` steps; every second one ends with a success, which no other step's info mentions."""

    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)

    def __init__(self, steps: int, success: Any = True):
        self.steps, self.success, self.episode = steps, success, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.episode, self.now = self.episode + 1, 0
        return 0, {"success": self.success}  # of no step

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.now += 1
        over = self.now == self.steps
        return 1, 0.0, over, False, {"success": self.success} if over and not self.episode % 2 else {}


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_success_in_an_episodes_last_step_is_that_episodes(mode):
    """In rows whose episodes end at different times, and in infos that mention successes only."""
    env = gymnasium.vector.SyncVectorEnv([lambda: Bell(2), lambda: Bell(3), lambda: Bell(5)], autoreset_mode=mode)
    watch = Watch(3, 3)
    rollout(RandomLearner(), env, 3, on_step=watch)  # the first row has seven episodes by then
    assert watch.success.known
    assert watch.success.found.tolist() == [[False, True, False]] * 3


def test_only_rows_of_gymnasiums_mask_have_a_success():
    info = {"success": np.ones(3, bool), "_success": np.array([True, False, True])}
    assert read_success(info, np.zeros(3, bool)).tolist() == [1, -1, 1]
    last = {"final_info": {"success": np.zeros(3, bool), "_success": np.array([False, False, True])}}
    ended = np.array([False, False, True])
    assert read_success({**info, **last, "_final_info": ended}, ended).tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("success", "found"),
    [
        (1.0, True),
        (np.bool_(True), True),
        (np.bool_(False), False),
        (np.int8(0), False),
        (float("nan"), None),
        ("yes", None),
        ([True], None),
        (np.ones(1), None),
    ],
)
def test_numbers_of_foreign_infos_are_successes(success, found):
    env = gymnasium.vector.SyncVectorEnv([lambda: Bell(2, success)], autoreset_mode=AutoresetMode.SAME_STEP)
    watch = Watch(1, 2)
    rollout(RandomLearner(), env, 2, on_step=watch)
    assert watch.success.known is (found is not None)
    assert watch.success.found.tolist() == [[False, bool(found)]]


# ---- success ----------------------------------------------------------------------------------------------------

REACHES = np.array([[[0, 0, 1, 0, 1], [1, 0, 0, 0, 0]], [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]], bool)  # (R, N, E)


def test_success_and_the_best_so_far_have_intervals_over_tasks():
    found = curve(np.ones((2, 2, 5)), success=REACHES)
    assert found.success_rate.mean.tolist() == [0.25, 0, 0.5, 0.25, 0.75]
    assert found.best_so_far.mean.tolist() == [0.25, 0.25, 0.75, 0.75, 1]
    assert found.success_rate.at(3, 5).value == 0.5
    assert curve(np.ones((3, 2, 1)), success=np.array([[[1], [0]]] * 3)).success_rate.at(1) == (0.5, 0, 1)
    assert found.measured("return").at(1) == (1, 1, 1)
    assert found.measured("best_so_far").at(5) == (1, 1, 1)
    one_line(lambda: found.measured("best"), ValueError, "measure='best'", "best_so_far")
    one_line(lambda: curve(np.ones((1, 2, 3))).success_rate, ValueError, ID, "no success", "evaluate again")
    better = replace(found, success=np.ones_like(REACHES))
    assert better.gain(found, 3, 5, "success").value == 0.5
    assert better.gain(found, 3, 5).value == 0


def test_success_is_kept_joined_and_restricted():
    found = curve(np.ones((2, 2, 5)), success=REACHES)
    again = Curve.from_json(json.loads(json.dumps(found.to_json())))
    np.testing.assert_array_equal(again.success, REACHES)
    assert again.success.dtype == bool
    assert "success" not in curve(np.ones((2, 2, 5))).to_json()
    other = replace(found, tasks=(7, 8), success=~REACHES)
    both = Curve.join([found, other], "both").success
    np.testing.assert_array_equal(both, np.concatenate([REACHES, ~REACHES], 1))
    np.testing.assert_array_equal(Curve.join([found, found], "more").success, np.concatenate([REACHES, REACHES]))
    assert Curve.join([found, replace(other, success=None)], "some").success is None
    assert found.on([1]).success.tolist() == REACHES[:, [1]].tolist()


def test_the_table_has_the_success_of_the_last_quarter_and_the_best_so_far(capsys):
    rng = np.random.default_rng(0)
    found = curve(rng.normal(size=(4, 3, 20)), success=rng.random((4, 3, 20)) < 0.1)
    source = replace(found, name="source noise", success=np.ones((4, 3, 20), bool))
    planned = replace(found, name=PLANNED)
    rows = {row.name: row for row in results_table([found, planned, source])}
    assert rows["gain in success by planning, episodes 16-20"].note == "planning: no clear difference"
    row, best = rows["success, episodes 16-20"], rows["best-so-far success, episode 20"]
    assert (row.value, row.low, row.high) == pytest.approx(tuple(found.success_rate.at(16, 20)), abs=1e-4)
    assert (best.value, best.low, best.high) == pytest.approx(tuple(found.best_so_far.at(20)), abs=1e-4)
    assert row.value < best.value
    assert rows[f"{PLANNED}: success, episodes 16-20"].value == row.value
    taught = rows["source noise, success, episodes 16-20"]
    assert (taught.value, taught.reference, row.reference) == (1, True, False)
    report.show([found])
    said = capsys.readouterr().out
    for number in (1, 20):
        assert f"{found.success_rate.at(number)}" in said
        assert f"{found.best_so_far.at(number)}" in said
    assert not [row for row in results_table([replace(found, success=None)]) if "success" in row.name]
    report.show([replace(found, success=None)])
    assert "success" not in capsys.readouterr().out


@pytest.mark.parametrize(("episodes", "span"), [(1, (1, 1)), (4, (4, 4)), (5, (5, 5)), (20, (16, 20)), (50, (39, 50))])
def test_the_last_quarter_of_a_lifetime(episodes, span):
    assert last_quarter(episodes) == span


def test_a_bandit_has_no_success_of_an_episode():
    assert evaluate(RandomLearner(), "icrl/BernoulliBandit-v0", episodes=1, tasks=[3]).success is None


def agent_of(tiny_agent: Any, env_id: str = ID, **facts: Any) -> Any:
    rules = FAMILIES[env_id].rules
    agent = tiny_agent(rules.observation_space, rules.action_space, window=30, slide=10)
    agent.facts = facts
    return agent


@pytest.mark.slow
def test_a_hand_written_vector_loop_gives_the_same_returns(tiny_agent):
    agent = agent_of(tiny_agent)
    tasks = split_tasks(ID).test.ids
    found = evaluate(agent, ID, episodes=2, seed=3)
    env = gymnasium.make_vec(ID, num_envs=len(tasks))
    obs, _ = env.reset(seed=3, options={"task": tasks})
    agent.reset(env, seed=3)
    total, returns = np.zeros(len(tasks)), []
    for _ in range(2 * 20):
        obs, reward, terminated, truncated, info = env.step(agent.act(obs))
        agent.observe(obs, reward, terminated, truncated, info)
        total += reward
        if truncated.all():
            returns.append(total)
            total = np.zeros(len(tasks))
    np.testing.assert_array_equal(found.runs[0], np.stack(returns, 1))
    assert found.runs.any()
    assert (evaluate(agent, ID, episodes=2, seed=4).runs != found.runs).any()


@pytest.mark.slow
def test_the_loop_of_the_readme_gives_the_same_returns(tiny_agent):
    agent, goal = agent_of(tiny_agent), 4 * 9 + 5
    env = gymnasium.make(ID, goal=divmod(goal, 9))
    agent.reset(env, seed=1)
    returns = []
    for episode in range(6):
        obs, _ = env.reset(seed=1 if episode == 0 else None)
        total, done = 0.0, False
        while not done:
            obs, reward, terminated, truncated, info = env.step(agent.act(obs))
            agent.observe(obs, reward, terminated, truncated, info)
            total, done = total + reward, terminated or truncated
        returns.append(total)
    assert evaluate(agent, ID, episodes=6, seed=1, tasks=[goal]).runs[0, 0].tolist() == returns
    assert sum(returns) > 0


@pytest.mark.slow
def test_random_play_earns_what_exact_dynamic_programming_says(monkeypatch):
    # specs/cad.md, table N1: the published held-out goals in their order, and their mean.
    exact = np.array([0.456, 0.361, 0.090, 0.137, 0.361, 0.123, 0.123, 0.953])
    monkeypatch.setattr(evaluation, "RANDOM_EPISODES", 4000)
    found = random_returns(ID, split_tasks(ID).test.ids)
    assert abs(found.mean() - 0.325) < 0.03
    np.testing.assert_allclose(found, exact, atol=0.12)


def test_random_actions_follow_the_seed():
    env = gymnasium.make_vec(ID, num_envs=5)
    one, same, other = (rollout(RandomLearner(), env, 8, seed=seed, options={"task": 40}) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_the_random_line_is_played_once(monkeypatch):
    tasks = split_tasks(ID).test.ids
    first = random_returns(ID, tasks, 7)
    expected = first.copy()
    first[:] = -1  # a caller's own
    monkeypatch.setattr(evaluation, "rollout", None)
    assert random_returns(ID, tasks, 7).tolist() == expected.tolist()


@pytest.mark.slow
def test_many_lifetimes_are_lived_in_blocks(tiny_agent, monkeypatch):
    agent, tasks = agent_of(tiny_agent), split_tasks(ID).test.ids
    whole = evaluate(agent, ID, episodes=3, num_seeds=2)
    sizes, done, reset = [], [], agent.reset
    monkeypatch.setattr(agent, "reset", lambda env, **rest: (sizes.append(env.num_envs), reset(env, **rest)))
    monkeypatch.setattr(evaluation, "MAX_ROWS", len(tasks))
    blocks, again = (evaluate(agent, ID, episodes=3, num_seeds=2, on_episode=done.append) for _ in range(2))
    assert sizes == [8] * 4
    assert done == [1, 2, 3] * 2
    assert (blocks.runs == again.runs).all()
    assert (blocks.runs[0] == evaluate(agent, ID, episodes=3).runs[0]).all()
    assert (blocks.runs[0] != blocks.runs[1]).any()  # every block has a seed of its own
    assert (blocks.optimal == whole.optimal).all()
    monkeypatch.setattr(evaluation, "MAX_ROWS", 5)  # blocks that cut a repetition
    walker = evaluate(Walker(EAST, SOUTH), ID, episodes=2, num_seeds=3, tasks=[EAST, SOUTH, 4])
    assert walker.runs.tolist() == [[[REACHED, 0], [0, REACHED], [0, 0]]] * 3
    np.testing.assert_array_equal(walker.success, walker.runs > 0)


# ---- the numbers ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_intervals_are_about_tasks_and_lives():
    assert curve([[[1.0], [9.0]]] * 5).at(1) == (5, 1, 9)  # tasks differ, runs do not
    noisy = curve(np.random.default_rng(0).normal(5, 1, (50, 40, 1)))
    value, low, high = noisy.at(1)
    error = 1.96 / np.sqrt(2000)
    assert error < value - low < 1.7 * error  # tasks that do not differ are drawn too
    assert error < high - value < 1.7 * error
    assert str(noisy.sample) == "40 tasks x 50 lives"
    assert curve([[[1.0], [9.0], [5.0]]]).at(1).low < 4


def test_of_one_task_the_bootstrap_is_the_usual_one():
    values = np.random.default_rng(0).exponential(size=40)
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    expected = expected.confidence_interval
    value, low, high = bootstrap(mean, values[:, None])  # (R, N)
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert bootstrap(mean, np.array([[2.0]])) == (2, 2, 2)


def test_the_interquartile_mean_is_of_normalised_returns():
    runs = np.array([-1000.0, 1, 2, 3, 4, 5, 6, 1000]).reshape(8, 1, 1)
    assert curve(runs, [1.0]).iqm(1).value == 3.5
    assert curve(runs).at(1).value == pytest.approx(np.mean(runs))
    # at half of what is possible everywhere, though there is ten times as much to earn on one task as on another
    even = curve([[[6.0], [51.0], [11.0], [1.0]]] * 3, [11.0, 101.0, 21.0, 1.5], random=np.array([1.0, 1, 1, 0.5]))
    assert even.normalised(1).tolist() == [[0.5] * 4] * 3
    assert even.iqm(1) == (0.5, 0.5, 0.5)
    assert even.unsolved(1) == (0, 0, 0)


def test_lives_that_are_not_solved_are_told():
    """Half of the tasks are never solved: a mean does not show it, and another sample of tasks may have none or all."""
    found = curve([[[20.0], [0.0], [20.0], [9.0]]] * 3)
    assert found.unsolved(1).value == 0.5
    assert (found.unsolved(1).low, found.unsolved(1).high) == (0, 1)


@pytest.mark.parametrize("best", [np.nan, 0.0])
def test_without_an_optimum_nothing_is_normalised(best):
    found = curve(np.ones((2, 3, 2)), [20.0, best, 20.0])
    assert not found.normalises
    for told in (found.iqm, found.unsolved, found.normalised):
        one_line(lambda told=told: told(1), ValueError, "1 of 3 tasks", "optimum", "at()")


@pytest.mark.parametrize("shape", [(6, 3, 4), (1, 5, 4)])
def test_the_band_is_the_interval_of_every_episode(shape):
    found = curve(np.random.default_rng(0).normal(size=shape))
    low, high = found.band()
    for episode in range(1, 5):
        assert found.at(episode)[1:] == pytest.approx((low[episode - 1], high[episode - 1]))


@pytest.mark.parametrize("span", [(0, 1), (2, 1), (1, 4), (4,)])
def test_episodes_that_were_not_lived_are_refused(span):
    one_line(lambda: curve(np.ones((1, 1, 3))).at(*span), ValueError, "1..3", "evaluate more episodes")


# ---- files ------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    made = curve(np.random.default_rng(0).normal(size=(2, 3, 4)), [1, np.nan, 3], name="x", facts={"seed": 1})
    made.save(tmp_path / "deep" / "curve.json")
    found = Curve.load(tmp_path / "deep" / "curve.json")
    for name in ("env_id", "split", "tasks", "name", "facts"):
        assert getattr(found, name) == getattr(made, name)
    for name in ("runs", "optimal", "random"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert "NaN" not in (tmp_path / "deep" / "curve.json").read_text()


def test_the_first_curve_of_results_is_loaded(tmp_path):
    mine, other = curve(np.ones((1, 2, 12))), curve(np.zeros((1, 2, 12)), name="source x")
    path = tmp_path / "results.json"
    path.write_text(report.dump_results(report.build_results([mine, other])))
    np.testing.assert_array_equal(Curve.load(path).runs, mine.runs)
    for text in ('{"curves": []}', '{"curves": 3}', "{}", '{"curves": [4]}'):
        path.write_text(text)
        one_line(lambda: Curve.load(path), ValueError, "not a curve")
    path.write_text("[" * 100_000)
    one_line(lambda: Curve.load(path), ValueError, "results.json")


@pytest.mark.parametrize(
    "change",
    [
        {"runs": [[1.0]]},
        {"tasks": [1]},
        {"runs": "x"},
        {"optimal": None},
        {"tasks": None, "random": [0]},
        {"pace": 1.0},
        {"pace": [[1.0]]},
        {"trainings": 2},
        {"trainings": "3"},
        {"trainings": 0},
        {"trainings": -1},
        {"pace": "x"},
        {"runs": [[[], []]]},
        {"facts": []},
        {"name": None},
        {"env_id": {}},
        {"tasks": ["0", "1"]},
        {"success": [[[1, 0], [1, 0]]]},
        {"success": [[[1, 0, 2], [1, 0, 0]]]},
        {"success": [[["1", "0", "0"], ["1", "0", "0"]]]},
        {"success": {}},
    ],
)
def test_what_is_no_curve_is_refused(change):
    data = {**curve(np.ones((1, 2, 3))).to_json(), **change}
    one_line(lambda: Curve.from_json(json.loads(json.dumps(data))), ValueError, "not a curve")
    one_line(lambda: Curve.from_json({}), ValueError, "not a curve")


def test_joining_training_seeds_and_splits():
    a, b = curve([[[1.0], [2.0]]]), curve([[[3.0], [4.0]]])
    c = replace(a, tasks=(7, 8), runs=a.runs + 10, optimal=np.array([1.0, 2.0]))
    d = replace(c, runs=c.runs + 10)
    found = Curve.join([a, c, b, d], "all")
    assert (found.name, found.tasks, found.split) == ("all", (0, 1, 7, 8), "test")
    assert found.runs[:, :, 0].tolist() == [[1, 2, 11, 12], [3, 4, 21, 22]]
    assert found.optimal.tolist() == [20, 20, 1, 2]


@pytest.mark.parametrize("other", [{"env_id": "icrl/Darkroom3x3-v0"}, {"runs": np.ones((1, 2, 5))}, {"tasks": (5, 6)}])
def test_what_does_not_belong_together_is_not_joined(other):
    first = curve(np.ones((2, 2, 3)))
    second = replace(curve(np.ones((1, 2, 3))), **other)
    one_line(lambda: Curve.join([first, second], "all"), ValueError, "cannot join")


def test_tasks_that_would_count_twice_are_refused():
    first = curve(np.ones((2, 2, 3)))
    one_line(lambda: Curve.join([first, replace(first, tasks=(1, 2))], "all"), ValueError, "1 tasks in common")
    one_line(lambda: evaluate(RandomLearner(), ID, tasks=[3, 3, 4]), ValueError, "3 ids, 2 of them different")


def test_a_measurement_may_be_of_some_tasks():
    curves = report.measure(RandomLearner(), "icrl/Darkroom-v0", EvalSpec(episodes=1, num_seeds=2, tasks=3))
    assert curves[0].runs.shape == (2, 3, 1)
    assert curves[0].split == "test"
    assert set(curves[0].tasks) < set(split_tasks("icrl/Darkroom-v0").test.ids.tolist())


def test_random_play_is_measured_over_whole_lifetimes_where_their_episodes_differ():
    """Two rooms with a near goal in one and a far goal in the other: which is which makes no difference."""
    family = find_family("icrl/DarkroomTurns-v0")
    near, far = (3, 4), (0, 0)
    ids = np.array([family.task_id(goals=goals) for goals in ((near, far), (far, near))])
    first, second = random_returns("icrl/DarkroomTurns-v0", ids)
    assert first == pytest.approx(second, rel=0.1)


# ---- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env_id": "icrl/Darkrom-v0"}, ("icrl/Darkrom-v0", "icrl/Darkroom-v0")),
        ({"env_id": "CartPole-v1"}, ("CartPole-v1",)),
        ({"split": "tests"}, ("tests", "did you mean 'test'")),
        ({"episodes": 0}, ("episodes=0",)),
        ({"num_seeds": 2.5}, ("num_seeds", "2.5")),
        ({"seed": -1}, ("seed=-1",)),
        ({"plan": "beam"}, ("beam", "Walker", "leave plan out")),
        ({"tasks": [81]}, ("81", "no task", "0..80")),
        ({"tasks": [-1]}, ("-1", "no task")),
        ({"tasks": []}, ("tasks='[]'", "whole numbers")),
        ({"tasks": [2.9]}, ("2.9", "whole numbers")),
        ({"tasks": [3, True]}, ("True", "whole numbers")),
        ({"tasks": np.array([2.0])}, ("2.", "whole numbers")),
        ({"tasks": 3}, ("'3'", "whole numbers")),
        ({"tasks": {3: 4}}, ("{3: 4}", "whole numbers")),
        ({"tasks": [{"goal": (4, 7)}]}, ("goal", "task set's ids")),
        ({"episodes": np.float64(2)}, ("episodes", "2.0")),
    ],
)
def test_mistakes_are_told_in_one_line(change, words):
    one_line(lambda: evaluate(Walker(EAST), **{"env_id": ID, "episodes": 1, **change}), ValueError, *words)


def test_the_name_of_an_agent_is_no_agent():
    one_line(lambda: evaluate("runs/ad", ID), TypeError, "runs/ad", "ICAgent.from_pretrained('runs/ad')")
    one_line(lambda: evaluate(3, ID), TypeError, "int", "ICAgent")


def test_numbers_of_numpy_are_numbers():
    made = evaluate(
        Walker(EAST), ID, episodes=np.int64(2), num_seeds=np.uint8(1), seed=np.int32(3), tasks=np.uint8([3])
    )
    assert made.facts == {"episodes": 2, "num_seeds": 1, "seed": 3}
    assert Curve.from_json(json.loads(json.dumps(made.to_json()))).tasks == (3,)


@pytest.mark.slow
def test_training_tasks_are_not_taken_for_unseen_ones(tiny_agent):
    agent = agent_of(tiny_agent, split_seed=None)
    seen = int(split_tasks(ID).train.ids[0])
    one_line(lambda: evaluate(agent, ID, episodes=1, tasks=[seen]), ValueError, str(seen), "training tasks", "split=")
    assert evaluate(agent, ID, "train", episodes=1).split == "train"
    assert evaluate(agent, ID, "all", episodes=1).tasks == tuple(range(81))
    assert evaluate(Walker(EAST), ID, episodes=1, tasks=[seen]).tasks == (seen,)  # it was trained on nothing


def test_the_split_is_that_of_the_agent(tiny_agent):
    agent = agent_of(tiny_agent, split_seed=1)
    found = evaluate(agent, ID, episodes=1)
    assert found.tasks == tuple(split_tasks(ID, 1).test.ids.tolist()) != tuple(split_tasks(ID).test.ids.tolist())


@pytest.mark.parametrize("seed", ["0", {"a": 1}, True, -1, 1.5])
def test_foreign_facts_cannot_pick_a_split(tiny_agent, seed):
    one_line(lambda: evaluate(agent_of(tiny_agent, split_seed=seed), ID, episodes=1), ValueError, "split_seed")


def test_an_environment_of_other_spaces_is_refused(tiny_agent):
    agent = agent_of(tiny_agent)
    one_line(lambda: evaluate(agent, "icrl/Darkroom3x3-v0", episodes=1), ValueError, "observation_space")


def test_gain_is_paired_and_refuses_other_runs():
    runs = np.random.default_rng(0).normal(size=(4, 3, 6))
    first = Curve(ID, "test", (0, 1, 2), runs, np.ones(3), np.zeros(3))
    better = replace(first, runs=runs + 0.25)
    assert tuple(better.gain(first, 2, 5)) == pytest.approx((0.25, 0.25, 0.25))
    assert better.gain(first, 1).low > 0 > first.gain(better, 1).high
    assert replace(first, trainings=2).gain(replace(first, trainings=2), 1) == (0, 0, 0)
    others = {"tasks": (0, 1, 3)}, {"runs": runs[:2]}, {"env_id": "icrl/Darkroom3x3-v0"}, {"trainings": 2}
    for other in (replace(first, **change) for change in others):
        one_line(lambda other=other: better.gain(other, 1), ValueError, "evaluate again")


def test_of_several_trainings_the_interval_tells_how_they_differ():
    parts = [curve(np.full((20, 4, 2), float(level))) for level in (10, 15, 17)]
    found = Curve.join(parts, "ad")
    assert found.trainings == 3
    assert found.at(1) == (14, 10, 17)  # as wide as they are apart, though each one always earns the same
    assert (found.band()[0] < 11).all()
    again = Curve.from_json(json.loads(json.dumps(found.to_json())))
    assert (again.trainings, again.at(2)) == (3, found.at(2))
    assert replace(found, trainings=1).at(1).low > 13.5  # as if twenty runs of an agent were twenty agents
    one_line(lambda: Curve.join([*parts, curve(np.ones((3, 4, 2)))], "ad"), ValueError, "[3, 20] runs each")


def test_of_trainings_with_one_run_of_each_task_the_interval_is_about_tasks_too():
    runs = np.random.default_rng(0).normal(size=(1, 300, 1))
    alone = curve(runs)
    twice = Curve.join([alone, alone], "ad")
    assert tuple(twice.at(1)) == pytest.approx(tuple(alone.at(1)), abs=0.02)
    assert twice.at(1).high - twice.at(1).low == pytest.approx(4 * runs.std() / 300**0.5, rel=0.1)
    other = Curve.join([alone, curve(runs + 1)], "ad").at(1)
    assert other.low < alone.at(1).value < alone.at(1).value + 1 < other.high


def test_paces_are_kept_and_joined():
    one, two = (curve(np.ones((2, 2, 1)), pace=np.full(3, pace)) for pace in (0.5, 1.0))
    np.testing.assert_array_equal(Curve.from_json(json.loads(json.dumps(two.to_json()))).pace, two.pace)
    assert Curve.join([one, two], "both").pace.tolist() == [0.75] * 3
    assert Curve.join([one, replace(two, pace=np.ones(4))], "both").pace is None
    assert Curve.join([one, replace(two, pace=None)], "both").pace is None
    assert two.on([1]).pace is None


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 20), (8, 20), (29, 11), (328, 1)])
def test_many_tasks_need_fewer_lifetimes_on_each(tasks, seeds):
    assert report.usual_seeds(tasks) == seeds


def test_lifetimes_are_as_long_as_published():
    lengths = {env_id: tasks.family.lifetime for env_id, tasks in FAMILIES.items()}
    assert {env_id: length for env_id, length in lengths.items() if length != 50} == {
        "icrl/PointRobot-v0": 8,
        "icrl/PointRobotSparse-v0": 8,
        "icrl/PendulumMass-v0": 8,
        **dict.fromkeys(METAWORLD, 20),
        **dict.fromkeys(PROCGEN, 5),
        **dict.fromkeys(("icrl/HalfCheetahVel-v0", "icrl/HalfCheetahVelGoal-v0"), 5),
        **{f"icrl/PixelGrid{name}-v0": 20 for name in ("", "Cells", "Goal", "Distractors")},
        "icrl/BernoulliBandit-v0": 1,
        "icrl/ContextualBandit-v0": 1,
        "icrl/GaussianBandit-v0": 1,
        "icrl/LinearBandit-v0": 1,
        "icrl/DarkroomMacro-v0": 200,
        "icrl/DarkroomTurns-v0": 60,
        "icrl/DarkroomMixedTurns-v0": 60,
        "icrl/DarkroomTurns5x5-v0": 16,
    }


@pytest.mark.slow
def test_measuring_with_a_plan_leaves_the_agent_as_it_was(tiny_agent):
    rules = FAMILIES[ID].rules
    agent = tiny_agent(rules.observation_space, rules.action_space, dynamics=True)
    agent.use_plan("beam")
    curves = report.measure(agent, ID, EvalSpec(episodes=2, num_seeds=1), plan="lookahead")
    assert [curve.facts.get("plan", {}).get("when") for curve in curves[:2]] == [None, "known"]
    assert agent.planner.when == "full"


@pytest.mark.slow
def test_planning_may_be_measured_on_some_of_the_tasks():
    """Evenly spaced ones; what it gains is told against the same tasks."""
    assert report.spread(range(10), 4) == (0, 3, 6, 9)
    assert report.spread([5, 7], 4) == (5, 7)
    agent = Variant("ad", (("dynamics", True),)).build()
    curves = report.measure(
        agent, "icrl/Darkroom-v0", EvalSpec(episodes=2, num_seeds=2), plan="lookahead", plan_tasks=3
    )
    plain, planned = curves[:2]
    assert (planned.name, planned.split) == (PLANNED, "test")
    assert planned.tasks == report.spread(plain.tasks, 3)
    np.testing.assert_array_equal(planned.optimal, plain.on(planned.tasks).optimal)
    names = {row.name: row for row in results_table(curves)}
    wanted = planned.mean.mean() - plain.on(planned.tasks).mean.mean()
    assert names["gain by planning, episodes 1-2"].value == pytest.approx(wanted, abs=1e-4)
    assert "planned on 3 tasks: mean return, episode 1" in names
    with pytest.raises(ValueError, match="plan_tasks=3 without a plan"):
        report.measure(agent, "icrl/Darkroom-v0", EvalSpec(episodes=1, num_seeds=1), plan_tasks=3)
    with pytest.raises(ValueError, match="plan_tasks=0"):
        report.measure(agent, "icrl/Darkroom-v0", EvalSpec(episodes=1, num_seeds=1), plan="lookahead", plan_tasks=0)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "all", "validation"])
def test_some_tasks_of_any_split_may_be_measured(split):
    agent, env_id = Variant("ad", (("dynamics", True),)).build(), "icrl/Darkroom-v0"
    agent.facts = {"env_id": env_id, "split_seed": None}
    wanted = report.spread(split_tasks(env_id).pick(split).ids, 3)
    spec = EvalSpec(split, 1, 1, tasks=3)
    plain, planned = report.measure(agent, env_id, spec, plan="lookahead")
    assert (plain.split, plain.tasks, planned.split, planned.tasks) == (split, wanted, split, wanted)
    planned = report.measure(agent, env_id, spec, plan="lookahead", plan_tasks=2)[1]
    assert (planned.split, planned.tasks) == (split, report.spread(wanted, 2))
    assert evaluate(agent, env_id, split, 1, tasks=wanted).split == split
    if split != "validation":
        with pytest.raises(ValueError, match="among the agent's training tasks"):
            evaluate(agent, env_id, "test", 1, tasks=wanted)


@pytest.mark.slow
def test_a_curve_is_named_after_its_learner(tiny_agent, tmp_path):
    agent = agent_of(tiny_agent)
    protocol = {"episodes": 1, "tasks": [3]}
    assert evaluate(agent, ID, **protocol).name == "ad"
    assert evaluate(make_source("posterior", ID), ID, **protocol).name == "posterior"
    assert evaluate(Walker(EAST), ID, **protocol).name == "Walker"
    assert evaluate(agent, ID, **protocol, name="mine").name == "mine"
    one_line(lambda: evaluate(agent, ID, **protocol, name=3), ValueError, "name='3'")
    agent.save_pretrained(tmp_path / "first")
    loaded = evaluate(ICAgent.from_pretrained(tmp_path / "first"), ID, **protocol)
    assert (loaded.name, loaded.origin) == ("ad", "first")
    again = Curve.from_json(json.loads(json.dumps(loaded.to_json())))
    assert (again.name, again.origin) == ("ad", "first")
    released = {key: value for key, value in loaded.to_json().items() if key != "origin"} | {"name": "agent"}
    assert (Curve.from_json(released).name, Curve.from_json(released).origin) == ("agent", "")


def test_a_curve_with_a_planner_says_so():
    agent = Variant("ad", (("dynamics", True),)).build()
    found = evaluate(agent, "icrl/Darkroom-v0", episodes=1, tasks=[3], plan="lookahead")
    assert found.name == "ad, planned"
