"""Augmentations of training windows, whatever the method. Axis letters: B rows, T steps, A actions."""

from __future__ import annotations

import numpy as np

from icrl_agents.core.action_masks import actions_in
from icrl_agents.core.steps import ACTION_MASK, OF_ACTIONS, Steps


def hide_rewards(steps: Steps, rng: np.random.Generator, share: float, most: int) -> Steps:
    """NumPy steps in which, in about that share of the rows, no reward is seen any more soon after the first one.

    Soon: from 1 to `most` steps later. Actions stay, so that the model has to remember why they were taken.
    """
    rows, count = steps.reward.shape
    paid = (steps.reward != 0) & steps.mask
    last = paid.argmax(1) + rng.integers(0, most, rows)  # (B,) the last step whose reward is seen
    blind = paid.any(1) & (rng.random(rows) < share)
    late = np.arange(count) - last[:, None]
    reward, before = (
        np.where(blind[:, None] & (late > n), 0, value).astype(np.float32)
        for n, value in ((0, steps.reward), (1, steps.prev_reward))
    )
    return steps._replace(reward=reward, prev_reward=before)


def renumber_actions(steps: Steps, options: int | None, rng: np.random.Generator) -> Steps:
    """NumPy steps whose legal actions have other numbers, drawn at random for each row.

    Args:
        options: how many actions there are, as of codecs.

    Raises:
        ValueError: the actions are not 0, 1, ...
    """
    if options == 0:
        raise ValueError("renumber=true, but the actions are not 0, 1, ...: leave it out")
    legal = steps.static.get(ACTION_MASK, np.ones((len(steps.mask), options or actions_in(steps)), bool))
    keys = np.arange(legal.shape[1]), rng.random(legal.shape)
    places, drawn = (np.where(legal, key, np.inf).argsort(1) for key in keys)
    number = np.empty_like(places)
    np.put_along_axis(number, places, drawn, 1)  # (B, A) that each action gets; illegal ones stay among themselves

    def renumbered(value: np.ndarray) -> np.ndarray:
        return np.take_along_axis(number, value, 1).astype(value.dtype)

    before = np.where(steps.start, steps.prev_action, renumbered(steps.prev_action))
    meant = {name: renumbered(value) for name, value in steps.extras.items() if name.endswith(OF_ACTIONS)}
    return steps._replace(action=renumbered(steps.action), prev_action=before, extras={**steps.extras, **meant})
