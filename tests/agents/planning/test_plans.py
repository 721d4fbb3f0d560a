"""Planning: the search on worlds that are known exactly, then what an agent imagines, then when it is heard."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning import imagination, plans
from icrl_agents.agents.planning.imagination import Branch, MethodImagination
from icrl_agents.agents.planning.plans import Decision
from icrl_agents.agents.planning.search import PLANNERS, Outcome, Path, Planner, Proposal, SearchResult, make_planner
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.context import UNKNOWN, Context
from icrl_agents.nn.fork import Fork
from icrl_agents.nn.transformer import Cache, Transformer
from tests.conftest import one_line
from tests.fakes import SMALL, SPACES, Variant, lifetimes, statistics, variants

DREAMERS = [
    variant
    for variant in variants()
    if dict(variant.settings).get("dynamics") and not METHODS[variant.method].has_memory  # see test_cad.py
]
AD = Variant("ad", (("dynamics", True),))
WIDE = {"prior": 0.0, "merge": False, "branches": 9, "when": "always"}
SEE_ALL = {"depth": 3, "width": 6, "when": "always"}


# ---- worlds that are known exactly ------------------------------------------------------------------------------


class World(NamedTuple):
    """B deterministic tabular worlds of S states."""

    next: Tensor  # (B, S, A) int64
    reward: Tensor  # (B, S, A)
    expected: Tensor  # (B, S, A) differs from the reward, as a model's may
    log_prob: Tensor  # (B, S, A)
    value: Tensor  # (B, S)

    @classmethod
    def random(cls, rows: int, states: int = 5, actions: int = 3, seed: int = 0) -> World:
        rng = torch.Generator().manual_seed(seed)
        shape = rows, states, actions
        reward, expected = (torch.randint(-3, 4, shape, generator=rng).float() for _ in range(2))
        log_prob = torch.randn(shape, generator=rng).log_softmax(-1)
        value = torch.randint(-5, 6, shape[:2], generator=rng).float()
        return cls(torch.randint(states, shape, generator=rng), reward, expected, log_prob, value)

    @classmethod
    def grid(cls, rows: int = 1, size: int = 9) -> World:
        """Darkroom without a goal, all actions equally likely."""
        cell = torch.arange(size * size)
        moves = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
        place = (torch.stack([cell // size, cell % size], -1)[:, None] + moves).clamp(0, size - 1)  # (S, A, 2)
        following = (place[..., 0] * size + place[..., 1]).expand(rows, -1, -1)
        nothing = torch.zeros(following.shape)
        return cls(following, nothing, nothing, nothing.log_softmax(-1), nothing[..., 0])

    @classmethod
    def choice(cls, rows: int, probabilities: list[float]) -> World:
        """One state in which nothing is ever earned."""
        nothing = torch.zeros(rows, 1, len(probabilities))
        log_prob = torch.tensor(probabilities).log().expand_as(nothing)
        return cls(nothing.long(), nothing, nothing, log_prob, nothing[..., 0])


class Tabular:
    """The exact `Imagination` of such worlds; a branch is its state. It remembers what it was asked."""

    def __init__(self, world: World, obs_dims: int = 1):
        self.world, self.obs_dims = world, obs_dims
        self.rows = torch.arange(len(world.next))[:, None]
        self.actions: list[Tensor] = []  # (B, W, A) of every `imagine`
        self.kept: list[tuple[Tensor, Tensor]] = []  # parents and choices (B, V) of every `follow`

    def propose(self, ctx: Tensor, count: int) -> Proposal:
        log_prob, action = self.world.log_prob[self.rows, ctx].sort(dim=-1, stable=True, descending=True)
        if count >= log_prob.shape[-1]:  # all of them, in their own order
            log_prob, action = log_prob.gather(-1, action.argsort(-1)), action.sort(-1).values
        return Proposal(action[..., :count], log_prob[..., :count])

    def imagine(self, ctx: Tensor, action: Tensor) -> tuple[Outcome, Tensor]:
        self.actions.append(action)
        here = self.rows[..., None], ctx[..., None], action
        state = self.world.next[here]
        obs = state[(..., *[None] * self.obs_dims)]
        return Outcome(self.world.expected[here], self.world.reward[here], obs), state

    def follow(self, imagined: Tensor, parent: Tensor, choice: Tensor) -> Tensor:
        self.kept.append((parent, choice))
        return imagined[self.rows, parent, choice]

    def value(self, ctx: Tensor) -> Tensor:
        return self.world.value[self.rows, ctx]

    def survivors(self, row: int = 0) -> list[list[int]]:
        """The first action, in the order tried, of every branch kept after each step."""
        first, found = None, []
        for parent, choice in self.kept:
            first = choice[row] if first is None else first[parent[row]]
            found.append(first.tolist())
        return found


def search(planner: Planner, world: World, left: Any = 1000, ends: Any = False, seed: int = 0) -> SearchResult:
    """From state 0 of every world."""
    rows = len(world.next)
    left, ends = (torch.as_tensor(x).expand(rows) for x in (left, ends))
    generator = torch.Generator().manual_seed(seed)
    return planner.search(Tabular(world), torch.zeros(rows, 1, dtype=torch.long), left, ends, generator)


def watch(
    planner: Planner, world: World, left: int = 1000, seed: int = 0, start: int = 0
) -> tuple[Tabular, SearchResult]:
    """`search`, and what it asked for."""
    asked, rows = Tabular(world), len(world.next)
    ctx, left_rows = torch.full((rows, 1), start), torch.full((rows,), left)
    ends, generator = torch.zeros(rows, dtype=torch.bool), torch.Generator().manual_seed(seed)
    return asked, planner.search(asked, ctx, left_rows, ends, generator)


def brute_force(planner: Planner, world: World, depth: int, value: bool) -> Tensor:
    """(B, A) the most that any sequence of `depth` actions earns from state 0, by its first action."""
    rows, actions = torch.arange(len(world.next)), world.next.shape[2]
    best = torch.full((len(rows), actions), -torch.inf)
    for sequence in itertools.product(range(actions), repeat=depth):
        state, total = torch.zeros_like(rows), torch.zeros(len(rows))
        for action in sequence:
            reward = world.expected if planner.expected else world.reward
            total += reward[rows, state, action] + planner.prior * world.log_prob[rows, state, action]
            state = world.next[rows, state, action]
        total += world.value[rows, state] if value else 0.0
        best[:, sequence[0]] = torch.maximum(best[:, sequence[0]], total)
    return best


def earned(found: SearchResult, best: Tensor) -> Tensor:
    """(B,) of the first actions found."""
    return best.gather(1, found.action[:, None])[:, 0]


def replay(planner: Planner, world: World, found: SearchResult, value: Tensor) -> Tensor:
    """(B,) what the paths earn that were found, with the return still to come in the rows `value` (B,)."""
    rows = torch.arange(len(world.next))
    state, total = torch.zeros_like(rows), torch.zeros(len(rows))
    for step, (action, reward, obs) in enumerate(zip(*(x.unbind(1) for x in found.path), strict=True)):
        real, here = step < found.length, (rows, state, action)
        assert torch.equal(reward[real], world.reward[here][real])
        gain = (world.expected if planner.expected else world.reward)[here] + planner.prior * world.log_prob[here]
        total, state = total + real * gain, torch.where(real, world.next[here], state)
        assert torch.equal(obs[:, 0], state)  # over, it repeats the last one
    return total + value * world.value[rows, state]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_wide_beam_equals_brute_force(depth: int, expected: bool, value: bool):
    planner = Planner(**{**WIDE, "depth": depth, "width": 3**depth, "expected": expected, "value": value})
    world = World.random(80, seed=depth)
    best = brute_force(planner, world, depth, value)
    found = search(planner, world)
    assert torch.equal(earned(found, best), best.amax(1))
    clear = best.sort(1).values.diff(dim=1)[:, -1] > 0
    assert clear.sum() > 30
    assert (found.action == best.argmax(1))[clear].all()
    assert torch.equal(replay(planner, world, found, torch.tensor(value)), best.amax(1))


@pytest.mark.parametrize("prior", [0.0, 0.7])
@pytest.mark.parametrize("depth", [2, 4, 6])
def test_merging_needs_no_more_branches_than_there_are_states(depth: int, prior: float):
    planner = Planner(**{**WIDE, "depth": depth, "width": 5, "merge": True, "prior": prior})
    world = World.random(80, seed=depth)
    best = brute_force(planner, world, depth, True)
    found = search(planner, world)
    torch.testing.assert_close(earned(found, best), best.amax(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(replay(planner, world, found, torch.tensor(True)), best.amax(1), atol=1e-5, rtol=0)
    narrow = earned(search(make_planner(planner, {"merge": False}), world), best)
    assert depth == 2 or (narrow < best.amax(1) - 1e-5).any()  # without merging as many are too few


def test_a_branch_that_imagines_the_same_is_kept_once_the_better_one():
    world = World.random(40, states=4, seed=3)
    planner = Planner(**{**WIDE, "depth": 5, "width": 50, "merge": True})
    asked, _ = watch(planner, world)
    assert [action.shape[1] for action in asked.actions][2:] == [4, 4, 4]  # as many branches as states


@pytest.mark.parametrize("obs_dims", [0, 1, 2])
def test_merging_takes_observations_of_any_shape(obs_dims: int):
    world, planner = World.random(20), Planner(**{**WIDE, "depth": 4, "width": 5, "merge": True})
    asked = Tabular(world, obs_dims)
    start, left = torch.zeros(20, 1, dtype=torch.long), torch.full((20,), 9)
    found = planner.search(asked, start, left, torch.zeros(20, dtype=torch.bool), torch.Generator())
    best = brute_force(planner, world, 4, True)
    assert torch.equal(earned(found, best), best.amax(1))


@pytest.mark.parametrize("merge", [True, False])
def test_every_row_is_planned_with_its_own_depth_and_end(merge: bool):
    """The return still to come counts unless the episode ends within the row's depth."""
    planner = Planner(**{**WIDE, "depth": 4, "width": 81, "merge": merge})
    row = torch.arange(280)
    left, ends, world = row % 7, row % 2 > 0, World.random(280, seed=1)
    found = search(planner, world, left, ends)
    best, other = torch.zeros(len(left), 3), torch.zeros(len(left), 3)
    for depth, value in itertools.product(range(1, 5), (True, False)):
        rows = (left.clamp(1, 4) == depth) & ((ends & (left <= 4)) != value)
        best[rows] = brute_force(planner, world, depth, value)[rows]
        other[rows] = brute_force(planner, world, depth, not value)[rows]
    assert torch.equal(earned(found, best), best.amax(1))
    assert torch.equal(found.length, left.clamp(1, 4))
    assert torch.equal(replay(planner, world, found, ~(ends & (left <= 4))), best.amax(1))
    for over in (ends & (left <= 4), ~ends, left > 4):  # the value would have changed what is best, both ways
        assert (earned(found, other) < other.amax(1))[over].any()


