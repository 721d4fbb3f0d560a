"""The search, on worlds that are known exactly."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from icrl_agents.agents.planning.search import PLANNERS, Outcome, Planner, Proposal, SearchResult, make_planner

WIDE = {"prior": 0.0, "merge": False, "branches": 9, "when": "always"}


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
