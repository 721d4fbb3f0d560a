"""Pure functions on steps: what is computed from a history before any model sees it. Axis letters: B rows, T steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.steps import Steps, stack_steps


def return_to_go(steps: Steps) -> tuple[Tensor, Tensor]:
    """The rewards (B, T) from each step to the end of its episode, that step's own included.

    Also tells, (B, T) bool, where that is known: the episode's end is among the steps, and none of them is padding.
    """
    reward = steps.reward * steps.mask
    ended = (steps.terminated | steps.truncated) & steps.mask
    later = reward.flip(1).cumsum(1).flip(1)  # (B, T) rewards of this step and all after it
    place = torch.arange(ended.shape[1], device=ended.device)
    end = torch.where(ended, place, len(place)).flip(1).cummin(1).values.flip(1)  # (B, T) of the episode's last step
    beyond = torch.nn.functional.pad(later, (0, 2)).gather(1, end + 1)
    return later - beyond, (end < len(place)) & steps.mask


def query_first(steps: Steps, rng: np.random.Generator, shuffle: bool) -> Steps:
    """Put the step that is asked about into column 0 of NumPy steps, its context behind it, padding last.

    With `shuffle` any step is asked about and the others are its context in random order; without, it is each row's
    last real one, after the steps before it in their order.
    """
    length = steps.mask.sum(1)  # (B,)
    if shuffle:
        query, key = (rng.random(len(length)) * length).astype(np.int64), rng.random(steps.mask.shape)
    else:
        query, key = np.maximum(length - 1, 0), np.broadcast_to(np.arange(float(steps.mask.shape[1])), steps.mask.shape)
    key = np.where(steps.mask, key, np.inf)
    rows = np.arange(len(length))
    key[rows, query] = -1
    order = key.argsort(1, kind="stable")
    return steps.map(lambda value: value[rows[:, None], order])


def sort_by_return(steps: Steps) -> Steps:
    """NumPy steps whose complete episodes are in the order of their returns, equal ones as they were.

    The window must begin with an episode; one that it cuts off stays last, and so does padding.
    """
    ended = (steps.terminated | steps.truncated) & steps.mask
    episode = np.cumsum(ended, 1) - ended  # (B, T)
    returns = np.zeros((len(ended), episode.max() + 1))
    np.add.at(returns, (np.arange(len(ended))[:, None], episode), steps.reward * steps.mask)
    complete = np.arange(returns.shape[1]) < ended.sum(1)[:, None]
    rank = np.where(complete, returns, np.inf).argsort(1, kind="stable").argsort(1)  # (B, E) place of each episode
    order = np.take_along_axis(rank, episode, 1).argsort(1, kind="stable")
    sorted_steps = steps.map(lambda value: value[np.arange(len(order))[:, None], order])
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "mask", "extras", "static")
    return stack_steps(**{name: getattr(sorted_steps, name) for name in names})


def best_return(steps: Steps) -> np.ndarray:
    """The highest return (B,) of NumPy steps' complete episodes, 0 where there is none."""
    total, known = return_to_go(steps.map(torch.as_tensor))
    best = torch.where(known & torch.as_tensor(steps.first), total, -math.inf).amax(1).numpy()
    return np.where(np.isfinite(best), best, 0.0).astype(np.float32)


START, END = 1, 2  # a mark is none, one or both of them: a run may end where the next one starts


def confident_runs(steps: Steps, threshold: float, least: int, causal: bool = False) -> np.ndarray:
    """Where runs of confident NumPy steps begin and end: marks (B, T), 0, START, END or START + END.

    A step is confident if its action had at least the probability `threshold`, which the column `log_prob` tells. A
    run is `least` of them or more in a row, within an episode and, where there is a column `update`, under one policy.
    START stands at a run's first step, also where the window cuts it, END at the first one after it.

    With `causal` a step's mark follows from what is known before its action: START stands at the first step after
    `least` confident ones if the run can still go on, END where it is known to be over. That is the first step of a
    new episode or policy, else the one after the first step that was not confident.

    Raises:
        ValueError: there is no column `log_prob`.
    """
    if "log_prob" not in steps.extras:
        raise ValueError(
            "marks need the column log_prob, which these histories lack: make them with ppo, q-learning or noise"
        )
    sure = steps.mask & (steps.extras["log_prob"] >= np.float32(math.log(threshold)))
    border = steps.first.copy()  # (B, T) no run goes on here
    border[:, :1] = True
    if "update" in steps.extras:
        border[:, 1:] |= np.diff(steps.extras["update"], axis=1) != 0
    place = np.arange(sure.shape[1])
    begin = np.maximum.accumulate(np.where(border | ~_late(sure), place, 0), 1)
    length = np.where(sure, place - begin + 1, 0)  # (B, T) of the run up to each step
    if causal:
        inside = (_late(length) >= least) & ~border
        start = inside & ~_late(inside)
    else:
        goes_on = np.pad((sure & ~border)[:, 1:], ((0, 0), (0, 1)))
        last = np.where(sure & ~goes_on, place, len(place) - 1)
        last = np.minimum.accumulate(last[:, ::-1], 1)[:, ::-1]  # (B, T) where each step's run ends
        inside = sure & (np.take_along_axis(length, last, 1) >= least)
        start = inside & (length == 1)
    return START * start + END * (_late(inside) & (start | ~inside))