def test_a_row_does_not_notice_the_others():
    """With a narrow beam, which depends on everything; the prior leaves no ties."""
    planner, world = Planner(depth=5, width=2, branches=2, when="always", prior=0.3), World.random(40, states=7)
    left = torch.arange(40) % 7
    together = search(planner, world, left)
    alone = [search(planner, World(*(x[row : row + 1] for x in world)), left[row]) for row in range(40)]
    assert together.action.tolist() == [int(found.action) for found in alone]
    assert together.known.tolist() == [bool(found.known) for found in alone]


def test_the_prior_is_worth_return():
    world = World.choice(1, [0.7, 0.2, 0.1])
    world.reward[:, :, 2] = world.expected[:, :, 2] = 1.0
    for prior, action in ((0.0, 2), (0.4, 2), (0.6, 0)):  # log 0.7 - log 0.1 = 1.95, so 1 is worth 0.51 a nat
        planner = Planner(depth=1, when="always", prior=prior)
        assert search(planner, world).action.tolist() == [action]


def test_a_search_is_known_if_likely_rewards_differ_within_its_depth():
    """Whatever is expected, and whatever the value says."""
    world = World.random(30, seed=2)
    flat = world._replace(reward=torch.full_like(world.reward, 2.0))
    planner = Planner(**{**WIDE, "depth": 3, "width": 27})
    assert not search(planner, flat).known.any()
    corridor = World.grid(2, size=5)
    corridor.reward[1, 12, 4] = 1.0  # for staying in the middle; all begin in a corner, four moves from there
    asked = Planner(**{**WIDE, "depth": 9, "width": 25, "merge": True})
    assert search(asked, corridor, left=5).known.tolist() == [False, True]
    assert search(asked, corridor, left=4).known.tolist() == [False, False]
    assert search(asked, corridor, left=torch.tensor([9, 4])).known.tolist() == [False, False]


