"""Segment-marked AD: acting marks what training marks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from icrl_agents import ICAgent, collect, evaluate, train
from icrl_agents.agents.planning.imagination import MethodImagination
from icrl_agents.agents.planning.plans import Decision, Plans
from icrl_agents.core.reward_range import UNSEEN, with_reward_range
from icrl_agents.core.steps import MissingColumnError, Steps, delayed, stack_steps
from icrl_agents.methods.base.transforms import END, START, confident_runs
from icrl_agents.methods.marked_ad import MarkedAD, MarkedADConfig
from tests.conftest import one_line
from tests.fakes import SMALL, SPACES, Variant, close, lifetimes, statistics

ENV = "icrl/Darkroom3x3-v0"  # episodes of 6 steps
OWN = [Variant("marked-ad", tuple(x.items())) for x in ({}, {"layout": "inserted"}, {"dynamics": True})]
LEAST, THRESHOLD = 2, 0.21  # what random weights reach often, but not always


def test_histories_without_probabilities_are_refused():
    steps = lifetimes()
    steps = steps._replace(extras={})
    one_line(lambda: confident_runs(steps, 0.7, 10), MissingColumnError, "log_prob", "ppo, q-learning or noise")
    agent = Variant("marked-ad").build()
    one_line(lambda: agent.method.prepare_batch(steps, np.random.default_rng(0)), MissingColumnError, "log_prob")


# ---- tokens -----------------------------------------------------------------------------------------------------


def test_marks_are_added_to_the_percept():
    agent = Variant("marked-ad", (("dynamics", True),)).build()
    steps = agent.method.tensors(lifetimes())
    mark = torch.arange(90).reshape(3, 30) % 4
    with_marks = agent.method.tokens(steps._replace(extras={**steps.extras, "mark": mark}))
    change = with_marks - agent.method.tokens(steps)
    torch.testing.assert_close(change[:, :, 0], agent.method.mark(mark) - agent.method.mark.weight[0])


def test_inserted_marks_come_before_their_percepts():
    agent = Variant("marked-ad", (("layout", "inserted"),)).build()
    steps = agent.method.tensors(lifetimes())
    mark = torch.arange(90).reshape(3, 30) % 4
    tokens = agent.method.tokens(steps._replace(extras={**steps.extras, "mark": mark})).flatten(1, 2)
    assert tokens.shape[1] == 60
    torch.testing.assert_close(tokens[:, 1:-1:2], agent.method.mark(mark[:, 1:]))
    torch.testing.assert_close(tokens[:, ::2], agent.method.tokens(steps).flatten(1, 2)[:, ::2])


@pytest.mark.parametrize("marked", MarkedADConfig.CHOICES["marks"])
def test_prepare_marks_as_configured(marked: str):
    agent, steps = Variant("marked-ad", (("marks", marked), ("threshold", 0.3))).build(), lifetimes()
    prepared = agent.method.prepare_batch(steps, np.random.default_rng(0))
    expected = confident_runs(steps, 0.3, 2, causal=marked == "own")
    np.testing.assert_array_equal(prepared.extras["mark"], expected)
    assert "mark" not in steps.extras
    losses = [agent.method.loss(agent.method.tensors(x))["action"].item() for x in (steps, prepared)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"marks": "both"}, "choose from own, train"),
        ({"layout": "packed"}, "choose from added, inserted"),
        ({"threshold": 70.0}, "threshold=70.0 is outside"),
        ({"threshold": 0.0}, "threshold=0.0 is outside"),
        ({"min_length": 240}, "min_length=240 does not fit window=240"),
        ({"layout": "inserted", "dynamics": True}, "use layout='added'"),
    ],
)
def test_bad_settings_are_told_in_a_line(changes: dict, told: str):
    one_line(lambda: MarkedADConfig(**changes), ValueError, told)


# ---- acting marks what training marks ---------------------------------------------------------------------------


def build(env: Any = None, **changes: Any) -> ICAgent:
    """Random weights, and runs that they make; acting in the Darkroom of 3x3 cells unless spaces are given."""
    torch.manual_seed(0)
    spaces = (gymnasium.spaces.Box(0, 2, (2,), np.int32), gymnasium.spaces.Discrete(5)) if env is None else env
    agent = ICAgent(
        MarkedAD(*spaces, MarkedADConfig(**{**SMALL, "threshold": THRESHOLD, "min_length": LEAST, **changes}))
    )
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return agent.eval()


class Diary:
    """Writes down, apart from the agent, what each row lived since it last forgot, and how it chose."""

    NAMES = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "log_prob")

    def __init__(self, agent: ICAgent, rows: int, monkeypatch: pytest.MonkeyPatch):
        self.agent, self.rows = agent, rows
        self.lives: list[list[tuple[Any, ...]]] = [[] for _ in range(rows)]
        self.seen: list[tuple[int, list[int]]] = []
        monkeypatch.setattr(agent.method, "on_action", self.on_action)

    def on_action(self, context: Any, distribution: Any, action: torch.Tensor) -> None:
        self.statistics, self.log_prob = statistics(distribution), distribution.log_prob(action).numpy()
        MarkedAD.on_action(self.agent.method, context, distribution, action)

    def window(self, row: int, obs: np.ndarray) -> Steps:
        """What a row can see, the open step included, as a training window with marks."""
        life, seen = self.lives[row], int(self.agent.context.length[row])
        steps = [*life, (obs, 0, np.float32(0), obs, False, False, np.float32(0))]
        values = (np.stack(column)[None] for column in zip(*steps, strict=True))
        columns = dict(zip(self.NAMES, values, strict=True))
        extras = {"log_prob": columns.pop("log_prob")}
        window = with_reward_range(stack_steps(**columns, extras=extras)).window(len(life) - seen, None)
        return self.agent.method.prepare_batch(window, np.random.default_rng(0))

    def check(self, obs: np.ndarray, live: np.ndarray) -> list[int]:
        """Acting had the training-time distribution; gives each live row's mark of the open step."""
        found = []
        for row in np.flatnonzero(live):
            window = self.window(row, obs[row])
            last = torch.tensor([window.mask.shape[1] - 1])
            hidden = self.agent.method.read(self.agent.method.tensors(window), last)
            torch.testing.assert_close(
                self.statistics[row], statistics(self.agent.method.action.head(hidden))[0], atol=1e-5, rtol=1e-5
            )
            found.append(int(window.extras["mark"][0, -1]))
        return found


