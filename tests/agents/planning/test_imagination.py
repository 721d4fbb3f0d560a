"""What an agent imagines is what training predicts, and how far it may look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icrl_agents.agents.planning import imagination, plans
from icrl_agents.agents.planning.imagination import MethodImagination
from icrl_agents.agents.planning.plans import Decision
from icrl_agents.agents.planning.search import Outcome, Planner
from icrl_agents.core.steps import stack_steps
from icrl_agents.methods.base.context import UNKNOWN, Context
from icrl_agents.nn.transformer import Cache
from tests.agents.planning.scenarios import AD, DREAMERS, SEE_ALL, assert_same, extend, live, open_window, scripted
from tests.fakes import SPACES, Variant, close, lifetimes, statistics


def everything(value: Any) -> Iterator[np.ndarray]:
    """Copies of all arrays in it, however deep."""
    if isinstance(value, np.ndarray | Tensor):
        yield np.array(value.numpy() if isinstance(value, Tensor) else value)
    elif isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from everything(part)
    elif isinstance(value, Context | Cache) or hasattr(value, "__dataclass_fields__"):
        yield from everything(vars(value))


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 2, 5, 11, 18])
@pytest.mark.parametrize("kind", ["grid", "vector"])
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
@torch.no_grad()
def test_an_imagined_path_is_what_training_would_predict(variant: Variant, kind: str, count: int):
    """Three steps, in branches with common parents and rows of different lengths; IDT's as far as its chunk goes."""
    agent, steps, rng = variant.build(kind), lifetimes(kind, count=20), torch.Generator().manual_seed(count)
    agent.method.fit_normalization(agent.method.tensors(agent.method.prepare_batch(steps, np.random.default_rng(0))))
    hidden = live(agent, steps, count, forget=count - 3)
    cache, most = agent.method.branch(agent.context)
    dream = MethodImagination(agent.method, agent.context, rng)
    branch = dream.root(cache, hidden)
    windows, compared = [open_window(agent, row) for row in range(3)], 0
    for step in range(3):
        action = dream.propose(branch, 4).action
        outcome, imagined = dream.imagine(branch, action)
        parent = torch.randint(action.shape[1], (3, 5), generator=rng)
        choice = torch.randint(action.shape[2], (3, 5), generator=rng)
        branch = dream.follow(imagined, parent, choice)
        value, policy = dream.value(branch), statistics(agent.method.action.head(branch.hidden))
        for row in range(3):
            taken = row, parent[row], choice[row]
            new = action[taken], outcome.reward[taken], outcome.next_obs[taken]
            windows[row] = extend(windows[row].rows(parent[row]), *new)
            trained = agent.method.hidden(windows[row])
            if step <= most[row]:
                reward, next_obs = agent.method.outcomes(trained[:, -2, 0], action[taken])
                assert_same(outcome.expected[taken], reward.mode())
                compared += 1
                assert_same(outcome.next_obs[taken].float(), next_obs.mode().float())
            if step < most[row]:
                assert_same(value[row], agent.method.to_go.head(trained[:, -1, 0]).mode())
                assert_same(policy[row], statistics(agent.method.action.head(trained[:, -1, 0])))
    assert compared >= 3  # at least one step in every row


@torch.no_grad()
def test_the_likeliest_reward_is_one_that_the_row_has_seen(monkeypatch):
    agent, steps = AD.build(rewards="fixed"), lifetimes(count=9)
    agent.method.reward.outputs.weight *= 5
    agent.method.reward.outputs.bias += 4.2
    hidden = live(agent, steps, 5, forget=3)
    action = torch.arange(5).expand(3, 1, -1)

    def imagine() -> Outcome:
        dream = MethodImagination(agent.method, agent.context)
        return dream.imagine(dream.root(agent.context.memory, hidden), action)[0]

    outcome = imagine()
    for row, begin in enumerate((0, 3, 0)):
        seen = torch.as_tensor(np.append(steps.reward[row, begin:5], np.float32(0)))
        wanted = seen[(outcome.expected[row, 0, :, None] - seen).abs().argmin(-1)]
        assert torch.equal(outcome.reward[row, 0], wanted)
    assert len(outcome.reward.unique()) > 3
    monkeypatch.setattr(imagination, "MAX_REWARDS", 5)  # too many are different to be all there is, but in row 1
    many = imagine().reward
    assert torch.equal(many[[0, 2]], outcome.expected[[0, 2]])
    assert torch.equal(many[1], outcome.reward[1])
    monkeypatch.setattr(imagination, "MAX_REWARDS", 1)
    assert torch.equal(imagine().reward, outcome.expected)


@pytest.mark.slow
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
@torch.no_grad()
def test_planning_changes_nothing_that_is_known(variant: Variant):
    agent, planner = variant.build(), Planner(**SEE_ALL)
    for count in (0, 4, 12):
        hidden = live(agent, lifetimes(count=20), count, forget=count - 2)
        before, policy = list(everything(agent.context)), agent.method.action.head(hidden).mode()
        agent.session.plans.choose(agent.method, planner, Decision(agent.context, hidden, policy, np.ones(3, bool)))
        after = list(everything(agent.context))
        assert len(before) >= 15  # ten columns, the lengths, a cache
        assert all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
