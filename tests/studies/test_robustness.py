"""The study of robustness, on scripted learners that are known to fail under some conditions and not under others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from icrl_envs import FAMILIES, Split, register_rules, unregister_family
from icrl_envs.grids.darkroom import Darkroom

from icrl_agents.core.boundary import Boundary
from icrl_agents.core.rollout import rollout
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import evaluate as evaluation
from icrl_agents.evaluation.evaluate import RandomLearner, evaluate
from icrl_agents.evaluation.intervals import Interval
from icrl_agents.studies.conditions import CONDITIONS, Lives, Rewards
from icrl_agents.studies.robustness import Outcome, Recovery, Report, Row, recovery_of, robustness, table, to_row
from tests.cli.test_cli import done, refused
from tests.conftest import one_line

SMALL, MACRO, KEYS = "icrl/Darkroom3x3-v0", "icrl/DarkroomMacro-v0", "icrl/DarkKeyToDoor-v0"
CORNER = "test/Darkroom3x3Corner-v0"  # the same goals, episodes start in (0, 0)
REWARD_ROWS = [name for name in CONDITIONS if name.startswith("rewards")]


PAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {  # by a reward and the lowest one so far
    "one": lambda reward, lowest: reward == 1,
    "higher": lambda reward, lowest: reward > lowest,
}


class Finder:
    """Goes to one cell of the 3x3 room after the other, an episode each, until one `pays`; from then on to that.

    With `patience` it searches on after that many episodes in which its cell did not pay.
    """

    def __init__(self, pays: str = "one", patience: float = np.inf):
        self.pays, self.patience, self.modes = PAYS[pays], patience, set[bool]()

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        rows = env.num_envs
        self.boundary = Boundary(rows, env.metadata.get("autoreset_mode"))
        self.episode, self.known = np.zeros(rows, int), np.full(rows, -1)  # (B,) each
        self.lowest, self.paid, self.poor = np.full(rows, np.inf), np.zeros(rows, bool), np.zeros(rows, int)

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        self.modes.add(deterministic)
        target = np.where(self.known >= 0, self.known, self.episode % 9)
        d0, d1 = (np.stack(np.divmod(target, 3), 1) - obs).T
        return np.select([d0 > 0, d0 < 0, d1 > 0, d1 < 0], [0, 1, 2, 3], 4)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        reached, _ = self.boundary.read(obs, terminated, truncated, info)
        pays = self.pays(reward, self.lowest)
        self.lowest, cell = np.minimum(self.lowest, reward), reached @ [3, 1]
        self.known = np.where(pays & (self.known < 0), cell, self.known)
        self.paid |= pays & (cell == self.known)
        ended = self.boundary.ended
        self.poor = np.where(ended, np.where(self.paid, 0, self.poor + 1), self.poor)
        self.known = np.where(ended & (self.poor >= self.patience), -1, self.known)
        self.episode, self.paid = self.episode + ended, self.paid & ~ended


def rows_of(agent: Any, env_id: str = SMALL, **options: Any) -> dict[str, Row]:
    return {row.name: row for row in robustness(agent, env_id, **{"episodes": 40, **options}).rows}


def lives(env_id: str = SMALL, count: int = 9, **changes: Any) -> Lives:
    ids = FAMILIES[env_id].ids
    return Lives(env_id, np.resize(ids, count), ids, 6, 4, 0)._replace(**changes)


@pytest.fixture
def corner() -> Iterator[str]:
    register_rules(Darkroom, CORNER, 6, Split(0.9, 0), size=3, start=(0, 0))
    yield CORNER
    unregister_family(CORNER)


@pytest.mark.slow
def test_a_learner_of_one_unit_of_rewards_fails_where_the_unit_is_another():
    agent = Finder(patience=2)
    found = rows_of(agent)
    assert list(found) == list(CONDITIONS)
    assert {name for name, row in found.items() if row.lost == 1} == set(REWARD_ROWS)
    for name in ("as trained", "deterministic"):
        assert found[name].means[-1] == Interval(1, 1, 1)
        assert (found[name].lost, found[name].worst, found[name].recovery) == (0, 1, None)
    assert found["deterministic"][1:] == found["as trained"][1:]
    assert agent.modes == {False, True}
    assert found["rewards x10"].regret.value > 5 * found["as trained"].regret.value > 0


@pytest.mark.slow
def test_a_learner_that_compares_rewards_fails_nowhere_and_earns_the_environments_own():
    agent = Finder("higher")
    found = rows_of(agent)
    for name in REWARD_ROWS:
        assert found[name][1:] == found["as trained"][1:], name
    curve = evaluate(agent, SMALL, "all", 40)
    assert found["as trained"].means[1].value == pytest.approx(curve.share(5).mean())
    assert found["as trained"].regret.value == pytest.approx(curve.regret.sum(1).mean())


def test_a_learner_that_ignores_changes_never_recovers():
    stubborn, patient = (
        rows_of(Finder(patience=patience), num_seeds=3, only=["task changes"], change_after=12)["task changes"]
        for patience in (np.inf, 2)
    )
    assert stubborn.recovery == Recovery(28, 28, 27, 27)
    assert stubborn.lost == 1
    assert patient.recovery.never == 0
    assert 3 < patient.recovery.median < 12  # two poor episodes, then a search of nine cells
    assert patient.recovery.worst <= 12
    assert (patient.lost, patient.worst) == (0, 1)
    assert stubborn.means[:3] == patient.means[:3]  # before the change


def test_start_cells_are_a_row_of_the_same_tasks_in_another_environment(corner):
    found = rows_of(Finder(), only=["as trained"], variants=[corner])
    assert list(found) == ["as trained", corner]
    assert found[corner].means[-1].value == found["as trained"].means[-1].value == 1  # each of its own optimum
    assert found[corner].regret != found["as trained"].regret


# ---- what conditions do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seen"), [("rewards x10", [0, 10]), ("rewards x0.1", [0, 0.1]), ("rewards - 0.5", [-0.5, 0.5])]
)
def test_only_what_the_agent_sees_is_changed(name, seen):
    class Noting(RandomLearner):
        def observe(self, obs, reward, *rest):
            rewards.update(np.asarray(reward).tolist())

    rewards, block, condition = set[float](), lives(), CONDITIONS[name]
    (env, options), tasks = condition.world(block)
    returns = rollout(condition.learner(Noting(), block), env, block.episodes, seed=0, options=options)
    assert sorted(rewards) == seen
    assert returns.max() > 1
    assert (returns == returns.round()).all()
    np.testing.assert_array_equal(tasks, np.repeat(block.tasks[:, None], 6, 1))


def test_affine_rewards_are_drawn_for_each_lifetime_by_the_seed():
    affine, many = CONDITIONS["rewards affine"], lives(count=4000)
    assert affine == Rewards((0.1, 10.0), (-1.0, 1.0))
    one, same, other = (affine.learner(Finder(), many._replace(seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal([one.scale, one.shift], [same.scale, same.shift])
    assert (one.scale != other.scale).all()
    assert 0.1 <= one.scale.min() < 0.11 < 9 < one.scale.max() <= 10
    assert -1 <= one.shift.min() < -0.99 < 0.99 < one.shift.max() <= 1
    np.testing.assert_allclose(np.quantile(one.scale, [0.25, 0.5, 0.75]), 10.0 ** np.array([-0.5, 0, 0.5]), rtol=0.1)
    np.testing.assert_allclose(np.quantile(one.shift, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.06)


@pytest.mark.parametrize("pool", [[3, 7], [8, 2, 5, 0]])
def test_a_changed_task_is_another_one_of_the_set(pool):
    block = lives(tasks=np.resize(pool, 200), pool=np.array(pool))
    (env, options), tasks = CONDITIONS["task changes"].world(block)
    np.testing.assert_array_equal(tasks[:, :4], np.repeat(block.tasks[:, None], 4, 1))
    np.testing.assert_array_equal(tasks[:, 4], tasks[:, 5])
    assert (tasks[:, 4] != block.tasks).all()
    assert set(tasks[:, 4].tolist()) == set(pool)

    class Expert(Finder):  # of the task that `tasks` tells
        def act(self, obs):
            self.known = tasks[np.arange(200), np.minimum(self.episode, 5)]
            return super().act(obs)

    returns = rollout(Expert(), env, 6, seed=0, options=options)
    np.testing.assert_array_equal(returns, FAMILIES[SMALL].family.optimal_return(tasks))


@pytest.mark.parametrize(
    ("name", "agent", "block", "why"),
    [
        ("task changes", Finder(), lives(MACRO), "differ in their actions"),
        ("task changes", Finder(), lives(pool=np.array([4])), "one task"),
        ("task changes", Finder(), lives(episodes=5), "takes 6 or more, here are 5"),
        ("task changes", Finder(), lives(), ""),
        ("deterministic", RandomLearner(), lives(), "no deterministic actions"),
        ("deterministic", Finder(), lives(), ""),
    ],
)
def test_conditions_say_where_they_do_not_apply(name, agent, block, why):
    said = CONDITIONS[name].why_not(agent, block)
    assert why in said
    assert bool(why) == bool(said)
    assert "leave" not in said


def test_what_does_not_apply_is_left_out_unless_it_was_asked_for():
    done_so_far: list[int] = []
    report = robustness(RandomLearner(), SMALL, episodes=10, on_done=done_so_far.append)
    assert [row.name for row in report.rows] == ["as trained", *REWARD_ROWS]
    assert set(report.left_out) == {"deterministic", "task changes"}
    assert done_so_far == [1, 2, 3, 4, 5]
    one_line(
        lambda: robustness(RandomLearner(), SMALL, only=["deterministic"]), ValueError, "'deterministic'", "leave it"
    )
    one_line(lambda: robustness(Finder(), SMALL, only=["rewards x100"]), ValueError, "did you mean 'rewards x10'?")
    one_line(lambda: robustness(Finder(), SMALL, "tests"), ValueError, "unknown split 'tests'", "'test'")
    one_line(lambda: robustness(Finder(), SMALL, change_after=0), ValueError, "change_after=0")


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("icrl/PixelGrid-v0", ["observation_space", "same spaces"]),
        (KEYS, ["its task 0 is not that of icrl/Darkroom-v0", "same spaces and tasks"]),
        ("icrl/Darkroom9x9-v0", ["unknown environment id", "did you mean 'icrl/Darkroom"]),
    ],
)
def test_variants_of_other_spaces_or_tasks_are_refused(variant, words):
    one_line(lambda: robustness(Finder(), "icrl/Darkroom-v0", variants=[variant]), ValueError, variant, *words)


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_shares_losses_and_regret_of_a_case_made_by_hand():
    optimal = np.broadcast_to([[10.0], [20.0], [4.0]], (2, 3, 12))  # two lifetimes on three tasks
    returns = np.zeros((2, 3, 12))
    returns[:, 0] = 10  # solved
    returns[0, 1, 2:] = 20  # in one of two lifetimes: not below half
    returns[:, 2, :11], returns[:, 2, 11] = 1, 4
    row = to_row("x", Outcome(returns, optimal, np.zeros_like(returns)), [(1, 1), (12, 12), (3, 12)])
    assert row[:2] == ("x", "share of optimum")
    assert [one.value for one in row.means] == pytest.approx([1.25 / 3, 2.5 / 3, (1 + 0.5 + 0.325) / 3])
    assert row.worst == pytest.approx(0.325)
    assert row.lost == pytest.approx(1 / 3)
    assert row.regret.value == pytest.approx((0 + (40 + 240) / 2 + 33) / 3)
    assert row.regret.low < row.regret.value < row.regret.high
    assert row.recovery is None


def test_where_the_optimum_is_not_positive_shares_begin_at_random_play():
    returns = np.array([[[-8.0, -2.0], [-10.0, -10.0]]])
    costs = Outcome(returns, np.zeros_like(returns), np.full_like(returns, -10.0))
    row = to_row("costs", costs, [(1, 1), (2, 2)])
    assert [one.value for one in row.means] == pytest.approx([0.1, 0.4])
    assert (row.worst, row.lost) == (0, 0.5)


def test_without_an_optimum_rows_are_returns():
    returns = np.array([[[1.0, 2.0], [3.0, 5.0]]])
    unknown = np.full_like(returns, np.nan)
    row = to_row("x", Outcome(returns, unknown, unknown), [(1, 1), (1, 2)], after=1)
    assert row == Row("x", "return", row.means, 1.5, None, None, None)
    assert [one.value for one in row.means] == [2, 2.75]


def test_recovery_counts_to_the_first_of_two_good_episodes_in_a_row():
    shares = np.array([
        [1, 1, 0, 0, 0, 0],  # at once
        [1, 0, 0.8, 0.8, 0, 0],  # 0.8 is good enough, one good episode is not
        [0, 0, 0, 0, 1, 1],
        [1, 0, 1, 0, 1, 0],
        [0.79, 0.79, 0.79, 0.79, 0.79, 1],
    ])  # fmt: skip
    assert recovery_of(shares[:3, None]) == Recovery(3, 5, 0, 3)
    assert recovery_of(shares[None]) == Recovery(5, 6, 2, 5)
    assert "2 of 5 never" in str(recovery_of(shares[None]))
    assert "never" not in str(recovery_of(shares[:3, None]))


def test_lifetimes_that_run_in_parts_are_the_same(monkeypatch):
    protocol = {"num_seeds": 2, "episodes": 12, "only": ["as trained", "rewards - 0.5"]}
    whole = rows_of(Finder("higher"), **protocol)
    monkeypatch.setattr(evaluation, "MAX_ROWS", 5)
    assert rows_of(Finder("higher"), **protocol) == whole


def test_tasks_are_all_of_a_small_family_and_those_held_out_of_a_large_one():
    short = {"episodes": 1, "only": ["as trained"]}
    small = robustness(RandomLearner(), SMALL, **short)
    large = robustness(RandomLearner(), KEYS, **short)
    named = robustness(RandomLearner(), SMALL, "train", **short)
    assert (small.split, small.tasks) == ("all", tuple(range(9)))
    assert (large.split, large.tasks) == ("test", tuple(split_tasks(KEYS).test.ids.tolist()))
    assert (named.split, named.tasks) == ("train", tuple(split_tasks(SMALL).train.ids.tolist()))
    assert robustness(RandomLearner(), "icrl/BernoulliBandit-v0", "num_20", only=["as trained"]).episodes == 1


# ---- files and the command --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reports_are_read_as_they_were_written(corner):
    report = robustness(Finder(), SMALL, episodes=22, num_seeds=2, seed=3, variants=[corner])
    assert {row.recovery is None for row in report.rows} == {True, False}
    data = json.loads(report.to_json())
    assert Report.from_json(data) == report
    assert (data["split"], data["tasks"], data["agent"]) == ("all", list(range(9)), {"agent": "<Finder>"})
    assert (data["num_seeds"], data["seed"], data["change_after"]) == (2, 3, 20)
    assert data["spans"] == [[1, 1], [5, 5], [10, 10], [13, 22]]
    for broken in ({}, [], {**data, "rows": [{}]}, {**data, "spans": 3}):
        one_line(lambda broken=broken: Report.from_json(broken), ValueError, "no report on robustness", "measure again")


@pytest.mark.slow
def test_the_table_has_a_line_for_each_row():
    report = robustness(Finder(), SMALL, episodes=30, change_after=15)
    header, lines = table(report)
    assert header[:5] == ("world", "episode 1", "episode 5", "episode 10", "episodes 21-30")
    assert [line[0] for line in lines] == list(CONDITIONS)
    assert {len(line) for line in lines} == {len(header)}
    assert lines[0][3:7] == (f"{report.rows[0].means[2].value:.2f}", "1.00 [1.00, 1.00]", "0%", "1.00")
    assert "9 of 9 never" in lines[-1][-1]
    assert report.title == f"{SMALL}: all 9 tasks, 1 lifetime of 30 episodes on each; shares of the optimum"
    raw = Row("x", "return", report.rows[0].means, -3.25, None, None, None)
    blank = table(Report(**{**vars(report), "rows": (raw,)}))[1][0]
    assert blank[5:] == ("-", "-3.25", "-", "mean returns, the optimum is not known")


@pytest.mark.slow
def test_the_command(tiny_agent, tmp_path, corner):
    agent = tiny_agent(FAMILIES[SMALL].family.observation_space)
    agent.facts = {"env_id": SMALL, "split_seed": None}
    agent.save_pretrained(tmp_path / "agent")
    out = tmp_path / "found.json"
    words = ("research", "robustness", tmp_path / "agent", "--tasks", "train", "--episodes", 3, "--change-after", 1)
    said = json.loads(done(*words, "--json", "-o", out))
    assert json.loads(out.read_text()) == said
    assert [row["name"] for row in said["rows"]] == list(CONDITIONS)
    assert said["split"] == "train"
    assert said["agent"]["weights"]
    assert "--overwrite" in refused(*words, "-o", out)
    few = ("--only", "rewards x10", "--only", "as trained")
    text = done(*words, *few)
    assert f"{SMALL}: 7 train tasks, 1 lifetime of 3 episodes on each" in text
    assert done(*words, *few, "--seed", 1) != text
    assert "2 lifetimes of 3 episodes" in done(*words, *few, "--seeds", 2)
    assert [line.split("  ")[1] for line in text.splitlines() if line.startswith("  ")][1:] == [
        "as trained", "rewards x10"]  # fmt: skip
    assert "left out: task changes (a change after episode 9 takes 11" in done(*words, "--change-after", 9)
    assert "did you mean 'task changes'" in refused(*words, "--only", "task change")
    assert "same spaces" in refused(*words, "--variant", "icrl/BernoulliBandit-v0")


def test_the_help_names_every_row():
    said, (*names, last) = " ".join(done("research", "robustness", "--help").split()), CONDITIONS
    assert f"Default: {', '.join(names)} and {last}." in said