# ---- the published settings -------------------------------------------------------------------------------------


def test_equal_first_actions_are_tried_in_the_order_of_the_policys_draws():
    """Without replacement: the first is drawn with p, the second from what is left."""
    probabilities, rows, counts = [0.6, 0.3, 0.1], 2000, Counter()
    world = World.choice(rows, probabilities)
    for seed in range(20):
        asked, found = watch(PLANNERS["beam"], world, seed=seed)
        order = asked.actions[0][:, 0]
        assert torch.equal(found.action, order[:, 0])  # nothing is earned, so the first one stays
        counts.update(map(tuple, order.tolist()))
    for order in itertools.permutations(range(3)):
        first, second = (probabilities[i] for i in order[:2])
        assert counts[order] / (20 * rows) == pytest.approx(first * second / (1 - first), abs=0.01)


def test_the_generator_decides_on_ties():
    world = World.choice(200, [0.4, 0.4, 0.2])
    one, same, other = (search(PLANNERS["beam"], world, seed=seed).action.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_published_ties_collapse_to_the_first_actions_drawn():
    """Where nothing is earned: dicp's ranking keeps descendants of two first actions, then of one."""
    asked, _ = watch(PLANNERS["beam"], World.grid(), start=40)
    assert asked.survivors()[:3] == [[0, 1, 2, 3, 4], [0] * 5 + [1] * 5, [0] * 10]
    for parent, choice in asked.kept[1:]:  # by index below the root
        assert (parent[0].tolist(), choice[0].tolist()) == ([0] * 5 + [1] * 5, [0, 1, 2, 3, 4] * 2)
    assert all(torch.equal(action, torch.arange(5).expand_as(action)) for action in asked.actions[1:])
    assert sorted(asked.actions[0].flatten().tolist()) == [0, 1, 2, 3, 4]


def test_merging_keeps_more_first_actions():
    planner = make_planner("lookahead", {"width": 10, "branches": 5})
    for seed in range(5):
        asked, _ = watch(planner, World.grid(), start=40, seed=seed)
        assert len(set(asked.survivors()[1])) > 2


def test_the_published_beam_imagines_as_many_sequences_as_published():
    """331 with the root's, and 262.25 averaged over an episode of 20 steps."""

    def sequences(left: int) -> int:
        asked, _ = watch(PLANNERS["beam"], World.grid(), left=left, start=40)
        return 1 + sum(action.numel() for action in asked.actions)

    assert sequences(20) == 331
    assert np.mean([sequences(left) for left in range(1, 21)]) == 262.25


# ---- forks of a cache -------------------------------------------------------------------------------------------


@pytest.fixture
def body() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(16, layers=2, heads=2, inner=24).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize("lengths", [[5, 5, 5], [2, 7, 0], [7, 1, 7]])
@torch.no_grad()
def test_a_branch_equals_its_whole_sequence(body: Transformer, lengths: list[int]):
    """Also where parents are repeated or dropped, and beyond the cache's capacity."""
    rng = torch.Generator().manual_seed(1)
    prefix, cache = torch.randn(3, 7, 16, generator=rng), body.make_cache(3, 7)
    body(prefix, cache)
    cache.advance(torch.tensor(lengths))
    before = [x.clone() for x in (cache.keys, cache.values, cache.lengths)]
    fork = Fork.of(cache)
    own = [[prefix[row : row + 1, :length]] for row, length in enumerate(lengths)]  # whole sequences of each branch
    for branches, alternatives in ((4, 3), (2, 5), (6, 1), (6, 2), (1, 4)):
        x = torch.randn(3, len(own[0]), alternatives, 16, generator=rng)
        out = fork.feed(body, x)
        for row, branch, choice in itertools.product(range(3), range(len(own[0])), range(alternatives)):
            whole = torch.cat([own[row][branch], x[row, branch, choice][None, None]], 1)
            torch.testing.assert_close(out[row, branch, choice], body(whole)[0, -1], atol=1e-5, rtol=1e-5)
        parent = torch.randint(len(own[0]), (3, branches), generator=rng)
        choice = torch.randint(alternatives, (3, branches), generator=rng)
        fork = fork.grow(parent, choice)
        own = [
            [torch.cat([own[r][p], x[r, p, c][None, None]], 1) for p, c in zip(parent[r], choice[r], strict=True)]
            for r in range(3)
        ]
    for now, then in zip((cache.keys, cache.values, cache.lengths), before, strict=True):
        assert torch.equal(now, then)


@torch.no_grad()
def test_what_is_fed_is_not_kept(body: Transformer):
    rng = torch.Generator().manual_seed(1)
    cache, x, other = body.make_cache(2, 4), *torch.randn(2, 2, 1, 3, 16, generator=rng)
    fork = Fork.of(cache)
    first = fork.feed(body, x)
    fork.feed(body, other)
    assert torch.equal(fork.feed(body, x), first)
    fork.feed(body, other)
    chosen = torch.zeros(2, 1, dtype=torch.long), torch.full((2, 1), 2)
    expected = body(torch.cat([other[:, :, 2], x[:, :, 0]], 1))[:, -1]
    torch.testing.assert_close(fork.grow(*chosen).feed(body, x)[:, 0, 0], expected, atol=1e-5, rtol=1e-5)


# ---- what an agent imagines -------------------------------------------------------------------------------------


def live(agent: ICAgent, steps: Steps, count: int, forget: int | None = None) -> Tensor:
    """Live `count` steps, in which row 1 begins anew at step `forget`; the hidden vectors at the step after them."""
    agent.reset(num_envs=len(steps.mask), seed=0)
    context = agent.context
    for t in range(count):
        if t == forget:
            agent.reset(mask=np.arange(len(steps.mask)) == 1)
        agent.method.encode(context, steps.obs[:, t])
        rest = (getattr(steps, name)[:, t] for name in ("action", "reward", "next_obs", "terminated", "truncated"))
        context.close(*rest, np.ones(len(steps.mask), bool))
    return agent.method.encode(context, steps.obs[:, count])


def open_window(agent: ICAgent, row: int) -> Steps:
    """The visible steps (1, T) of a row as tensors, the open one last."""
    context = agent.context
    steps = context.steps.rows(slice(row, row + 1)).window(0, int(context.length[row]) + 1)
    return agent.method.tensors(steps._replace(mask=np.ones_like(steps.mask), extras={}))


def extend(steps: Steps, action: Tensor, reward: Tensor, next_obs: Tensor) -> Steps:
    """Close the last of the steps (W, T) and open the next one in the same episode."""
    for mine, given in ((steps.action, action), (steps.reward, reward), (steps.next_obs, next_obs)):
        mine[:, -1] = given
    no = torch.zeros_like(reward, dtype=torch.bool)
    new = Steps(next_obs, steps.obs[:, -1], action, reward, no, no, action, reward, next_obs, no, no, ~no).columns
    return Steps(**{name: torch.cat([x, new[name][:, None]], 1) for name, x in steps.columns.items()})


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def everything(value: Any) -> Iterator[np.ndarray]:
    """Copies of all arrays in it, however deep."""
    if isinstance(value, np.ndarray | Tensor):
        yield np.array(value.numpy() if isinstance(value, Tensor) else value)
    elif isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from everything(part)
    elif isinstance(value, Context | Cache) or hasattr(value, "__dataclass_fields__"):
        yield from everything(vars(value))


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
    dream, branch = MethodImagination(agent.method, agent.context, rng), Branch(Fork.of(cache), hidden[:, None])
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
                assert_same(outcome.expected[taken], agent.method.reward.head(trained[:, -2, 1]).mode())
                compared += 1
                assert_same(outcome.next_obs[taken].float(), agent.method.obs.head(trained[:, -2, 1]).mode().float())
            if step < most[row]:
                assert_same(value[row], agent.method.to_go.head(trained[:, -1, 0]).mode())
                assert_same(policy[row], statistics(agent.method.action.head(trained[:, -1, 0])))
    assert compared >= 3  # at least one step in every row


@torch.no_grad()
def test_the_likeliest_reward_is_one_that_the_row_has_seen(monkeypatch):
    agent, steps = AD.build(), lifetimes(count=9)
    agent.method.reward.outputs.weight *= 5
    agent.method.reward.outputs.bias += 4.2
    hidden = live(agent, steps, 5, forget=3)
    action = torch.arange(5).expand(3, 1, -1)

    def imagine() -> Outcome:
        dream = MethodImagination(agent.method, agent.context)
        return dream.imagine(Branch(Fork.of(agent.context.memory), hidden[:, None]), action)[0]

    outcome = imagine()
    for row, begin in enumerate((0, 3, 0)):
        seen = torch.as_tensor(np.append(steps.reward[row, begin:5], np.float32(0)))
        wanted = seen[(outcome.expected[row, 0, :, None] - seen).abs().argmin(-1)]
        assert torch.equal(outcome.reward[row, 0], wanted)
    assert len(outcome.reward.unique()) > 3
    monkeypatch.setattr(imagination, "MAX_REWARDS", 5)  # too many are different to be all there is
    assert torch.equal(imagine().reward, outcome.expected)


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


# ---- when a planner is heard ------------------------------------------------------------------------------------


def scripted(action: int = 0, known: bool = True, **settings: Any) -> tuple[Planner, list[tuple[Tensor, Tensor]]]:
    """A planner that always finds `action`, and the list of what `left` and `ends` it is asked with."""
    asked = []

    class Scripted(Planner):
        def search(self, imagination: Any, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None) -> SearchResult:
            asked.append((left, ends))
            path = Path(
                torch.full((len(left), 1), action), torch.zeros(len(left), 1), torch.zeros(len(left), 1, 2).long()
            )
            return SearchResult(path, torch.ones_like(left), torch.full_like(ends, known))

    return Scripted(**settings), asked


def alike(kind: str = "grid", count: int = 4, rewards: Any = (0, 1, 2), **changes: Any) -> tuple[ICAgent, Steps]:
    """An agent in three rows of `count` steps, in which only step 1 is rewarded; and all the steps."""
    agent, steps = AD.build(kind, **changes), lifetimes(kind, count=count + 1)
    reward = np.zeros_like(steps.reward)
    reward[:, 1] = rewards
    steps = steps._replace(reward=reward)
    agent.reset(num_envs=3, seed=5, history=steps.window(0, count))
    return agent, steps


def test_a_row_without_a_reward_acts_as_without_a_planner():
    planner, asked = scripted(action=-1)
    agent, steps = alike()
    policy = agent.act(steps.obs[:, 4], plan=None)
    agent, steps = alike()
    assert agent.act(steps.obs[:, 4], plan=planner).tolist() == [policy[0], -1, -1]
    assert [len(left) for left, _ in asked] == [2]  # not even searched


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("variant", DREAMERS, ids=str)
def test_who_never_saw_a_reward_never_plans(variant: Variant, deterministic: bool):
    """Whole lifetimes of sampled actions are the same."""
    steps, lived = lifetimes(count=25), []
    for plan in (None, "lookahead"):
        agent, actions = variant.build(), []
        agent.use_plan(plan, plan and {"trust": 0.0})
        agent.reset(num_envs=3, seed=1)
        for t in range(25):
            actions.append(agent.act(steps.obs[:, t], deterministic).tolist())
            ends = steps.terminated[:, t], steps.truncated[:, t]
            agent.observe(steps.next_obs[:, t], np.zeros(3, np.float32), *ends, {})
        lived.append(actions)
    assert lived[0] == lived[1]
    assert len({tuple(actions) for actions in lived[0]}) > 1


@pytest.mark.parametrize(("when", "known", "heard"), [("known", False, False), ("known", True, True),
                                                      ("always", False, True)])  # fmt: skip
def test_a_search_that_knows_nothing_is_not_heard(when: str, known: bool, heard: bool):
    agent, steps = alike(count=8, rewards=1)
    policy = agent.act(steps.obs[:, 8], plan=None).tolist()
    agent, steps = alike(count=8, rewards=1)
    planner, asked = scripted(-1, known, when=when)
    assert agent.act(steps.obs[:, 8], plan=planner).tolist() == ([-1] * 3 if heard else policy)
    assert len(asked) == 1


@torch.no_grad()
def test_equal_rewards_ahead_leave_the_policy_alone():
    """All rows have seen one, but none of their actions is likelier to earn it than others."""
    found = {}
    for plan in (None, "lookahead"):
        agent, steps = alike(rewards=1)
        agent.method.reward.outputs.weight.zero_()
        found[plan] = agent.act(steps.obs[:, 4], plan=plan).tolist()
    assert found[None] == found["lookahead"]


def follower(rows: int, follow: int, count: int = 4, known: bool = True) -> tuple[ICAgent, list[int]]:
    """An agent whose planner wants actions 1, 2, 3, ... through cells (1, 1), (2, 2), ... and a reward for the second.

    Also the list of how many rows it is asked to search.
    """
    asked = []

    class Scripted(Planner):
        def search(self, imagination: Any, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None) -> SearchResult:
            asked.append(len(left))
            action = torch.arange(1, 5).expand(len(left), 4)
            path = Path(action, (action == 2).float(), action[..., None].expand(-1, -1, 2))
            return SearchResult(path, torch.full_like(left, count), torch.full_like(ends, known))

    agent = AD.build()
    agent.use_plan(Scripted(follow=follow, when="known" if not known else "always"))
    agent.reset(num_envs=rows, seed=0, autoreset_mode="Disabled")
    return agent, asked


def observe(agent: ICAgent, cells: list[int], reward: Any = 0.0, ended: Any = False) -> np.ndarray:
    """What came of the action; the next obs (B, 2)."""
    obs = np.repeat(np.array(cells, np.int32)[:, None], 2, 1)
    reward, ended = (np.broadcast_to(np.asarray(x), len(obs)) for x in (np.float32(reward), ended))
    agent.observe(obs, reward, np.zeros(len(obs), bool), ended, {})
    return obs


@pytest.mark.parametrize(("follow", "count", "searched"), [(1, 4, 6), (2, 4, 3), (3, 4, 2), (9, 4, 2), (9, 2, 3)])
def test_a_plan_is_followed_as_long_as_it_comes_true(follow: int, count: int, searched: int):
    """For `follow` steps, or to its end; in all rows alike."""
    agent, asked = follower(2, follow, count)
    steps, cells = min(follow, count), [0, 0]
    for t in range(6):
        wanted = t % steps + 1
        action = agent.act(np.repeat(np.array(cells, np.int32)[:, None], 2, 1))
        assert action.tolist() == [wanted] * 2
        cells = [wanted] * 2
        observe(agent, cells, wanted == 2)
    assert asked == [2] * searched


def test_a_plan_is_given_up_where_it_does_not_come_true():
    """Another obs, another reward, the end of the episode, a new task."""
    agent, asked = follower(5, 4)
    assert agent.act(observed := np.zeros((5, 2), np.int32)).tolist() == [1] * 5
    observed = observe(agent, [1, 3, 1, 1, 1], [0, 0, 0.5, 0, 0], np.arange(5) == 3)
    agent.reset(mask=np.arange(5) == 4)
    assert agent.act(observed).tolist() == [2, 1, 1, 1, 1]
    assert asked == [5, 4]
    observed = observe(agent, [2, 1, 1, 1, 1], [1, 0, 0, 0, 0])
    assert agent.act(observed).tolist() == [3, 2, 2, 2, 2]
    assert asked == [5, 4]


def test_what_is_not_heard_is_not_followed():
    agent, asked = follower(1, 4, known=False)
    obs = np.zeros((1, 2), np.int32)
    for cell in (1, 2, 3, 4):
        agent.act(obs)
        obs = observe(agent, [cell], 1.0 if cell < 3 else 0.0)
    assert asked == [1, 1, 1]  # once a reward was seen


def test_nobody_follows_the_plan_of_another_planner():
    agent, _ = follower(1, 4)
    planner, asked = scripted(-1, when="always")
    agent.act(np.zeros((1, 2), np.int32))
    assert agent.act(observe(agent, [1]), plan=planner).tolist() == [-1]
    assert len(asked) == 1


@pytest.mark.parametrize("variant", DREAMERS, ids=str)
def test_full_is_silent_until_the_window_is_full(variant: Variant):
    """And from then on it is heard, however few steps are left after a slide."""
    planner, asked = scripted(-1, known=False, when="full")
    agent, steps, heard = variant.build(), lifetimes(count=25), []
    agent.method.on_action = lambda *given: None  # what the script wants is no action
    agent.use_plan(planner)
    agent.reset(num_envs=3, seed=0, autoreset_mode="Disabled")
    for t in range(25):
        action = agent.act(steps.obs[:, t])
        heard.append((action == -1).tolist())
        assert heard[-1] == [t >= 9] * 3
        agent.session.acted = steps.action[:, t]  # what the script wants is no action
        rest = (getattr(steps, name)[:, t] for name in ("next_obs", "reward", "terminated", "truncated"))
        agent.observe(*rest)
    assert sum(len(left) for left, _ in asked) == np.sum(heard)
    assert heard[9] == [True] * 3


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("plan", PLANNERS)
def test_planned_actions_are_in_the_space(plan: str, kind: str):
    agent, steps = alike(kind, count=7)
    agent.use_plan(plan, {"when": "always", "depth": 2})
    for t in (7, 6, 5):
        action = agent.act(steps.obs[:, t])
        assert all(agent.action_space.contains(one) for one in action)
        agent.observe(steps.obs[:, t - 1], np.ones(3, np.float32), *np.zeros((2, 3), bool))


@pytest.mark.parametrize("prior", [0.0, 0.5])
@torch.no_grad()
def test_best_of_n_executes_the_candidate_that_promises_most(prior: float):
    """By what the training-time view predicts for each of them."""
    agent, steps = alike("vector", count=6)
    found = agent.act(steps.obs[:, 6], plan=make_planner("best-of-n", {"prior": prior}))
    again, _ = alike("vector", count=6)
    generator = again.session.planning
    policy = again.method.action.head(again.method.encode(again.context, steps.obs[:, 6]))
    policy.sample(generator)  # the action of the agent without a planner
    candidates, log_prob = policy.candidates(10, generator)
    assert candidates.shape == (3, 10, 2)
    for row in range(3):
        windows = open_window(again, row).rows([0] * 10)
        windows.action[:, -1] = candidates[row]
        promised = again.method.reward.head(again.method.hidden(windows)[:, -1, 1]).mode() + prior * log_prob[row]
        np.testing.assert_array_equal(found[row], candidates[row, promised.argmax()])
        assert promised.std() > 1e-3


# ---- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "settings", "words"),
    [
        ("lookahed", {}, ("lookahed", "did you mean 'lookahead'")),
        ("best-of-m", {}, ("best-of-m", "did you mean 'best-of-n'")),
        ("nothing like it", {}, ("choose from beam, best-of-n, lookahead",)),
        ("beam", {"widht": 3}, ("widht", "did you mean 'width'")),
        ("beam", {"width": 0}, ("width=0", "1..10000")),
        ("beam", {"depth": 1001}, ("depth=1001", "1..1000")),
        ("beam", {"branches": 2.5}, ("branches='2.5'", "int")),
        ("beam", {"prior": -0.1}, ("prior=-0.1", "0.0..")),
        ("beam", {"prior": float("nan")}, ("prior=nan",)),
        ("beam", {"merge": 1}, ("merge='1'", "bool")),
        ("beam", {"when": "never"}, ("when='never'", "known, full, always")),
        (Planner(), {"width": True}, ("width='True'", "int")),
        (None, {"width": 3}, ("width", "give plan")),
    ],
)
def test_mistakes_in_settings_are_told_in_one_line(plan: Any, settings: dict[str, Any], words: tuple[str, ...]):
    one_line(lambda: AD.build().use_plan(plan, settings), ValueError, *words)