@torch.no_grad()
def test_rows_are_planned_the_same_in_any_company(variant: Variant, monkeypatch):
    """All at once, two at a time, and without those that a vector environment is resetting."""
    agent, planner = variant.build(), Planner(**SEE_ALL)
    hidden = live(agent, lifetimes(rows=5, count=20), 11, forget=8)
    nothing = torch.full((5,), -1)

    def plan(alive: list[bool]) -> list[int]:
        decision = Decision(agent.context, hidden, nothing, np.array(alive))
        return agent.session.plans.choose(agent.method, planner, decision).tolist()

    together = plan([True] * 5)
    assert -1 not in together
    monkeypatch.setattr(plans, "ROWS", 2)
    assert plan([True] * 5) == together
    assert plan([False, True, True, False, True]) == [-1, *together[1:3], -1, together[4]]
    assert plan([False] * 5) == [-1] * 5
    planner, asked = scripted(when="always")
    assert plan([False, True, True, False, True]) == [-1, 0, 0, -1, 0]
    assert sum(len(left) for left, _ in asked) == 3  # others are not even searched


# ---- steps left -------------------------------------------------------------------------------------------------


def context_of(*rows: list[int], window: int = 20) -> Context:
    """Rows with episodes of these lengths, of which the last one is still running."""
    context = Context.empty(len(rows), window, *SPACES["grid"])
    ended = [np.cumsum(lengths[:-1]) - 1 for lengths in rows]
    for t in range(max(sum(lengths) for lengths in rows)):
        live = np.array([t < sum(lengths) for lengths in rows])
        ends = np.array([t in own for own in ended])
        obs, action = np.full((len(rows), 2), t), np.zeros(len(rows))
        context.open(obs)
        context.close(action, action, obs, ends & (t % 2 > 0), ends & (t % 2 == 0), live)
    return context


@pytest.mark.parametrize(
    ("lengths", "drop", "left"),
    [
        ([0], 0, UNKNOWN),
        ([3], 0, UNKNOWN),  # no episode was seen to its end
        ([4, 0], 0, 4),
        ([4, 1], 0, 3),
        ([4, 3], 0, 1),
        ([4, 4], 0, UNKNOWN),  # longer already
        ([4, 7], 0, UNKNOWN),
        ([3, 6, 2, 1], 0, 5),  # as long as the longest
        ([1, 1, 0], 0, 1),
        ([6, 4, 1], 2, 3),  # the first one's beginning is gone
        ([6, 4, 1], 6, 3),
        ([4, 1], 1, UNKNOWN),
        ([4, 6, 5], 5, UNKNOWN),
        ([4, 5], 6, UNKNOWN),  # the running one's beginning is gone
    ],
)
def test_steps_left(lengths: list[int], drop: int, left: int):
    context = context_of(lengths, [2, 5, 1], [9])  # in the company of rows of other lengths
    if drop:
        context.drop(np.array([0]), drop)
    assert context.steps_left().tolist() == [left, 4, UNKNOWN]
    assert context_of([2, 5, 1], lengths).steps_left()[1] == (left if not drop else context_of(lengths).steps_left())


@pytest.mark.slow
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
def test_steps_left_while_the_window_slides(variant: Variant):
    """Against the lifetimes themselves, as far as they are visible."""
    agent, steps, known = variant.build(), lifetimes(count=60, ends=0.3), 0
    agent.reset(num_envs=3, seed=0)
    for t in range(60):
        agent.method.encode(agent.context, steps.obs[:, t])
        for row, left in enumerate(agent.context.steps_left()):
            seen = agent.context.length[row]
            begun = np.flatnonzero(steps.first[row, t - seen : t + 1])
            most, now = max(np.diff(begun), default=0), seen - begun.max(initial=-UNKNOWN)
            assert left == (most - now if most > now else UNKNOWN)
            known += left != UNKNOWN
        close(agent, steps, t)
    assert 30 < known < 170


@pytest.mark.slow
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
def test_a_search_is_told_how_far_it_may_look(variant: Variant):
    """In episodes of 4 steps; IDT to the last step of its chunk of 3, and at that one a step without a value."""
    steps = lifetimes(rows=1, count=24, ends=0.0)
    no = np.zeros((1, 24), bool)
    steps = stack_steps(steps.obs, steps.action, steps.reward, steps.next_obs, no, np.arange(24)[None] % 4 == 3)
    planner, asked = scripted(when="always")
    agent = variant.build()
    agent.reset(num_envs=1, seed=0, autoreset_mode="Disabled")
    for t in range(24):
        agent.act(steps.obs[:, t], plan=planner)
        left, ends = (x.item() for x in asked[-1])
        step = t % 4
        chunk = 2 - step % 3 if variant.method == "idt" else UNKNOWN
        rest = 4 - step if t >= 4 else UNKNOWN
        assert (left, ends) == (min(rest, max(chunk, 1)), chunk == 0 or rest <= min(chunk, 4))
        rest = (getattr(steps, name)[:, t] for name in ("next_obs", "reward", "terminated", "truncated"))
        agent.observe(*rest)
