"""What is computed from histories before any model sees them, against plain loops over random episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.transforms import (
    Chunks,
    asked_return,
    best_return,
    query_first,
    return_to_go,
    sort_by_return,
)
from icrl_agents.training.augment import renumber_actions
from icrl_agents.training.windows import align
from tests.fakes import Variant, lifetimes

SEEDS = range(4)
MOVED = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


def random_steps(seed: int, rows: int = 12, count: int = 30) -> Steps:
    """Lifetimes (B, T) with small whole rewards of both signs, and arbitrary values in the padding.

    Row 0 has no padding, row 1 a single step, row 2 none; the column `place` numbers the steps.
    """
    rng = np.random.default_rng(seed)
    steps = lifetimes(rows=rows, count=count, seed=seed, ends=0.3)
    length = rng.integers(2, count + 1, rows)
    length[:3] = count, 1, 0
    place = np.tile(np.arange(count), (rows, 1))
    reward = rng.integers(-3, 4, (rows, count)).astype(np.float32)
    late = np.concatenate([np.zeros((rows, 1), np.float32), reward[:, :-1]], 1)
    extras = {**steps.extras, "place": place}
    return steps._replace(reward=reward, prev_reward=late, mask=place < length[:, None], extras=extras)


def episodes(steps: Steps, row: int) -> list[tuple[int, int, bool]]:
    """Where each episode of a row's real steps begins and ends, and whether it is complete."""
    found, begin, length = [], 0, int(steps.mask[row].sum())
    for t in range(length):
        if steps.terminated[row, t] or steps.truncated[row, t]:
            found.append((begin, t + 1, True))
            begin = t + 1
    return [*found, (begin, length, False)] if begin < length else found


def earned(steps: Steps, row: int, begin: int, end: int) -> float:
    return sum(float(reward) for reward in steps.reward[row, begin:end])


@pytest.mark.parametrize("seed", SEEDS)
def test_return_to_go_is_known_up_to_the_last_end(seed: int):
    steps = random_steps(seed)
    value, known = return_to_go(steps.map(torch.as_tensor))
    wanted = np.zeros(steps.mask.shape, bool)
    for row in range(len(steps.mask)):
        for begin, end, complete in episodes(steps, row):
            wanted[row, begin:end] = complete
            if complete:
                rest = [earned(steps, row, t, end) for t in range(begin, end)]
                np.testing.assert_allclose(value[row, begin:end], rest, atol=1e-5)
    np.testing.assert_array_equal(known, wanted)
    assert (wanted != steps.mask).any()  # some episodes are cut off at the end


@pytest.mark.parametrize("seed", SEEDS)
def test_episodes_are_sorted_by_return_and_rebuilt_as_a_lifetime(seed: int):
    steps = random_steps(seed)
    found, ties = sort_by_return(steps), 0
    np.testing.assert_array_equal(found.mask, steps.mask)
    for row in range(len(steps.mask)):
        spans = episodes(steps, row)
        returns = [earned(steps, row, begin, end) for begin, end, complete in spans if complete]
        ties += len(returns) - len(set(returns))
        inside = sorted((s for s in spans if s[2]), key=lambda s: earned(steps, row, s[0], s[1]))
        order = [t for begin, end, _ in [*inside, *(s for s in spans if not s[2])] for t in range(begin, end)]
        length = len(order)
        for name in MOVED:
            np.testing.assert_array_equal(getattr(found, name)[row, :length], getattr(steps, name)[row, order])
        for name, column in steps.extras.items():
            np.testing.assert_array_equal(found.extras[name][row, :length], column[row, order])
        check_lifetime(found.rows(row), length)
    assert ties


def check_lifetime(steps: Steps, length: int) -> None:
    """What each of the first steps (T) remembers is what came of the one before."""
    for t in range(length):
        ended = t == 0 or steps.terminated[t - 1] or steps.truncated[t - 1]
        assert steps.first[t] == ended
        assert steps.prev_action[t] == (steps.action[t - 1] if t else 0)
        assert steps.prev_reward[t] == (steps.reward[t - 1] if t else 0)


def test_the_order_of_a_hand_made_lifetime():
    """Returns 2, -1, 2, 0 and a cut-off episode that has more than any of them."""
    ends = np.array([[0, 1, 1, 0, 1, 1, 0, 0]], bool)
    reward = np.array([[1, 1, -1, 0, 2, 0, 5, 5]], np.float32)
    steps = lifetimes(rows=1, count=8)._replace(truncated=ends, terminated=ends & False, reward=reward)
    steps = steps._replace(extras={"place": np.arange(8)[None]})
    assert sort_by_return(steps).extras["place"].tolist() == [[2, 5, 0, 1, 3, 4, 6, 7]]
    assert best_return(steps._replace(first=np.roll(ends, 1, 1) | (np.arange(8) == 0))).tolist() == [2.0]


