"""DPT: labels at every length of the context; and, for every method, acting from a history that is given."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.reward_range import UNSEEN
from icrl_agents.core.splits import split_tasks
from icrl_agents.core.steps import MissingColumnError, Steps
from icrl_agents.methods.dpt import DPTConfig
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes as recorded
from tests.conftest import one_line
from tests.fakes import SPACES, Variant, lifetimes, sample, statistics, variants

ROOM = "icrl/Darkroom-v0"
DPT = [variant for variant in variants() if variant.method == "dpt"]
QUERY_FIRST = [variant for variant in DPT if not variant.build().method.extends]
NONE = np.zeros(3, bool)


def masked(steps: Steps, *lengths: int) -> Steps:
    """The steps with padding behind the first `lengths` of each row."""
    return steps._replace(mask=np.arange(steps.mask.shape[1]) < np.array(lengths)[:, None])


def asked_at(agent: ICAgent, steps: Steps, count: int) -> Steps:
    """Prepared steps (B, T) as a query, last, behind the `count` steps of context that the loss showed it."""
    if agent.method.extends:
        return steps.window(0, count + 1)
    columns = [*range(1, count + 1), 0]
    return steps.map(lambda value: value[:, columns])


@pytest.mark.parametrize("variant", DPT, ids=str)
@torch.no_grad()
def test_the_loss_is_the_mean_over_contexts_of_every_length(variant: Variant):
    """Also the empty one; padding counts nowhere."""
    agent = variant.build()
    steps = agent.method.prepare_batch(masked(lifetimes(count=9), 9, 5, 1), np.random.default_rng(0))
    terms = []
    for count in range(9):
        given = asked_at(agent, steps, count)
        hidden = agent.method.read(agent.method.tensors(given), torch.full((3,), count))
        expert = torch.as_tensor(given.extras["expert_action"][:, -1])
        terms += (-agent.method.action.head(hidden).log_prob(expert))[steps.mask[:, count]].tolist()
    assert len(terms) == 15
    assert float(agent.method.loss(agent.method.tensors(steps))["action"]) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("variant", DPT, ids=str)
@torch.no_grad()
def test_the_labels_may_be_what_a_source_means_to_do(variant: Variant):
    steps = lifetimes(count=9)
    other = {"intended_action": steps.extras["expert_action"], "expert_action": np.zeros_like(steps.action)}
    losses = []
    for target, extras in (("expert_action", steps.extras), ("intended_action", other)):
        method = Variant("dpt", (*variant.settings, ("target", target))).build().method
        given = steps._replace(extras={**steps.extras, **extras})
        losses.append(method.loss(method.tensors(method.prepare_batch(given, np.random.default_rng(0))))["action"])
    torch.testing.assert_close(*losses)
    one_line(
        lambda: method.prepare_batch(steps._replace(extras={}), np.random.default_rng(0)),
        MissingColumnError,
        "learns from intended_action, which these histories lack",
        "slips",
    )


@pytest.mark.parametrize("variant", DPT, ids=str)
def test_the_loss_is_what_an_agent_with_that_history_would_be_charged(variant: Variant):
    """In episodes of one step, so that a query begins an episode wherever it was taken from."""
    agent = variant.build()
    steps = agent.method.prepare_batch(lifetimes(count=9, ends=1.0), np.random.default_rng(0))
    terms = []
    for count in range(9):
        given = asked_at(agent, steps, count)
        agent.reset(num_envs=3, history=given.window(0, count) if count else None, learn=False)
        expert = torch.as_tensor(given.extras["expert_action"][:, -1])
        terms.append(-agent.policy(agent.context, given.obs[:, -1]).log_prob(expert).mean().item())
    with torch.no_grad():
        assert float(agent.method.loss(agent.method.tensors(steps))["action"]) == pytest.approx(
            np.mean(terms), rel=1e-4
        )


@pytest.mark.parametrize("variant", DPT, ids=str)
@torch.no_grad()
def test_what_was_done_at_a_query_is_neither_label_nor_input(variant: Variant):
    agent = variant.build()
    steps = agent.method.prepare_batch(lifetimes(count=9), np.random.default_rng(0))
    query = -1 if agent.method.extends else 0
    plain, done, meant = (steps.map(np.copy) for _ in range(3))
    for name in ("action", "reward", "next_obs"):
        column = getattr(done, name)
        column[:, query] = (column[:, query] + 1) % 5
    meant.extras["expert_action"][:, query] = (meant.extras["expert_action"][:, query] + 1) % 5
    one, same, other = (float(agent.method.loss(agent.method.tensors(s))["action"]) for s in (plain, done, meant))
    assert one == pytest.approx(same, rel=1e-6)
    assert abs(one - other) > 1e-3


@pytest.mark.parametrize("variant", QUERY_FIRST, ids=str)
@torch.no_grad()
def test_only_the_querys_label_counts(variant: Variant):
    agent = variant.build()
    steps = agent.method.prepare_batch(lifetimes(count=9), np.random.default_rng(0))
    other = steps.map(np.copy)
    other.extras["expert_action"][:, 1:] = sample(SPACES["grid"][1], 3, 8, seed=7)
    assert agent.method.loss(agent.method.tensors(steps)) == agent.method.loss(agent.method.tensors(other))


@pytest.mark.parametrize("variant", DPT, ids=str)
def test_windows_are_reordered_with_the_given_generator_alone(variant: Variant):
    agent, steps = variant.build(), lifetimes(rows=50, count=9)
    torch.manual_seed(0)
    one, same = (agent.method.prepare_batch(steps, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    other = agent.method.prepare_batch(steps, np.random.default_rng(4))
    np.testing.assert_array_equal(one.reward, same.reward)
    assert (one.reward != other.reward).any() == ("set" in str(variant))
    assert np.array_equal(one.reward, steps.reward) == agent.method.extends
    assert (one.reward[:, 0] == steps.reward[:, -1]).all() == ("window" in str(variant))


@pytest.mark.parametrize("variant", DPT, ids=str)
def test_histories_without_an_expert_are_refused(variant: Variant):
    agent, steps = variant.build(), lifetimes(count=9)._replace(extras={})
    one_line(
        lambda: agent.method.prepare_batch(steps, np.random.default_rng(0)),
        MissingColumnError,
        "dpt",
        "expert_action",
        "collect",
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("variant", DPT, ids=str)
def test_experts_may_act_in_every_space(kind: str, variant: Variant):
    agent = variant.build(kind)
    steps = agent.method.prepare_batch(lifetimes(kind, count=9), np.random.default_rng(0))
    assert all(torch.isfinite(term) for term in agent.method.loss(agent.method.tensors(steps)).values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "sets"}, ["layout='sets'", "steps, set, window"]),
        ({"layout": "set", "dynamics": True}, ["layout='set'", "predicts actions only"]),
        ({"layout": "window", "dynamics": True}, ["layout='window'", "use layout='steps'"]),
        ({"layout": 3}, ["layout='3'", "not a str"]),
    ],
    ids=str,
)
def test_bad_config(settings: dict, words: list[str]):
    one_line(lambda: DPTConfig(**settings), ValueError, *words)


class TestHistory:
    """`reset(history=...)`, for every method."""

    @pytest.mark.slow
    @pytest.mark.parametrize("variant", variants(), ids=str)
    @torch.no_grad()
    def test_acts_as_if_it_had_lived_the_history(self, variant: Variant):
        """Rows of different lengths, one of them empty; and goes on living like that, until the window slides."""
        steps = masked(lifetimes(count=30), 8, 0, 5)
        online, offline, length = variant.build(), variant.build(), np.array([8, 0, 5])
        online.reset(num_envs=3, seed=0)
        for t in range(8):
            online.policy(online.context, steps.obs[:, t], t < length)
            close(online, steps, np.full(3, t), t < length)
        history = steps.window(0, 10).map(np.copy)
        for name, padding in history.columns.items():
            if name != "mask":
                padding[~history.mask] = padding.max() + 90  # it may hold anything
        offline.reset(num_envs=3, history=history, seed=0)
        for t in range(12):
            obs = steps.obs[np.arange(3), length + t]
            wanted, found = (statistics(agent.policy(agent.context, obs)) for agent in (online, offline))
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            for agent in (online, offline):
                close(agent, steps, length + t)

    @pytest.mark.slow
    @pytest.mark.parametrize("variant", variants(), ids=str)
    def test_without_learning_only_the_history_and_the_step_before_count(self, variant: Variant):
        """However long the loop runs, and whatever happened in it earlier; but for the range of all rewards and, in
        methods that see one episode, the time that it has taken so far.
        """
        agent, steps, lived = variant.build(), lifetimes(count=30), lifetimes(count=30, seed=5)
        agent.reset(num_envs=3, history=steps.window(0, 6), learn=False, seed=0)
        base = agent.context.select(np.arange(3))
        for t in range(29):
            action = agent.act(lived.obs[:, t])
            ends = lived.terminated[:, t], lived.truncated[:, t]
            agent.observe(lived.next_obs[:, t], lived.reward[:, t], *ends, {})
            found = statistics(agent.policy(agent.context.select(np.arange(3)), lived.obs[:, t + 1]))
            alone = base.select(np.arange(3))
            for name in agent.method.extra_columns.keys() & UNSEEN.keys():
                extreme = {"reward_low": np.minimum, "reward_high": np.maximum}[name]
                rewards = np.concatenate([steps.reward[:, :6], lived.reward[:, : t + 1]], 1)
                alone.steps.extras[name][:, 6] = extreme.reduce(rewards, 1)
            alone.open(lived.obs[:, t])
            alone.advance_unrecorded(action, lived.reward[:, t], ends[0] | ends[1], np.ones(3, bool))
            if "timestep" in agent.method.extra_columns:
                parts = steps.window(0, 6), lived.window(0, t + 1)
                ended = np.concatenate([part.terminated | part.truncated for part in parts], 1)
                since = np.where(ended.any(1), ended[:, ::-1].argmax(1), ended.shape[1])
                alone.steps.extras["timestep"][:, 6] = since
            wanted = statistics(agent.policy(alone, lived.obs[:, t + 1]))
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            assert agent.context.length.tolist() == [6, 6, 6]

    def test_a_step_that_is_not_kept_is_followed_as_one_that_is(self):
        agent, steps = Variant("ad").build(), lifetimes(count=9)
        agent.reset(num_envs=3, history=steps.window(0, 3), seed=0)
        kept, not_kept = agent.context, agent.context.select(np.arange(3))
        live = np.array([True, False, True])
        for context in (kept, not_kept):
            context.open(steps.obs[:, 4])
        ends = steps.terminated[:, 4], np.array([True, True, False])
        kept.close(steps.action[:, 4], steps.reward[:, 4], steps.next_obs[:, 4], *ends, live)
        not_kept.advance_unrecorded(steps.action[:, 4], steps.reward[:, 4], ends[0] | ends[1], live)
        for name in ("prev_obs", "prev_action", "prev_reward", "first", "start"):
            mine, theirs = (getattr(c.steps, name)[np.arange(3), c.length] for c in (not_kept, kept))
            np.testing.assert_array_equal(mine, theirs)
        assert not_kept.length.tolist() == [3, 3, 3]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["ad", "dpt", "idt"])
    def test_released_agents_act_well_from_a_history_alone(self, name: str):
        """Three episodes of a noisy expert tell the goal, and nothing is learned beyond them."""
        agent, tasks = ICAgent.from_pretrained(f"icrl/{name}-darkroom"), split_tasks(ROOM).test.ids
        expert = make_source("noise", ROOM, {"start": 0.3, "end": 0.3})
        history = recorded(ROOM, expert, tasks, 3, 0)
        env = gymnasium.make_vec(ROOM, num_envs=len(tasks))
        obs, info = env.reset(seed=0, options={"task": tasks})
        agent.reset(env, seed=0, history=history, learn=False)
        earned = np.zeros(len(tasks))
        for _ in range(20):
            obs, reward, *ends, info = env.step(agent.act(obs))
            agent.observe(obs, reward, *ends, info)
            earned += reward
        assert earned.mean() > 0.9 * 17.25

    @pytest.mark.slow
    @pytest.mark.parametrize("variant", variants(), ids=str)
    def test_without_learning_actions_are_drawn_from_that_distribution(self, variant: Variant):
        agent, steps = variant.build(), lifetimes(rows=300, count=6)
        one = steps.rows(np.zeros(300, int))
        agent.reset(num_envs=300, history=one, learn=False, seed=0)
        obs = one.obs[:, 3]
        wanted = statistics(agent.policy(agent.context.select(np.arange(300)), obs)).exp().mean(0).numpy()
        count = np.bincount(agent.act(obs), minlength=5)
        np.testing.assert_allclose(count / 300, wanted, atol=0.12)

    @pytest.mark.slow
    @pytest.mark.parametrize("variant", DPT, ids=str)
    def test_the_latest_steps_of_a_long_history_stay(self, variant: Variant):
        """As many as the window holds beside the step to act in."""
        agent, short = variant.build(), variant.build()
        steps = masked(lifetimes(count=30), 30, 20, 3)
        agent.reset(num_envs=3, history=steps, learn=False)
        assert agent.context.length.tolist() == [8, 8, 3]
        seen = agent.context.visible()
        for row, (begin, end) in enumerate([(22, 30), (12, 20), (0, 3)]):
            part = steps.rows(slice(row, row + 1)).window(begin, end)
            for name, mine in seen.columns.items():
                np.testing.assert_array_equal(mine[row, : end - begin], part.columns[name][0], err_msg=name)
            short.reset(num_envs=1, history=part)
            wanted = statistics(short.policy(short.context, steps.obs[row : row + 1, 0]))[0]
            found = statistics(agent.policy(agent.context.select(np.arange(3)), steps.obs[:, 0]))[row]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("columns", [0, 4])
    @pytest.mark.parametrize("variant", variants(), ids=str)
    def test_a_history_without_steps_is_none(self, variant: Variant, columns: int):
        agent, obs, found = variant.build(), lifetimes(count=1).obs[:, 0], []
        for history in (None, masked(lifetimes(count=4), 0, 0, 0).window(0, columns)):
            agent.reset(num_envs=3, history=history, seed=0)
            found.append(statistics(agent.policy(agent.context, obs)))
        torch.testing.assert_close(*found)

    def test_what_is_given_stays_as_it_is(self):
        agent, steps = Variant("dpt").build(), lifetimes(count=8)
        copy = steps.map(np.copy)
        agent.reset(num_envs=3, history=steps, seed=0)
        for t in range(20):
            agent.act(steps.obs[:, t % 8])
            agent.observe(steps.obs[:, 0], np.ones(3), NONE, ~NONE, {})
        for mine, given in zip(steps.columns.values(), copy.columns.values(), strict=True):
            np.testing.assert_array_equal(mine, given)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"obs": 9}, ["history: obs", "outside [0, 0]..[8, 8]"]),
            ({"next_obs": -1}, ["history: next_obs", "outside"]),
            ({"action": 5}, ["history: action", "outside 0..4"]),
            ({"reward": np.nan}, ["history: reward", "NaN"]),
            ({"prev_obs": 9}, ["history: prev_obs", "outside [0, 0]..[8, 8]"]),
            ({"prev_action": 5}, ["history: prev_action", "outside 0..4"]),
            ({"prev_reward": np.nan}, ["history: prev_reward", "NaN"]),
        ],
        ids=str,
    )
    def test_values_outside_the_spaces_are_refused(self, change: dict, words: list[str]):
        """In a line that can be read, however long the history; and nothing is forgotten."""
        agent, steps = living("dpt"), lifetimes(count=30).map(np.copy)
        for name, value in change.items():
            getattr(steps, name)[1, 4] = value
        one_line(lambda: agent.reset(num_envs=3, history=steps), ValueError, *words)
        assert agent.context.length.tolist() == [2, 2, 2]
        agent.reset(num_envs=3, history=masked(steps, 30, 4, 30))  # padding may hold anything

    def test_other_shapes_are_refused(self):
        agent, steps = living("dpt"), lifetimes(count=30)
        one_line(
            lambda: agent.reset(num_envs=2, history=steps), ValueError, "history has 3 rows", "acts in 2", "one row"
        )
        one_line(lambda: agent.reset(history=steps), ValueError, "history has 3 rows", "acts in 1")
        flat = steps._replace(obs=steps.obs[..., 0])
        one_line(lambda: agent.reset(num_envs=3, history=flat), ValueError, "history: obs has shape")
        assert agent.context.length.tolist() == [2, 2, 2]

    @pytest.mark.parametrize("settings", [{"history": lifetimes(count=4)}, {"learn": False}], ids=["history", "learn"])
    def test_some_rows_alone_begin_with_nothing(self, settings: dict):
        agent = living("dpt")
        one_line(lambda: agent.reset(mask=~NONE, **settings), ValueError, "mask", "leave history and learn out")
        assert agent.context.length.tolist() == [2, 2, 2]


def living(method: str) -> ICAgent:
    """An agent that has lived two steps in each of three rows."""
    agent, steps = Variant(method).build(), lifetimes(count=2)
    agent.reset(num_envs=3, seed=0)
    for t in range(2):
        agent.act(steps.obs[:, t])
        agent.observe(steps.next_obs[:, t], steps.reward[:, t], NONE, NONE, {})
    return agent


def close(agent: ICAgent, steps: Steps, t: np.ndarray, live: np.ndarray = ~NONE) -> None:
    """Tell the agent what came of the steps `t` (B,)."""
    done = (getattr(steps, name)[np.arange(3), t] for name in ("action", "reward", "next_obs", "terminated"))
    agent.context.close(*done, steps.truncated[np.arange(3), t], live)
