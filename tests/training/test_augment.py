"""Augmentations that change the order of what happened: rewarded episodes come late."""

import json
from itertools import pairwise

import numpy as np
import pytest

from icrl_agents import train
from icrl_agents.training.augment import postpone_rewards
from tests.fakes import lifetimes

COUNT = 32  # steps of a row


def episodes_of(steps, row):
    """(steps, earns, complete) of each episode."""
    ends = np.flatnonzero(steps.terminated[row] | steps.truncated[row]) + 1
    bounds = [0, *ends.tolist(), *([COUNT] if not len(ends) or ends[-1] < COUNT else [])]
    return [(list(range(a, b)), bool(steps.reward[row, a:b].any()), b in ends) for a, b in pairwise(bounds)]


def sparse(rows=100, **columns):
    steps = lifetimes(rows=rows, count=COUNT, ends=0.3)
    reward = np.where(np.random.default_rng(1).random((rows, COUNT)) < 0.12, 1, 0).astype(np.float32)
    before = np.pad(reward[:, :-1], ((0, 0), (1, 0)))
    place = np.tile(np.arange(COUNT), (rows, 1))
    return steps._replace(reward=reward, prev_reward=before, extras={"place": place, **columns})


@pytest.mark.parametrize("most", [1, 12])
def test_episodes_without_a_reward_come_before_those_with_one(most):
    steps = sparse()
    found, moved = postpone_rewards(steps, np.random.default_rng(0), share=1.0, most=most), 0
    for row in range(100):
        spans, order = episodes_of(steps, row), found.extras["place"][row].tolist()
        assert sorted(order) == list(range(COUNT))
        paid = np.flatnonzero(steps.reward[row])
        kept = next((n for n in range(COUNT) if order[: n + 1] != list(range(n + 1))), COUNT)  # steps that stayed
        moved += kept < COUNT
        if kept < COUNT:  # not before the first reward, and soon after it
            assert kept > paid[0]
        # whole episodes moved, each once, an incomplete one last
        firsts = [span[0] for span, _, _ in spans]
        again = [place for place in order if place in firsts]
        assert [p for first in again for p in spans[firsts.index(first)][0]] == order
        if not spans[-1][2]:
            assert again[-1] == spans[-1][0][0]
        # from some episode on, soon after the first reward: without a reward, with one, incomplete
        later = [spans[firsts.index(first)] for first in again if len(paid) and first > paid[0] + most]
        rank = [1 + earns if complete else 3 for _, earns, complete in later]
        assert rank == sorted(rank)
    assert moved > 30


def test_what_a_step_remembers_is_what_came_before_it():
    steps = sparse()
    found = postpone_rewards(steps, np.random.default_rng(0), share=1.0, most=1)
    order = found.extras["place"]
    assert (order != steps.extras["place"]).any()
    rows = np.arange(100)[:, None]
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "first"):
        np.testing.assert_array_equal(getattr(found, name), getattr(steps, name)[rows, order])
    for name in ("obs", "action", "reward"):
        before = getattr(found, f"prev_{name}")
        np.testing.assert_array_equal(before[:, 1:], getattr(found, name)[:, :-1])
        np.testing.assert_array_equal(before[:, 0], getattr(steps, f"prev_{name}")[:, 0])
    assert (found.extras["reward_high"][:, 1:] == np.maximum.accumulate(found.reward, 1)[:, :-1]).all()


def test_a_share_of_the_rows_and_none_whose_task_changes():
    changed = np.zeros((100, COUNT), bool)
    changed[::2, 20:] = True
    steps = sparse(task_changed=changed)
    whole, half = (postpone_rewards(steps, np.random.default_rng(0), share, 1) for share in (1.0, 0.5))
    moved, some = ((found.extras["place"] != steps.extras["place"]).any(1) for found in (whole, half))
    assert not moved[::2].any()
    assert moved[1::2].sum() > some.sum() > 5


def test_a_training_postpones(tmp_path):
    losses = []
    for postpone in (0.0, 1.0):
        settings = {"width": 16, "layers": 1, "heads": 2, "inner": 16, "window": 60, "slide": 6, "episodes": 6,
                    "updates": 1, "batch_size": 8, "eval_every": 0, "postpone": postpone, "blind_after": 1}  # fmt: skip
        train("ad", "icrl/Darkroom3x3-v0", tmp_path / str(postpone), settings=settings, device="cpu", quiet=True)
        losses.append(json.loads((tmp_path / str(postpone) / "metrics.jsonl").read_text())["loss"])
    assert losses[0] != losses[1]