def test_settings_change_what_a_name_stands_for():
    agent = AD.build()
    agent.use_plan("beam", {"width": 3})
    assert asdict(agent.planner) == {**asdict(PLANNERS["beam"]), "width": 3}
    agent.use_plan(agent.planner, {"depth": 2})
    assert (agent.planner.depth, agent.planner.width, agent.planner.when) == (2, 3, "full")
    agent.use_plan(None)
    assert agent.planner is None


def test_the_published_settings():
    """A beam of 10 with all 5 actions over likeliest rewards alone, and greedy choice among 10 candidates."""
    beam = Planner(depth=8, width=10, branches=5, when="full", prior=0.0, expected=False, merge=False, value=False)
    assert PLANNERS["beam"] == beam
    best = PLANNERS["best-of-n"]
    assert (best.depth, best.branches, best.prior, best.value) == (1, 10, 0.0, False)


@pytest.mark.parametrize("variant", [v for v in variants() if "dynamics" not in dict(v.settings)], ids=str)
def test_an_agent_without_dynamics_refuses(variant: Variant, tmp_path):
    agent = variant.build()
    agent.reset()
    obs = np.zeros(2, np.int32)
    one_line(lambda: agent.use_plan("beam"), ValueError, "dynamics=True")
    one_line(lambda: agent.act(obs, plan="beam"), ValueError, "dynamics=True")
    assert agent.act(obs, plan=None) in agent.action_space


