"""Augmentations of training windows, for any method. Axis letters: B rows, T steps, A actions."""

from __future__ import annotations

import numpy as np

from icrl_agents.core.action_masks import actions_in
from icrl_agents.core.changing import CHANGED
from icrl_agents.core.reward_range import with_reward_range
from icrl_agents.core.steps import ACTION_MASK, Steps, delayed, holds_actions
from icrl_agents.methods.base.transforms import reordered


def hide_rewards(steps: Steps, rng: np.random.Generator, share: float, most: int) -> Steps:
    """Zero all later rewards, from 1 to `most` steps after the first one, in a random `share` of the rows.

    Actions stay, so the model has to remember the early rewards that explain them. Rows whose task changes are left as
    they are: without the rewards nothing would tell the change.

    Args:
        steps: NumPy steps (B, T).
    """
    rows, count = steps.reward.shape
    paid = (steps.reward != 0) & steps.mask  # (B, T)
    last = paid.argmax(1) + rng.integers(0, most, rows)  # (B,) last step with a visible reward
    blind = paid.any(1) & (rng.random(rows) < share) & _same_task(steps)  # (B,)
    late = np.where(blind[:, None], np.arange(count) - last[:, None], 0)  # (B, T) steps since the last visible reward
    reward = np.where(late > 0, np.float32(0), steps.reward)
    before = np.where(late > 1, np.float32(0), steps.prev_reward)  # shows each reward one step later
    return with_reward_range(steps._replace(reward=reward, prev_reward=before))  # of the visible rewards


def postpone_rewards(steps: Steps, rng: np.random.Generator, share: float, most: int) -> Steps:
    """Put episodes without a reward before those with one, from an episode soon after the first reward on.

    Nothing that happens is changed, so what was found has to be remembered over episodes that do not show it again,
    and a goal that was entered and does not pay has moved. The order of episodes must not matter to the environment;
    rows whose task changes are left as they are.

    Args:
        steps: NumPy steps (B, T).
        share: share of the rows, drawn at random.
        most: maximum number of steps from the first reward to the first episode that may be moved.
    """
    rows, count = steps.reward.shape
    place = np.arange(count)
    paid = (steps.reward != 0) & steps.mask  # (B, T)
    chosen = paid.any(1) & (rng.random(rows) < share) & _same_task(steps)  # (B,)
    since = paid.argmax(1) + rng.integers(0, most, rows)  # (B,) episodes that begin later are moved
    ended = steps.ended
    episode = np.cumsum(ended, 1) - ended  # (B, T) number of each step's episode
    begins = np.maximum.accumulate(np.where(delayed(ended, False), place, 0), 1)  # (B, T) first step of the episode
    moved = chosen[:, None] & (begins > since[:, None])  # (B, T)

    def somewhere(flags: np.ndarray) -> np.ndarray:
        """(B, T) bool: some step of the same episode has the flag (B, T)."""
        found, at = np.zeros((rows, episode.max() + 1), bool), (np.arange(rows)[:, None], episode)
        np.logical_or.at(found, at, flags)
        return found[at]

    earns, whole = somewhere(paid), somewhere(ended)
    # kept episodes, then complete ones without a reward, complete ones with a reward, an incomplete last one
    key = np.where(moved, 1 + earns, 0) + np.where(moved & ~whole, 2, 0)
    return with_reward_range(reordered(steps, key.argsort(1, kind="stable")))


def _same_task(steps: Steps) -> np.ndarray:
    """(B,) bool: rows whose task does not change."""
    return ~steps.extras[CHANGED].any(1) if CHANGED in steps.extras else np.ones(len(steps.mask), bool)


def _count(steps: Steps) -> int:
    """Number of actions that the steps and their columns of actions span."""
    meant = [value[steps.mask] for name, value in steps.extras.items() if holds_actions(name)]
    return max(actions_in(steps), 1 + int(max((one.max(initial=-1) for one in meant), default=-1)))


def renumber_actions(steps: Steps, options: int | None, rng: np.random.Generator) -> Steps:
    """Permute the numbers of the legal actions, with an independent random permutation per row.

    Args:
        steps: NumPy steps (B, T).
        options: number of actions A as given by the action codec; None reads it from `steps`.

    Raises:
        ValueError: the actions are not 0, 1, ... (`options` is 0).
    """
    if options == 0:
        raise ValueError("renumber=true, but the actions are not 0, 1, ...: leave it out")
    legal = steps.static.get(ACTION_MASK, np.ones((len(steps.mask), options or _count(steps)), bool))
    keys = np.arange(legal.shape[1]), rng.random(legal.shape)
    # legal actions first: in ascending order in `places`, in random order in `drawn`, (B, A) each
    places, drawn = (np.where(legal, key, np.inf).argsort(1) for key in keys)
    number = np.empty_like(places)
    np.put_along_axis(number, places, drawn, 1)  # (B, A) new number of each action; legal ones get legal numbers

    def renumbered(value: np.ndarray) -> np.ndarray:
        return np.take_along_axis(number, value, 1).astype(value.dtype)

    # at the start of a lifetime prev_action is a placeholder, not an action
    before = np.where(steps.start, steps.prev_action, renumbered(steps.prev_action))
    meant = {name: renumbered(value) for name, value in steps.extras.items() if holds_actions(name)}
    return steps._replace(action=renumbered(steps.action), prev_action=before, extras={**steps.extras, **meant})
