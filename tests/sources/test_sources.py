"""Every source: reproducible, inside the spaces, correctly recorded, learning what it claims, knowing what it says."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from icrl_envs import FAMILIES

from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import SOURCES, default_source, find_source, make_source
from icrl_agents.sources.collection import lifetimes
from icrl_agents.sources.tables.states import state_index
from tests.envs.families import TURNS

SMALL, ROOM = "icrl/Darkroom3x3-v0", "icrl/Darkroom-v0"
QUICK = {"ppo": {"n_steps": 6, "batch_size": 12, "n_epochs": 2}}


def source(name: str, env_id: str = SMALL, **settings):
    return make_source(name, env_id, {**QUICK.get(name, {}), **settings})


def live(name: str, tasks, episodes: int = 3, seed: int = 0, env_id: str = SMALL, **settings):
    return lifetimes(env_id, source(name, env_id, **settings), np.asarray(tasks), episodes, seed)


def returns(steps, horizon: int) -> np.ndarray:
    """Mean return of each episode, which has `horizon` steps."""
    return steps.reward.reshape(len(steps.reward), -1, horizon).sum(2).mean(0)


def row_returns(steps) -> np.ndarray:
    """Returns (E, B) of the episodes of each row, of any length."""
    ended = (steps.terminated | steps.truncated) & steps.mask
    number = np.cumsum(ended, 1) - ended  # (B, T)
    count = int(ended.sum(1).min())
    return np.array([np.where((number == e) & steps.mask, steps.reward, 0).sum(1) for e in range(count)])


def episode_returns(steps) -> np.ndarray:
    """Mean return of each episode, of any length."""
    return row_returns(steps).mean(1)


DISCRETE = [name for name in SOURCES if name != "sac"]  # see test_sb3.py


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRETE)
def test_contract(name):
    tasks = [4, 4, 4, 4] if find_source(name).one_task else [0, 4, 5, 8]
    one, same, other = live(name, tasks), live(name, tasks), live(name, tasks, seed=1)
    for field in ("obs", "action", "reward", "next_obs"):
        np.testing.assert_array_equal(getattr(one, field), getattr(same, field))
    for field, column in one.extras.items():
        np.testing.assert_array_equal(column, same.extras[field])
    assert not np.array_equal(one.action, other.action)
    assert one.mask.all()
    assert one.reward.shape == (4, 18)
    assert one.action.dtype == np.int64
    assert one.action.min() >= 0
    assert one.action.max() < 5
    assert find_source(name).assumes.endswith(".")
    assert "expert_action" in one.extras
    if "log_prob" in one.extras:
        assert one.extras["log_prob"].dtype == np.float32
        assert (one.extras["log_prob"] <= 0).all()


def drive(name: str, mode: AutoresetMode, episodes: int = 3):
    """A recorded run over a native vector env in that mode."""
    env = RecordHistory(gymnasium.make_vec(SMALL, 4, autoreset_mode=mode))
    source(name).run(env, episodes, 0, {"task": np.array([0, 4, 5, 8])})
    return env.steps(episodes)


@pytest.mark.slow
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", DISCRETE)
def test_every_step_obeys_the_rules_also_at_the_borders(name, mode):
    if name == "ppo" and mode != AutoresetMode.SAME_STEP:
        with pytest.raises(ValueError, match="SAME_STEP"):
            drive(name, mode)
        return
    steps = drive(name, mode)
    moves = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)])[steps.action]
    np.testing.assert_array_equal(steps.next_obs, np.clip(steps.obs + moves, 0, 2))
    assert steps.mask.all()
    assert steps.reward.shape == (4, 18)
    ends = np.arange(18) % 6 == 5
    np.testing.assert_array_equal(steps.truncated, np.tile(ends, (4, 1)))
    np.testing.assert_array_equal(steps.first, np.tile(np.arange(18) % 6 == 0, (4, 1)))
    assert (steps.obs[steps.first] == 1).all()
    inside = ~ends[:-1]
    np.testing.assert_array_equal(steps.next_obs[:, :-1][:, inside], steps.obs[:, 1:][:, inside])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_posterior_finds_the_goals_in_every_autoreset_mode(mode):
    rewards = drive("posterior", mode, episodes=10).reward.reshape(4, 10, 6).sum(2)
    np.testing.assert_array_equal(rewards[:, -1], FAMILIES[SMALL].rules.optimal_return(np.array([0, 4, 5, 8])))


class ScriptedBelief:
    """Refutes hypotheses when told to, always advises action 3, and remembers what was asked of it."""

    def __init__(self):
        self.begun, self.drawn, self.refuted = [], [], np.zeros(2, bool)

    def begin(self, rows, obs):
        self.begun.append(rows.tolist())

    def update(self, *step): ...

    def possible(self, task):
        return ~self.refuted

    def sample(self, rows, steps_left):
        self.drawn.append((rows.tolist(), steps_left.tolist()))
        return rows

    def action(self, task):
        return np.array([3, 3])


def test_posterior_redraws_and_explores_exactly_when_it_should(monkeypatch):
    belief = ScriptedBelief()
    family = SimpleNamespace(horizon=9, belief=lambda rows, rng, beta: belief, offers=lambda capability: True)
    monkeypatch.setattr("icrl_agents.sources.posterior.env_family", lambda env: family)
    inner = SimpleNamespace(spec=None)
    env = SimpleNamespace(num_envs=2, unwrapped=inner, metadata={}, single_action_space=spaces.Discrete(1000))
    learner = source("posterior", noise=1.0)
    learner.reset(env, seed=0)
    never, both = np.zeros(2, bool), np.zeros((2, 1))
    # what happens before each action: rewards, refutations, ends of episodes; then who redraws, and who searches
    script = [
        ([0, 0], [0, 0], [0, 0], [0, 1], [1, 1]),  # episodes begin
        ([0, 0], [0, 0], [0, 0], [], [1, 1]),
        ([1, 0], [0, 0], [0, 0], [0], [0, 1]),  # a reward after none
        ([1, 0], [0, 0], [0, 0], [], [0, 1]),  # no news
        ([0, 0], [1, 0], [0, 0], [0], [1, 1]),  # refuted
        ([1, 0], [0, 0], [0, 1], [0, 1], [0, 1]),  # rewarded, and an end
    ]
    for step, (reward, refuted, over, redraws, searching) in enumerate(script):
        if step:
            learner.observe(both, np.array(reward, float), never, np.array(over, bool), {})
        belief.drawn.clear()
        belief.refuted = np.array(refuted, bool)
        action = learner.act(both)
        left = [9 if over[row] else 9 - step for row in redraws]
        assert belief.drawn == ([(redraws, left)] if redraws else []), step
        assert (action != 3).tolist() == [bool(s) for s in searching], step
    assert belief.begun == [[True, True], [False, True]]


def test_posterior_reaches_the_known_curve_on_all_goals():
    curve = returns(live("posterior", np.repeat(np.arange(81), 12), 8, env_id=ROOM), 20)
    np.testing.assert_allclose(curve, [2.4, 6.3, 9.9, 12.6, 14.8, 16.2, 16.5, 16.5], atol=0.6)


@pytest.mark.parametrize(("settings", "slower"), [({"noise": 0.5}, 2.0), ({"sharpness": 0.0}, 0.3)], ids=str)
def test_posterior_settings_change_how_it_searches_but_not_what_it_finds(settings, slower):
    tasks = np.repeat(np.arange(81), 4)
    plain, other = (live("posterior", tasks, 24, env_id=ROOM, **s) for s in ({}, settings))
    assert returns(other, 20)[1:8].mean() < returns(plain, 20)[1:8].mean() - slower
    assert returns(other, 20)[-1] > 15.5


@pytest.mark.parametrize(
    ("env_id", "most"), [(ROOM, 33.0), ("icrl/DarkKeyToDoor-v0", 1.75), ("icrl/DarkroomPermuted-v0", 3.4)]
)
def test_a_systematic_search_has_one_order_and_loses_less(env_id, most):
    family = FAMILIES[env_id].family
    tasks = np.random.default_rng(0).permutation(family.num_tasks)[:300]
    one, other = (live("posterior", tasks, 8, seed, env_id, systematic=1.0) for seed in (0, 1))
    np.testing.assert_array_equal(one.action, other.action)  # nothing is drawn
    regret = 8 * family.optimal_return(tasks) - (one.reward * one.mask).sum(1)
    assert regret.mean() < most
    half = live("posterior", np.full(200, tasks[7]), 1, 0, env_id, systematic=0.5)
    same = (half.action == one.action[7, : half.action.shape[1]]).all(1).mean()
    assert 0.4 < same < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [env_id for env_id in FAMILIES if default_source(env_id) == "posterior"])
def test_posterior_improves_everywhere_and_never_contradicts_the_rules(env_id):
    tasks = np.random.default_rng(0).choice(FAMILIES[env_id].ids, 64)
    steps = live("posterior", tasks, 12, env_id=env_id)
    rules = FAMILIES[env_id].rules
    found, most = row_returns(steps), rules.optimal_return(tasks)
    curve, best = found.mean(1), most.mean()
    assert len(curve) == 12
    assert curve[-1] > max(0.6 * best, curve[0])
    # where the optimum is a mean over starts or rooms, nearer goals earn more, by a few standard errors
    luck = 4 * (found - most).std(1) / np.sqrt(64) if rules.stochastic or env_id in TURNS else 0.0
    assert (curve <= best + luck).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["posterior", "q-learning"])
def test_nothing_but_rewards_tells_of_the_task(name):
    """Two tasks, one seed: the same actions until the rewards differ."""
    one, two = (live(name, [goal], 12, env_id=ROOM) for goal in (3, 77))
    differ = np.flatnonzero(one.reward[0] != two.reward[0])
    assert len(differ)
    assert differ[0] > 0
    np.testing.assert_array_equal(one.action[:, : differ[0] + 1], two.action[:, : differ[0] + 1])


@pytest.mark.slow
def test_q_learning_learns_the_dark_room():
    curve = returns(live("q-learning", np.repeat(np.arange(81), 3), 60, env_id=ROOM), 20)
    assert curve[:3].mean() < 2
    assert curve[-5:].mean() > 12


def test_noise_goes_from_random_to_expert_and_knows_its_own_probabilities():
    steps = live("noise", np.repeat(np.arange(9), 20), 11)
    expert = steps.action == steps.extras["expert_action"]
    share = expert.reshape(-1, 11, 6).mean((0, 2))
    np.testing.assert_allclose(share, 0.2 + 0.8 * np.linspace(0, 1, 11), atol=0.05)
    assert expert[:, -6:].all()
    chance = np.repeat(np.linspace(1, 0, 11), 6)
    np.testing.assert_allclose(np.exp(steps.extras["log_prob"]), chance / 5 + (1 - chance) * expert, atol=1e-6)


def test_noise_knows_its_probabilities_among_few_actions():
    env_id = "icrl/BernoulliBandit-v0"
    tasks = FAMILIES[env_id].named("all_new").ids[:20]
    steps = lifetimes(env_id, make_source("noise", env_id, {"start": 1.0, "end": 1.0}), tasks, 1, 0)
    legal = steps.static["action_mask"].sum(1, keepdims=True)
    assert len(np.unique(legal)) > 3
    np.testing.assert_allclose(np.exp(steps.extras["log_prob"]) * legal, 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_q_learning_that_replays_repeats_its_first_success(mode):
    """A room that ends at the goal and never changes: backwards, one success teaches the whole way to it."""
    env_id, episodes, rows = "icrl/DarkroomMacro-v0", 15, 40
    greedy = {"optimism": 0.0, "initial_noise": 0.0, "epsilon_start": 0.0, "learning_rate": 1.0, "discount": 0.9}
    found = []
    for replay in (False, True):
        env = RecordHistory(gymnasium.make_vec(env_id, num_envs=rows, autoreset_mode=mode))
        learner = make_source("q-learning", env_id, {**greedy, "replay": replay})
        learner.run(env, episodes, 0, {"task": np.arange(rows)})
        steps = env.steps(episodes)
        ended = (steps.terminated | steps.truncated) & steps.mask
        success = np.array([steps.reward[row][ended[row]] for row in range(rows)])  # (B, E)
        found.append((np.diff(success, axis=1) < 0).any())  # it was lost again
    assert found == [True, False]
    assert success.any(1).mean() > 0.7


def test_q_learning_knows_its_own_probabilities():
    steps = live("q-learning", np.zeros(4000, int), 1, epsilon_start=0.5, optimism=0.0)
    first = steps.extras["log_prob"][:, 0]
    np.testing.assert_allclose(np.exp(first), 0.2, atol=1e-6)  # nothing tried: any action
    seen = np.exp(steps.extras["log_prob"][:, -1])
    assert np.unique(seen.round(3)).size > 1
    assert (1 / seen).mean() == pytest.approx(5, rel=0.1)


def test_ppo_is_recorded_with_its_updates_and_leaves_the_process_as_it_was():
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002  those that SB3 uses
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    torch.set_num_threads(2)
    steps = live("ppo", [4] * 4, 4)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after
    np.testing.assert_array_equal(steps.extras["update"], np.tile(np.repeat(np.arange(4), 6), (4, 1)))
    assert np.exp(steps.extras["log_prob"][:, :6]).mean() == pytest.approx(0.2, abs=0.05)
    # a policy that is not updated differs from one that is, from the first update on
    still = live("ppo", [4] * 4, 4, learning_rate=0.0)
    np.testing.assert_array_equal(still.action[:, :6], steps.action[:, :6])
    assert not np.allclose(still.extras["log_prob"][:, 6:], steps.extras["log_prob"][:, 6:])


def test_ppo_presets_are_the_published_ones():
    published = {ROOM: (20, 50, 20), "icrl/DarkroomPermuted-v0": (50, 50, 20), "icrl/DarkKeyToDoor-v0": (50, 100, 10)}
    for env_id, numbers in published.items():
        settings = make_source("ppo", env_id).settings
        assert (settings.n_steps, settings.batch_size, settings.n_epochs) == numbers
        assert settings.learning_rate == 3e-4
        assert settings.gamma == 0.99
        assert not settings.bootstrap
    assert make_source("ppo", ROOM, {"n_steps": 7}).settings.n_steps == 7


@pytest.mark.parametrize("bootstrap", [False, True])
def test_ppo_gets_final_observations(bootstrap):
    from icrl_agents.sources.sb3 import Adapter

    env = RecordHistory(gymnasium.make_vec(SMALL, 2, goal=(0, 0)))
    adapter = Adapter(env, 0, None, bootstrap)
    assert (adapter.reset() == 1).all()
    for _ in range(6):
        obs, reward, done, infos = adapter.step(np.array([0, 1]))
    assert (obs == 1).all()
    assert done.all()
    assert reward.dtype == np.float32
    np.testing.assert_array_equal([info["terminal_observation"] for info in infos], [[2, 1], [0, 1]])
    assert [info["TimeLimit.truncated"] for info in infos] == [bootstrap] * 2


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (spaces.Discrete(4, start=2), [2, 3, 4, 5]),
        (spaces.Box(-1, 1, (1, 2), np.int64), [[[i, j]] for i in (-1, 0, 1) for j in (-1, 0, 1)]),
        (spaces.MultiDiscrete([2, 3]), [[i, j] for i in range(2) for j in range(3)]),
    ],
    ids=str,
)
def test_states_are_counted_through(space, values):
    count, index = state_index(space, "q-learning")
    assert index(np.array(values)).tolist() == list(range(count))
    assert count == len(values)


@pytest.mark.parametrize(
    ("name", "env_id", "match"),
    [
        ("q-learning", "CartPole-v1", "observations of integers"),
        ("q-learning", "Pendulum-v1", "source 'q-learning' needs"),
        ("posterior", "CartPole-v1", "needs a belief, .* declares none"),
        ("noise", "CartPole-v1", r"expert_action\(\)"),
        ("noise", "Pendulum-v1", r"expert_action\(\)"),
    ],
)
def test_an_unfit_environment_is_one_clear_line(name, env_id, match):
    with pytest.raises(ValueError, match=match) as error:
        source(name).run(RecordHistory(gymnasium.make_vec(env_id, 2)), 1, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="holds 4096 observations"):
        state_index(spaces.Box(0, 255, (8, 8), np.uint8), "q-learning")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "icrl_agents.sources.sb3", raising=False)
    with pytest.raises(ImportError, match=r'pip install "icrl-agents\[train\]"'):
        find_source("ppo")


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'posterior'"):
        find_source("posteriors")
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        make_source("posterior", ROOM, {"noize": 0.1})


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (spaces.Discrete(5, start=2), 5),
        (spaces.MultiBinary(3), 8),
        (spaces.MultiDiscrete([2, 3]), 6),
        (spaces.Box(1, 3, (2,), np.int32), 9),
        (spaces.Box(1, 4, (), np.int64), 4),
    ],
)
def test_every_observation_has_a_row_of_its_own(space, count):
    states, index = state_index(space, "q-learning")
    space.seed(0)
    samples = np.stack([space.sample() for _ in range(300)])
    found = index(samples)
    assert states == count
    assert set(found) == set(range(count))
    assert len(np.unique(samples, axis=0)) == count


def test_random_play_draws_from_any_action_space():
    one, same, other = (live("uniform", [0, 1], 50, seed, "icrl/PointRobot-v0") for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.action, same.action)
    assert not (one.action == other.action).any()
    assert not (one.action[0] == one.action[1]).any()  # rows have draws of their own
    counts = np.histogram(one.action, bins=4, range=(-1, 1))[0]
    assert one.action.shape == (2, 1000, 2)
    assert counts.min() > 900  # of 1000
    assert "log_prob" not in one.extras


def test_walks_are_whole_episodes_of_random_actions():
    steps = lifetimes(
        "icrl/Darkroom-v0", make_source("posterior", "icrl/Darkroom-v0", {"walks": 0.3}), np.arange(81), 9, 0
    )
    other = (steps.action != steps.extras["intended_action"]).reshape(81, 9, 20).mean(2)  # share of an episode
    walks = other > 0
    assert (other[walks] > 0.4).all()  # on average 4 of 5 random actions are not the intended one
    assert 0.78 < other[walks].mean() < 0.82
    assert 0.25 < walks.mean() < 0.35
    assert (walks.any(1) & ~walks.all(1)).mean() > 0.9  # of the lifetimes have both
    plain = lifetimes("icrl/Darkroom-v0", make_source("posterior", "icrl/Darkroom-v0"), np.arange(81), 9, 0)
    assert "intended_action" not in plain.extras


def test_the_learner_behind_a_source_neither_slips_nor_changes_its_task():
    """Card rows of a source are of this learner: what agents imitate, and not the histories that show them more."""
    settings = {"slips": 0.9, "changes": 0.5, "walks": 0.3}
    disturbed = make_source("posterior", "icrl/Darkroom-v0", {**settings, "systematic": 1.0})
    assert disturbed.undisturbed().described() == {**disturbed.described(), **dict.fromkeys(settings, 0.0)}
    returns = [
        lifetimes("icrl/Darkroom-v0", one, np.arange(40), 8, 0).reward.sum(1).mean()
        for one in (
            disturbed.undisturbed(),
            make_source("posterior", "icrl/Darkroom-v0", {"systematic": 1.0}),
            disturbed,
        )
    ]
    assert returns[0] == returns[1] > 1.2 * returns[2]