def test_one_action_may_be_planned_otherwise():
    (planner, asked), (other, _) = scripted(-1, when="always"), scripted(-2, when="always")

    def act(own: Any, *args: Any) -> list[int]:
        agent, steps = alike()
        agent.use_plan(own)
        return agent.act(steps.obs[:, 4], False, *args).tolist()

    policy = act(None)
    assert act(other, None) == act(other, False) == act(None, True) == policy
    assert act(other, planner) == act(planner) == act(planner, True) == [-1] * 3
    assert len(asked) == 3
    one_line(lambda: act(other, "lookahed"), ValueError, "did you mean 'lookahead'")


def test_a_saved_agent_is_loaded_with_a_plan(tmp_path):
    AD.build().save_pretrained(tmp_path / "agent")
    load = ICAgent.from_pretrained
    assert load(tmp_path / "agent").planner is None
    assert load(tmp_path / "agent", plan="beam").planner == PLANNERS["beam"]
    assert load(tmp_path / "agent", plan=Planner(depth=2), plan_kwargs={"width": 3}).planner == Planner(2, 3)
    one_line(lambda: load(tmp_path / "agent", plan="bean"), ValueError, "did you mean 'beam'")
    Variant("ad").build().save_pretrained(tmp_path / "other")
    one_line(lambda: load(tmp_path / "other", plan="beam"), ValueError, "dynamics=True")