@pytest.mark.slow
@pytest.mark.parametrize("slide", [1, 4])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("variant", OWN, ids=str)
@torch.no_grad()
def test_acting_marks_as_training_does(variant: Variant, mode: AutoresetMode, slide: int, monkeypatch):
    """Over many windows, with rows that begin anew, so that they are at different lengths and full at other times."""
    env = gymnasium.make_vec(ENV, num_envs=3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    agent = build(slide=slide, **dict(variant.settings))
    diary, found, lengths = Diary(agent, 3, monkeypatch), list[int](), set[tuple[int, ...]]()
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0)
    live = np.ones(3, bool)
    for t in range(60):
        if t in (5, 17, 18, 40):
            rows = np.arange(3) == t % 3
            obs, live = np.where(rows[:, None], reset_rows(env, rows), obs), live | rows
            agent.reset(mask=rows)
            diary.lives = [[] if row else life for row, life in zip(rows, diary.lives, strict=True)]
        action = agent.act(obs)
        found += diary.check(obs, live)
        lengths.add(tuple(agent.context.length.tolist()))
        new, reward, terminated, truncated, info = env.step(action)
        agent.observe(new, reward, terminated, truncated, info)
        ended = terminated | truncated
        for row in np.flatnonzero(live):
            final = info["final_obs"][row] if ended[row] and "final_obs" in info else new[row]
            ends = terminated[row], truncated[row]
            step = (obs[row], action[row], np.float32(reward[row]), final, *ends, diary.log_prob[row])
            diary.lives[row].append(step)
        live = ~(ended & live) if mode == AutoresetMode.NEXT_STEP else live
        obs = new
    assert min(found.count(mark) for mark in (0, START, END)) > 5
    assert any(len(set(row)) == 3 for row in lengths)