def _late(value: np.ndarray) -> np.ndarray:
    """The values (B, T) of the steps before, zero or False before the first one."""
    late = np.zeros_like(value)
    late[:, 1:] = value[:, :-1]
    return late


class Chunks(NamedTuple):
    """How steps (B, T) fall into at most C chunks a row: one begins with every episode and after every `size` steps."""

    size: int
    begin: Tensor  # (B, C) the first step of each chunk; T - 1 at most, where a row has fewer
    steps: Tensor  # (B, C, size) the steps of each chunk
    real: Tensor  # (B, C, size) bool
    place: Tensor  # (B, T) where each step is among the flattened chunks (C * size)

    @classmethod
    def of(cls, first: Tensor, known: Tensor, size: int) -> Chunks:
        """Divide steps by where episodes begin (B, T); those not `known` (B, T) come last and belong to no chunk."""
        place = torch.arange(first.shape[1], device=first.device)
        episode = torch.where(first & known, place, 0).cummax(1).values  # (B, T) where each step's begins
        chunk = (((place - episode) % size == 0) & known | (place == 0)).cumsum(1) - 1  # (B, T)
        numbers = torch.arange(int(chunk.max()) + 1, device=first.device).expand(len(chunk), -1).contiguous()
        begin, end = (torch.searchsorted(chunk, numbers, right=right) for right in (False, True))
        index = begin[..., None] + torch.arange(size, device=first.device)
        inside = index < end[..., None]
        index = index.clamp_max(len(place) - 1)
        rows = torch.arange(len(chunk), device=first.device)[:, None]
        within = (place - begin.gather(1, chunk)).clamp_max(size - 1)
        begin = begin.clamp_max(len(place) - 1)
        return cls(size, begin, index, inside & known[rows[..., None], index], chunk * size + within)

    def split(self, steps: Steps) -> Steps:
        """The steps as (B * C, size)."""
        rows = torch.arange(len(self.begin), device=self.begin.device)[:, None, None]
        static = {name: value.repeat_interleave(self.begin.shape[1], 0) for name, value in steps.static.items()}
        parts = steps._replace(extras={}).map(lambda value: value[rows, self.steps].flatten(0, 1))
        return parts._replace(mask=self.real.flatten(0, 1), static=static)

    def join(self, parts: Tensor) -> Tensor:
        """What was computed for every step of every chunk (B * C, size, ...), as (B, T, ...)."""
        rows = torch.arange(len(self.place), device=self.place.device)[:, None]
        return parts.unflatten(0, self.begin.shape).flatten(1, 2)[rows, self.place]

    def firsts(self, value: Tensor) -> Tensor:
        """Of values (B, T, ...) those at which chunks begin (B, C, ...)."""
        return value[torch.arange(len(self.begin), device=self.begin.device)[:, None], self.begin]


def asked_return(steps: Steps, target: Tensor) -> Tensor:
    """The return (B, T) to be earned from each step on, by an agent that is asked for `target` (B,) an episode.

    Where the target is NaN, an episode is to be as good as the best complete one before it, the first one to lose
    nothing. The steps must begin with an episode.
    """
    reward = steps.reward * steps.mask
    ended = (steps.terminated | steps.truncated) & steps.mask
    first = torch.nn.functional.pad(ended[:, :-1], (1, 0), value=True)
    place = torch.arange(first.shape[1], device=first.device)
    start = torch.where(first, place, 0).cummax(1).values  # (B, T) of each step's episode
    before = reward.cumsum(1) - reward
    earned = before - before.gather(1, start)
    finished = torch.where(ended, earned + reward, -math.inf)
    best = torch.nn.functional.pad(finished[:, :-1], (1, 0), value=-math.inf).cummax(1).values
    best = torch.where(best.isfinite(), best, 0.0)
    return torch.where(target[:, None].isnan(), best, target[:, None]) - earned