def evaluated(agent: ICAgent, **settings: Any) -> Curve:
    return evaluate(agent, "icrl/Darkroom-v0", episodes=2, tasks=[40, 41], seed=2, **settings)


def test_evaluate_plans_and_tells_it():
    agent = AD.build()
    agent.use_plan("lookahead", {"depth": 3, "width": 2, "trust": 0.0})
    mine = agent.planner
    chosen = {"plan": "lookahead", "plan_kwargs": {"depth": 2, "when": "always", "trust": 0.0}}
    found = evaluated(agent, **chosen)
    planner = make_planner("lookahead", chosen["plan_kwargs"])
    assert agent.planner is mine
    assert Curve.from_json(found.to_json()).facts["plan"] == asdict(planner)
    assert evaluated(agent).facts["plan"] == asdict(mine)
    agent.use_plan(planner)
    assert (evaluated(agent).runs == found.runs).all()
    agent.use_plan(None)
    plain = evaluated(agent)
    assert "plan" not in plain.facts
    assert (plain.runs != found.runs).any()


def test_evaluate_restores_the_planner_after_a_mistake():
    agent, mine = AD.build(), Planner(depth=1)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    for planner in (mine, None):
        agent.planner = planner
        with pytest.raises(KeyboardInterrupt):
            evaluated(agent, plan="best-of-n", on_episode=stop)
        assert agent.planner is planner
        one_line(lambda: evaluated(agent, plan="bean"), ValueError, "did you mean 'beam'")
        assert agent.planner is planner