def reset_rows(env: Any, rows: np.ndarray) -> np.ndarray:
    """Reset some rows of a sync vector env, which Gymnasium only allows in the mode DISABLED."""
    obs = np.zeros((3, 2), np.int32)
    for row in np.flatnonzero(rows):
        obs[row], _ = env.envs[row].reset()
        env._autoreset_envs[row] = False
    return obs


def roam(agent: ICAgent, steps: int, rows: int = 3, **options: Any) -> np.ndarray:
    """Act in the room; gives the observations after that."""
    env = gymnasium.make_vec(ENV, num_envs=rows)
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0, **options)
    for _ in range(steps):
        result = env.step(agent.act(obs))
        agent.observe(*result)
        obs = result[0]
    return obs


@pytest.mark.slow
@pytest.mark.parametrize("slide", [1, 4])
def test_cached_steps_keep_their_marks_until_the_window_slides(slide: int, monkeypatch):
    agent, seen = build(slide=slide), []

    def note(steps: Steps) -> np.ndarray:
        marks = MarkedAD.marks(agent.method, steps)
        if steps.mask.shape[1] == agent.config.window:  # else those of the next window
            seen.append((steps.mask.sum(1), marks))
        return marks

    monkeypatch.setattr(agent.method, "marks", note)
    roam(agent, 80)
    kept = changed = 0
    for (length, before), (later, after) in pairwise(seen):
        for row in range(3):
            if later[row] > length[row]:
                np.testing.assert_array_equal(before[row, : length[row] + 1], after[row, : length[row] + 1])
                kept += before[row, : length[row] + 1].any()
            else:
                moved = slide - 1 + (length[row] == later[row])
                changed += (before[row, moved : length[row] + 1] != after[row, : length[row] + 1 - moved]).any()
    assert changed > 5  # of runs that the slide has cut
    assert kept > 20 or slide == 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [("grid", {}), ("vector", {}), ("multi", {"deterministic": True}), ("grid", {"plan": "lookahead"})],
    ids=["sampled", "density", "likeliest", "planned"],
)
def test_the_probability_is_the_policys_of_the_action_taken(kind: str, options: dict, monkeypatch):
    agent, steps, told = build(SPACES[kind], dynamics="plan" in options), lifetimes(kind, count=6), []
    no = np.zeros(3, bool)

    def on_action(*given: Any) -> None:
        told.append(given[1:])
        MarkedAD.on_action(agent.method, *given)

    def other(plans: Any, method: Any, planner: Any, decision: Decision, *rest: Any) -> Any:
        return (decision.action + 1) % 5

    monkeypatch.setattr(agent.method, "on_action", on_action)
    monkeypatch.setattr(Plans, "choose", other)
    agent.reset(num_envs=3, seed=0)
    for t in range(6):
        action = agent.act(steps.obs[:, t], **options)
        agent.observe(steps.next_obs[:, t], np.ones(3), no, no, {})
        distribution, choice = told[-1]
        np.testing.assert_array_equal(agent.method.action.array(choice), action)
        noted = agent.context.visible().extras["log_prob"][:, t]
        np.testing.assert_allclose(noted, distribution.log_prob(choice).detach().numpy(), rtol=1e-6)


@torch.no_grad()
def test_published_marks_are_for_training_only():
    agent = build(marks="train", slide=1)
    obs = roam(agent, 20)
    assert agent.method.extra_columns.keys() == agent.context.steps.extras.keys() == set(UNSEEN)
    acting = statistics(agent.policy(agent.context, obs))
    expected = agent.method.action.head(
        agent.method.read(agent.method.tensors(agent.context.steps), torch.full((3,), 8))
    )
    torch.testing.assert_close(acting, statistics(expected), atol=1e-5, rtol=1e-5)