@pytest.mark.slow
@pytest.mark.parametrize("skipped", [0, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_best_return_is_that_of_a_complete_episode(seed: int, skipped: int):
    """Also where the window begins within an episode, which then does not count."""
    steps = random_steps(seed, rows=40).window(skipped, None)
    wanted = []
    for row in range(40):
        spans = [s for s in episodes(steps, row) if s[2] and steps.first[row, s[0]]]
        wanted.append(max((earned(steps, row, begin, end) for begin, end, _ in spans), default=0.0))
    found = best_return(steps)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert min(wanted) < 0 < max(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_asked_return_falls_by_what_is_earned(seed: int):
    """A number is asked for in every episode; NaN asks for the best complete episode before, else for 0."""
    steps = random_steps(seed, rows=40)
    target = np.where(np.arange(40) % 2, np.float32(np.nan), np.linspace(-4, 4, 40, dtype=np.float32))
    found = asked_return(steps.map(torch.as_tensor), torch.as_tensor(target))
    starts = []
    for row in range(40):
        best = None
        for begin, end, complete in episodes(steps, row):
            ask = float(target[row]) if row % 2 == 0 else best or 0.0
            wanted = [ask - earned(steps, row, begin, t) for t in range(begin, end)]
            np.testing.assert_allclose(found[row, begin:end], wanted, atol=1e-5)
            if complete:
                total = earned(steps, row, begin, end)
                best = total if best is None else max(best, total)
            starts += [ask] if row % 2 else []
    assert min(starts) < 0 < max(starts)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_query_first_keeps_every_real_step_and_puts_padding_last(seed: int, shuffle: bool):
    steps = random_steps(seed)
    found = query_first(steps, np.random.default_rng(seed), shuffle)
    place = found.extras["place"]
    np.testing.assert_array_equal(found.mask, steps.mask)
    for row, length in enumerate(steps.mask.sum(1)):
        assert sorted(place[row, :length]) == list(range(length))
        if not shuffle and length:
            assert place[row, :length].tolist() == [length - 1, *range(length - 1)]
        for name in (*MOVED, "prev_action", "prev_reward", "first"):
            np.testing.assert_array_equal(getattr(found, name)[row], getattr(steps, name)[row, place[row]])
        expert = steps.extras["expert_action"][row, place[row]]
        np.testing.assert_array_equal(found.extras["expert_action"][row], expert)


def test_any_step_is_asked_about_and_its_context_comes_in_any_order():
    """Uniformly over the real ones: every order of 4 steps is equally likely."""
    steps = lifetimes(rows=1, count=6).rows(np.zeros(12_000, int))
    place = np.tile(np.arange(6), (12_000, 1))
    steps = steps._replace(mask=place < 4, extras={"place": place})
    found = query_first(steps, np.random.default_rng(0), shuffle=True).extras["place"]
    orders, count = np.unique(found[:, :4], axis=0, return_counts=True)
    assert len(orders) == 24
    np.testing.assert_allclose(count / 12_000, 1 / 24, atol=0.008)


def test_the_order_of_a_set_comes_from_the_given_generator_alone():
    steps = random_steps(0)
    one, same, other = (query_first(steps, np.random.default_rng(n), True).extras["place"] for n in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    rng = np.random.default_rng(5)
    query_first(steps, rng, shuffle=False)
    assert rng.bit_generator.state == np.random.default_rng(5).bit_generator.state


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_begin_with_episodes_and_hold_all_real_steps(seed: int, size: int):
    steps = random_steps(seed)
    first, known = torch.as_tensor(steps.first), torch.as_tensor(steps.mask)
    chunks = Chunks.of(first, known, size)
    wanted = [
        [range(t, min(t + size, end)) for begin, end, _ in episodes(steps, row) for t in range(begin, end, size)]
        for row in range(len(steps.mask))
    ]
    assert chunks.real.shape == (len(steps.mask), max(map(len, wanted)), size)
    for row, spans in enumerate(wanted):
        for number, real in enumerate(chunks.real[row]):
            span = list(spans[number]) if number < len(spans) else []
            assert chunks.steps[row, number][real].tolist() == span
            assert real[: len(span)].all()  # the padding of a chunk comes last, where causality hides it
            if span:
                assert chunks.begin[row, number] == span[0]
        begins = set(chunks.begin[row, : len(spans)].tolist())
        assert set(np.flatnonzero(steps.first[row] & steps.mask[row])) <= begins


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("seed", SEEDS)
def test_splitting_and_joining_are_inverses_on_real_steps(seed: int, size: int):
    steps = random_steps(seed).map(torch.as_tensor)
    chunks = Chunks.of(steps.first, steps.mask, size)
    parts = chunks.split(steps)
    assert parts.mask.sum() == steps.mask.sum()
    for name in (*MOVED, "first"):
        value, part = getattr(steps, name), getattr(parts, name)
        assert part.shape[:2] == (chunks.begin.numel(), size)
        joined = chunks.join(part)
        assert joined.shape == value.shape
        assert torch.equal(joined[steps.mask], value[steps.mask])
    marks = chunks.join(torch.arange(chunks.begin.numel() * size).view(-1, size))[steps.mask]
    assert torch.equal(marks.sort().values, parts.mask.flatten().nonzero()[:, 0])
    begins = chunks.firsts(steps.obs)[chunks.real[..., 0]]  # of the chunks that hold a step at all
    assert torch.equal(begins, parts.obs[parts.mask[:, 0], 0])


def test_a_window_that_begins_within_an_episode_begins_a_chunk():
    first = torch.tensor([[False, False, False, False, True, False]])
    chunks = Chunks.of(first, torch.ones(1, 6, dtype=torch.bool), 3)
    assert chunks.begin.tolist() == [[0, 3, 4]]
    assert chunks.real.sum(-1).tolist() == [[3, 1, 2]]


def test_align_goes_back_to_where_the_episode_begins():
    first = random_steps(0, rows=50).first
    start = np.random.default_rng(0).integers(0, 30, 50)
    wanted = [max(t for t in range(start[row] + 1) if first[row, t]) for row in range(50)]
    np.testing.assert_array_equal(align(start, first), wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_renumbered_actions_are_the_same_ones_by_other_numbers(masked: bool):
    steps = lifetimes(rows=60, count=12)
    rng = np.random.default_rng(0)
    legal = np.ones((60, 9), bool)
    if masked:
        legal = rng.random((60, 9)) < 0.5
        legal[:, 3] = True
    action, meant = (np.where(legal, rng.random((12, 60, 9)), -1).argmax(2).T for _ in range(2))  # (B, T)
    before = np.pad(action[:, :-1], ((0, 0), (1, 0)))
    given = {"action_mask": legal} if masked else {}
    steps = steps._replace(action=action, prev_action=before, extras={"intended_action": meant}, static=given)
    found = renumber_actions(steps, 9, rng)
    moved = 0
    for row in range(60):
        number = dict(zip(action[row].tolist(), found.action[row].tolist(), strict=True))
        assert [number[a] for a in action[row].tolist()] == found.action[row].tolist()
        assert len(set(number.values())) == len(number)
        assert legal[row, found.action[row]].all()
        both = zip(meant[row].tolist(), found.extras["intended_action"][row].tolist(), strict=True)
        assert all(number.get(a, b) == b for a, b in both)
        moved += number != {a: a for a in number}
    assert moved > 40
    np.testing.assert_array_equal(found.prev_action[:, 1:], found.action[:, :-1])
    assert not found.prev_action[:, 0].any()


@pytest.mark.slow
def test_every_numbering_is_as_likely():
    steps = lifetimes(rows=6000, count=3)
    steps = steps._replace(action=np.tile(np.arange(3), (6000, 1)), prev_action=np.zeros((6000, 3), int), extras={})
    found = renumber_actions(steps, 3, np.random.default_rng(0))
    orders, counts = np.unique(found.action, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 880


def test_intended_actions_that_were_never_taken_have_numbers_too():
    steps = lifetimes(rows=4, count=6)
    zero = np.zeros((4, 6), np.int64)
    steps = steps._replace(action=zero, prev_action=zero, extras={"expert_action": zero + 4})
    found = renumber_actions(steps, None, np.random.default_rng(0))
    assert (found.extras["expert_action"] != found.action).all()
    assert found.extras["expert_action"].max() <= 4


def test_actions_without_numbers_are_refused():
    with pytest.raises(ValueError, match="renumber=true, but the actions are not 0, 1"):
        renumber_actions(
            lifetimes("vector"), Variant("ad").build("vector").method.action.options, np.random.default_rng(0)
        )