# ---- steps left -------------------------------------------------------------------------------------------------


def context_of(*rows: list[int], window: int = 20) -> Context:
    """Rows that lived episodes of these lengths; the last one is still running."""
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
        rest = (getattr(steps, name)[:, t] for name in ("action", "reward", "next_obs", "terminated", "truncated"))
        agent.context.close(*rest, np.ones(3, bool))
    assert 30 < known < 170


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


def test_a_planner_given_at_every_call_follows_its_plans_too():
    told, named = (alike(rewards=1) for _ in range(2))
    chosen = []
    for agent, steps in (told, named):
        planner = make_planner("lookahead", {"trust": 0.0})
        agent.use_plan(planner if agent is told[0] else None)
        actions = []
        for t in (4, 3, 4):
            actions.append(agent.act(steps.obs[:, t], plan=True if agent is told[0] else planner).tolist())
            agent.observe(steps.obs[:, 7 - t], np.ones(3, np.float32), *np.zeros((2, 3), bool))
        chosen.append((actions, agent.session.plans.place.tolist()))
    assert chosen[0] == chosen[1]


def test_unsigned_observations_can_be_planned_with():
    space = spaces.Box(0, 5, (2,), np.uint16)
    config = METHODS["ad"].Config(**{**SMALL, "dynamics": True})
    agent = ICAgent(METHODS["ad"](space, spaces.Discrete(3), config)).eval()
    agent.reset(num_envs=2, seed=0)
    agent.use_plan("lookahead", {"when": "always", "depth": 2, "trust": 0.0})
    for _ in range(4):
        agent.act(np.ones((2, 2), np.uint16))
        agent.observe(np.ones((2, 2), np.uint16), np.ones(2, np.float32), *np.zeros((2, 2), bool))