def test_who_does_not_learn_notes_nothing():
    given = source_history(5)
    agent = build()
    roam(agent, 6, history=given, learn=False)
    before = {name: value.copy() for name, value in agent.context.steps.extras.items()}
    agent.act(np.zeros((3, 2), np.int32))
    for name, value in before.items():
        np.testing.assert_array_equal(value, agent.context.steps.extras[name])


def test_what_was_noted_of_another_step_does_not_stay():
    """Steps that are closed without a choice of the agent's are unknown, also where the window slid."""
    agent, steps = build(), lifetimes(count=30)
    agent.reset(num_envs=3)
    for t in range(30):
        policy = agent.policy(agent.context, steps.obs[:, t] % 3)
        if t < 9:
            agent.method.on_action(agent.context, policy, policy.mode())
        close(agent, steps, t)
        known = np.isfinite(agent.context.visible().extras["log_prob"]).sum(1)
        assert known.tolist() == [sum(s < 9 for s in range(t + 1 - agent.context.length[0], t + 1))] * 3


def test_forks_note_for_themselves():
    agent = build()
    obs = roam(agent, 6)
    branch = agent.context.repeat(2)
    noted = agent.context.steps.extras["log_prob"].copy()
    distribution = agent.policy(branch, np.repeat(obs, 2, 0))
    agent.method.on_action(branch, distribution, distribution.mode())
    np.testing.assert_array_equal(noted, agent.context.steps.extras["log_prob"])
    assert (branch.steps.extras["log_prob"][:, 6] > -5).all()


# ---- histories to begin with ------------------------------------------------------------------------------------


def source_history(count: int = 30) -> Steps:
    """Of a learner that is sure most of the time, updated every 4 steps."""
    rng = np.random.default_rng(1)
    steps = lifetimes(rows=3, count=count)
    cells = {name: rng.integers(0, 3, (3, count, 2), np.int32) for name in ("obs", "next_obs")}
    cells["prev_obs"] = delayed(cells["obs"], 0)
    log_prob = np.log(rng.random((3, count)) ** 0.2).astype(np.float32)
    log_prob[:, -4:] = 0.0
    return steps._replace(**cells, extras={"log_prob": log_prob, "update": np.tile(np.arange(count) // 4, (3, 1))})


@pytest.mark.parametrize("variant", OWN, ids=str)
@torch.no_grad()
def test_a_history_is_marked_by_its_learners_probabilities(variant: Variant):
    """And no run goes on from the learner to the agent."""
    agent, steps = build(**dict(variant.settings)), with_reward_range(source_history(31))
    agent.reset(num_envs=3, seed=0, history=steps.window(0, 30))
    acting = statistics(agent.policy(agent.context, steps.obs[:, 30]))
    assert agent.context.length.tolist() == [8, 8, 8]
    steps.extras["update"][:, 30] = 1000  # the agent is another policy than the learner, which was sure of late
    window = agent.method.prepare_batch(steps.window(22, 31), np.random.default_rng(0))
    assert not (window.extras["mark"][:, -1] & START).any()
    assert window.extras["mark"].any(1).all()
    expected = statistics(
        agent.method.action.head(agent.method.read(agent.method.tensors(window), torch.full((3,), 8)))
    )
    torch.testing.assert_close(acting, expected, atol=1e-5, rtol=1e-5)


def test_no_run_goes_on_from_a_learner_without_updates():
    agent, steps = build(window=20, min_length=2), source_history(12)
    steps.extras["log_prob"][:] = 0.0  # always sure
    seen = []
    for extras in (steps.extras, {"log_prob": steps.extras["log_prob"]}):
        agent.reset(num_envs=3, history=steps._replace(extras=extras))
        agent.method.encode(agent.context, steps.obs[:, 0])
        seen.append(agent.method.marks(agent.context.steps)[np.arange(3), agent.context.length])
    np.testing.assert_array_equal(*seen)
    assert (seen[1] & END > 0).any()  # the agent's first step ends the learner's run


def test_own_experience_can_be_given_again():
    agent, again = build(window=20), build(window=20)
    obs = roam(agent, 15)
    again.reset(num_envs=3, seed=0, history=agent.context.visible())
    noted = [one.context.visible().extras["log_prob"] for one in (agent, again)]
    np.testing.assert_array_equal(*noted)
    policies = [statistics(one.policy(one.context, obs)) for one in (agent, again)]
    torch.testing.assert_close(*policies, atol=1e-5, rtol=1e-5)


def test_a_history_that_notes_nothing_has_no_marks():
    agent, given = build(), source_history(4)
    agent.reset(num_envs=3, history=given._replace(extras={}))
    assert not agent.method.marks(agent.context.steps).any()


def test_a_history_with_notes_of_another_shape_is_refused():
    agent, given = build(), source_history(4)
    wrong = given._replace(extras={"log_prob": given.extras["log_prob"][:, :3]})
    one_line(lambda: agent.reset(num_envs=3, history=wrong), ValueError, "log_prob", "(3, 3)", "(3, 4)")


# ---- planning ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_imagined_steps_have_no_marks():
    """Whatever mark the open step has."""
    agent, opened = build(dynamics=True, window=20), set[int]()
    env = gymnasium.make_vec(ENV, num_envs=3)
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0)
    for t in range(15):
        hidden = agent.method.encode(agent.context, obs)
        cache, _ = agent.method.branch(agent.context)
        dream = MethodImagination(agent.method, agent.context)
        branch = dream.root(cache, hidden)
        action = dream.propose(branch, 5).action[:, :, :1]
        outcome, imagined = dream.imagine(branch, action)
        then = dream.follow(imagined, *torch.zeros(2, 3, 1, dtype=torch.long))
        window = agent.method.prepare_batch(agent.context.steps.window(0, t + 1), np.random.default_rng(0))
        opened.update(window.extras["mark"][:, -1].tolist())
        window = agent.method.tensors(window.map(lambda x: np.concatenate([x, np.zeros_like(x[:, :1])], 1)))
        window.action[:, -2], window.obs[:, -1] = action[:, 0, 0], outcome.next_obs[:, 0, 0]
        window.prev_reward[:, -1] = outcome.reward[:, 0, 0]
        expected = agent.method.read(window, torch.full((3,), t + 1))
        torch.testing.assert_close(then.hidden[:, 0], expected, atol=1e-5, rtol=1e-5)
        policy = agent.method.action.head(hidden)
        agent.method.on_action(agent.context, policy, policy.mode())
        obs, reward, terminated, truncated, _ = env.step(policy.mode().numpy())
        agent.context.close(policy.mode().numpy(), reward, obs, terminated, truncated, np.ones(3, bool))
    assert opened == {0, START, END}


# ---- training ---------------------------------------------------------------------------------------------------


QUICK = {**SMALL, "updates": 2, "batch_size": 4, "micro_batch": 4, "eval_every": 0, "min_length": 3}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"marks": "train"}, {"layout": "inserted"}, {"dynamics": True}])
def test_it_trains_and_plays(settings: dict, tmp_path: Path):
    train("marked-ad", ENV, tmp_path / "run", settings={**QUICK, "source": "q-learning", **settings}, quiet=True)
    agent = ICAgent.from_pretrained(tmp_path / "run")
    assert isinstance(agent.method, MarkedAD)
    plan = "lookahead" if settings.get("dynamics") else None
    curve = evaluate(agent, ENV, episodes=3, num_seeds=2, plan=plan)
    assert np.isfinite(curve.returns).all()


def test_it_trains_on_a_store(tmp_path: Path):
    path = collect(ENV, "noise", tmp_path / "noise.h5", streams=2, episodes=5)
    agent = train("marked-ad", ENV, tmp_path / "run", histories=path, settings=QUICK, quiet=True)
    assert agent.facts["source"] == "noise"


def test_a_source_that_tells_no_probabilities_is_refused(tmp_path: Path):
    settings = {**QUICK, "source": "posterior"}
    one_line(
        lambda: train("marked-ad", ENV, tmp_path / "run", settings=settings, quiet=True),
        ValueError,
        "log_prob",
        "ppo, q-learning or noise",
    )