class TestTrust:
    """A planner is heard where the agent's imagination has mostly come true; here it is told what comes true."""

    def lived(self, right: list[bool], trust: float = 0.9) -> tuple[list[bool], ICAgent]:
        """Whether the planner was heard at each step of a life whose predictions come true or not."""
        agent, steps = alike(rewards=1)
        planner, asked = scripted(2, True, when="always", trust=trust)
        held = agent.session.plans
        heard = []
        for came_true in right:
            before = len(asked)
            action = agent.act(steps.obs[:, 0], plan=planner)
            heard.append(len(asked) > before)
            assert not heard[-1] or action.tolist() == [2, 2, 2]
            assert held.reliable(planner).tolist() == [heard[-1]] * 3
            imagined = agent.method.obs.array(held.predicted) if trust else steps.obs[:, 1]
            obs = imagined if came_true else (imagined + 1) % 9
            agent.observe(obs, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        return heard, agent

    def test_it_is_won_by_being_right_and_lost_by_being_wrong(self):
        heard, _ = self.lived([True] * 13)
        assert heard == [False] * 12 + [True]  # weights fade to 0.95: 12 of them are more than 9
        heard, _ = self.lived([True] * 40 + [False] * 3 + [True] * 40)
        assert heard[12:41] == [True] * 29
        assert not any(heard[43:60])
        assert heard[-1]

    def test_only_what_was_predicted_is_judged(self):
        """Steps without the planner, and actions from a fixed history, are compared with nothing else."""
        agent, steps = alike(rewards=1)
        planner, _ = scripted(2, True, when="always", trust=0.9)
        held = agent.session.plans
        for t in range(6):
            agent.act(steps.obs[:, 0], plan=None if t % 2 else planner)
            obs = steps.obs[:, 1] if t % 2 else agent.method.obs.array(held.predicted)
            agent.observe(obs, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        assert held.right.tolist() == held.total.tolist() == [1 + 0.95 + 0.95**2] * 3
        agent.reset(num_envs=3, history=steps.window(0, 4), learn=False)
        for _ in range(14):
            agent.act(steps.obs[:, 0], plan=planner)
            imagined = agent.method.obs.array(agent.session.plans.predicted)
            agent.observe(imagined, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        assert agent.session.plans.reliable(planner).all()

    def test_without_it_the_planner_is_always_heard(self):
        assert all(self.lived([False] * 5, trust=0.0)[0])

    def test_a_new_task_has_to_win_it_again(self):
        _, agent = self.lived([True] * 30)
        agent.reset(mask=np.array([False, True, False]))
        planner, _ = scripted(2, True, when="always", trust=0.9)
        agent.act(np.zeros((3, 2), np.int32), plan=planner)
        assert agent.session.plans.reliable(planner).tolist() == [True, False, True]

    def test_real_numbers_need_not_be_equal(self):
        agent, steps = Variant("ad", (("dynamics", True),)).build("vector"), lifetimes("vector", count=3)
        agent.reset(num_envs=3, seed=0)
        planner = make_planner("best-of-n", {"trust": 0.5})
        agent.act(steps.obs[:, 0], plan=planner)
        held = agent.session.plans
        off = np.array([0.0, 0.05, 1.0], np.float32)[:, None]
        held.predicted = torch.as_tensor(np.clip(steps.obs[:, 1] + off, -4, 4))
        agent.observe(steps.obs[:, 1], np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        assert held.right.tolist() == [1, 1, 0]


class TestStalePlans:
    """A plan of three steps, in a world that always looks as it was imagined."""

    def begun(self, **settings: Any) -> tuple[ICAgent, Planner, np.ndarray, list[int]]:
        agent, steps = alike(rewards=1)
        obs, asked = steps.obs[:, 0], []

        class Long(Planner):
            def search(
                self, imagination: Any, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None
            ) -> SearchResult:
                asked.append(len(left))
                actions = torch.tensor([2, 3, 4]).expand(len(left), 3)
                path = Path(actions, torch.zeros(len(left), 3), torch.as_tensor(obs).long()[:, None].expand(-1, 3, -1))
                return SearchResult(path, torch.full_like(left, 3), torch.ones_like(ends))

        planner = Long(when="always", follow=3, **settings)
        agent.session.plans.right, agent.session.plans.total = np.full(3, 10.0), np.full(3, 10.0)
        assert self.step(agent, planner, obs) == [2, 2, 2]
        return agent, planner, obs, asked

    def step(self, agent: ICAgent, planner: Planner | None, obs: np.ndarray) -> list[int]:
        action = agent.act(obs, plan=planner).tolist()
        agent.observe(obs, np.zeros(3, np.float32), *np.zeros((2, 3), bool))
        return action

    def test_it_is_followed(self):
        agent, planner, obs, asked = self.begun()
        assert [self.step(agent, planner, obs) for _ in range(3)] == [[3] * 3, [4] * 3, [2] * 3]
        assert asked == [3, 3]

    def test_an_action_without_the_planner_ends_it(self):
        agent, planner, obs, asked = self.begun()
        self.step(agent, None, obs)
        assert self.step(agent, planner, obs) == [2, 2, 2]
        assert asked == [3, 3]

    def test_lost_trust_ends_it(self):
        agent, planner, obs, asked = self.begun(trust=0.5)
        held = agent.session.plans
        held.right = np.zeros(3)
        self.step(agent, planner, obs)
        held.right = held.total.copy()
        assert self.step(agent, planner, obs) == [2, 2, 2]
        assert asked == [3, 3]


def test_the_published_search_says_that_it_costs_return():
    agent = AD.build()
    with pytest.warns(UserWarning, match="published search.*two of three cases.*lookahead"):
        agent.use_plan(make_planner("beam", {"width": 2}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.use_plan("lookahead")
