"""Pure functions on steps: returns, orderings, confident runs, chunks and prompts.

Axis letters: B rows, T steps, E episodes, C chunks, P prompt tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icrl_agents.core.steps import MissingColumnError, Steps, delayed, stack_steps
from icrl_agents.nn.codecs.rewards import VARIED, VARIED_BEFORE


def return_to_go(steps: Steps) -> tuple[Tensor, Tensor]:
    """Sum of rewards from each step to the end of its episode, the step itself included.

    Returns:
        Return to go (B, T).
        Mask (B, T) bool, True for real steps whose episode ends among the steps.
    """
    reward = steps.reward * steps.mask
    ended = steps.ended
    later = reward.flip(1).cumsum(1).flip(1)  # (B, T) sum of all rewards from this step on
    place = torch.arange(ended.shape[1], device=ended.device)
    end = torch.where(ended, place, len(place)).flip(1).cummin(1).values.flip(1)  # (B, T) index of the episode's end
    beyond = torch.nn.functional.pad(later, (0, 2)).gather(1, end + 1)  # (B, T) rewards after the episode's end
    return later - beyond, (end < len(place)) & steps.mask


def query_first(steps: Steps, rng: np.random.Generator, shuffle: bool) -> Steps:
    """Reorder NumPy steps to query (column 0), context, padding.

    With `shuffle` the query is a uniformly drawn step and the context is in random order; without, the query is the
    last real step of each row and the context keeps its order.
    """
    length = steps.mask.sum(1)  # (B,)
    if shuffle:
        query, key = (rng.random(len(length)) * length).astype(np.int64), rng.random(steps.mask.shape)
    else:
        query, key = np.maximum(length - 1, 0), np.broadcast_to(np.arange(float(steps.mask.shape[1])), steps.mask.shape)
    key = np.where(steps.mask, key, np.inf)
    key[np.arange(len(length)), query] = -1
    return _placed(steps, key.argsort(1, kind="stable"))


def sort_by_return(steps: Steps) -> Steps:
    """Sort the complete episodes of NumPy steps by ascending return (stable).

    The window must begin with an episode; an incomplete episode stays last, before the padding.
    """
    ended = steps.ended
    episode = np.cumsum(ended, 1) - ended  # (B, T) episode number of each step
    returns = np.zeros((len(ended), episode.max() + 1))
    np.add.at(returns, (np.arange(len(ended))[:, None], episode), steps.reward * steps.mask)
    complete = np.arange(returns.shape[1]) < ended.sum(1)[:, None]  # (B, E)
    rank = np.where(complete, returns, np.inf).argsort(1, kind="stable").argsort(1)  # (B, E) new position of episodes
    order = np.take_along_axis(rank, episode, 1).argsort(1, kind="stable")
    sorted_steps = _placed(steps, order)
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "mask", "extras", "static")
    return stack_steps(**{name: getattr(sorted_steps, name) for name in names})


def reordered(steps: Steps, order: np.ndarray) -> Steps:
    """NumPy steps (B, T) whose episodes come in another order; the columns of the previous step follow.

    Args:
        order: (B, T) int, index of the step that comes to each place. The first episode stays the first.
    """
    moved = _placed(steps, order)

    return moved._replace(
        prev_obs=delayed(moved.obs, steps.prev_obs[:, :1]),
        prev_action=delayed(moved.action, steps.prev_action[:, :1]),
        prev_reward=delayed(moved.reward, steps.prev_reward[:, :1]),
    )


def _placed(steps: Steps, order: np.ndarray) -> Steps:
    """NumPy steps with step `order[b, t]` at each place; columns of the previous step stay as recorded."""
    rows = np.arange(len(order))[:, None]
    return steps.map(lambda value: value[rows, order])


def best_return(steps: Steps) -> np.ndarray:
    """Highest return (B,) among the complete episodes of NumPy steps; 0 where none is complete."""
    total, known = return_to_go(steps.map(torch.as_tensor))
    best = torch.where(known & torch.as_tensor(steps.first), total, -math.inf).amax(1).numpy()
    return np.where(np.isfinite(best), best, 0.0).astype(np.float32)


START, END = 1, 2  # bits of a mark; both are set where a run ends at the start of the next one


def confident_runs(steps: Steps, threshold: float, least: int, causal: bool = False) -> np.ndarray:
    """Marks (B, T) at the borders of runs of confident NumPy steps: 0, START, END or START + END.

    A step is confident if the probability of its action (column `log_prob`) is at least `threshold`. A run is a
    sequence of `least` or more confident steps within one episode and, if there is a column `update`, one policy.
    START marks the first step of a run, or the first visible one, END the first step after it.

    With `causal` the mark of a step depends only on what is known before its action: START marks the first step after
    `least` confident ones if the run can continue, END the step at which the run is known to be over: the first step
    of a new episode or policy, else the step after the first unconfident one.

    Raises:
        ValueError: the column `log_prob` is missing.
    """
    if "log_prob" not in steps.extras:
        raise MissingColumnError("marked-ad", "log_prob", "make them with ppo, q-learning or noise")
    sure = steps.mask & (steps.extras["log_prob"] >= np.float32(math.log(threshold)))
    border = steps.first.copy()  # (B, T) a new episode or policy begins: runs end before this step
    border[:, :1] = True
    if "update" in steps.extras:
        border[:, 1:] |= np.diff(steps.extras["update"], axis=1) != 0
    place = np.arange(sure.shape[1])
    begin = np.maximum.accumulate(np.where(border | ~delayed(sure, 0), place, 0), 1)  # (B, T) first step of the run
    length = np.where(sure, place - begin + 1, 0)  # (B, T) length of the run up to each step
    if causal:
        inside = (delayed(length, 0) >= least) & ~border
        start = inside & ~delayed(inside, 0)
    else:
        goes_on = np.pad((sure & ~border)[:, 1:], ((0, 0), (0, 1)))
        last = np.where(sure & ~goes_on, place, len(place) - 1)
        last = np.minimum.accumulate(last[:, ::-1], 1)[:, ::-1]  # (B, T) last step of the run
        inside = sure & (np.take_along_axis(length, last, 1) >= least)
        start = inside & (length == 1)
    return START * start + END * (delayed(inside, 0) & (start | ~inside))


class Chunks(NamedTuple):
    """Division of steps (B, T) into chunks of up to `size` steps; a new chunk begins with every episode.

    C is the largest number of chunks in a row of the batch.
    """

    size: int  # maximum number of steps in a chunk
    begin: Tensor  # (B, C) first step of each chunk; clamped to T - 1 in rows with fewer chunks
    steps: Tensor  # (B, C, size) step indices of each chunk
    real: Tensor  # (B, C, size) bool: False marks padding
    place: Tensor  # (B, T) index of each step in the flattened chunks (C * size)

    @classmethod
    def of(cls, first: Tensor, known: Tensor, size: int) -> Chunks:
        """Chunks of steps whose episodes begin at `first` (B, T) bool.

        Steps that are not `known` (B, T) bool, always the last of a row, belong to no chunk.
        """
        place = torch.arange(first.shape[1], device=first.device)
        episode = torch.where(first & known, place, 0).cummax(1).values  # (B, T) first step of the episode
        chunk = (((place - episode) % size == 0) & known | (place == 0)).cumsum(1) - 1  # (B, T) chunk number
        numbers = torch.arange(int(chunk.max()) + 1, device=first.device).expand(len(chunk), -1).contiguous()  # (B, C)
        begin, end = (torch.searchsorted(chunk, numbers, right=right) for right in (False, True))
        index = begin[..., None] + torch.arange(size, device=first.device)  # (B, C, size)
        inside = index < end[..., None]
        index = index.clamp_max(len(place) - 1)
        rows = torch.arange(len(chunk), device=first.device)[:, None]
        within = (place - begin.gather(1, chunk)).clamp_max(size - 1)  # (B, T) position in the chunk
        begin = begin.clamp_max(len(place) - 1)
        return cls(size, begin, index, inside & known[rows[..., None], index], chunk * size + within)

    def split(self, steps: Steps) -> Steps:
        """Steps rearranged to (B * C, size), without extra columns but those of rewards."""
        rows = torch.arange(len(self.begin), device=self.begin.device)[:, None, None]
        static = {name: value.repeat_interleave(self.begin.shape[1], 0) for name, value in steps.static.items()}
        extras = {name: steps.extras[name] for name in (VARIED, VARIED_BEFORE) if name in steps.extras}
        parts = steps._replace(extras=extras).map(lambda value: value[rows, self.steps].flatten(0, 1))
        return parts._replace(mask=self.real.flatten(0, 1), static=static)

    def join(self, parts: Tensor) -> Tensor:
        """Inverse of `split` for values (B * C, size, ...): gives (B, T, ...)."""
        rows = torch.arange(len(self.place), device=self.place.device)[:, None]
        return parts.unflatten(0, self.begin.shape).flatten(1, 2)[rows, self.place]

    def firsts(self, value: Tensor) -> Tensor:
        """Entries (B, C, ...) of `value` (B, T, ...) at the first step of each chunk."""
        return value[torch.arange(len(self.begin), device=self.begin.device)[:, None], self.begin]


def asked_return(steps: Steps, target: Tensor) -> Tensor:
    """Remaining target return (B, T): the target of the episode minus the rewards earned in it before each step.

    Args:
        target: target return (B,) per episode; NaN: the best return of the complete episodes before, 0 for the first.
        steps: tensors (B, T) that begin with an episode.
    """
    reward = steps.reward * steps.mask
    ended = steps.ended
    first = torch.nn.functional.pad(ended[:, :-1], (1, 0), value=True)
    place = torch.arange(first.shape[1], device=first.device)
    start = torch.where(first, place, 0).cummax(1).values  # (B, T) first step of the episode
    before = reward.cumsum(1) - reward  # (B, T) sum of all rewards before each step
    earned = before - before.gather(1, start)  # (B, T) of these, the rewards of the same episode
    finished = torch.where(ended, earned + reward, -math.inf)  # (B, T) returns, at the ends of episodes
    best = torch.nn.functional.pad(finished[:, :-1], (1, 0), value=-math.inf).cummax(1).values
    best = torch.where(best.isfinite(), best, 0.0)
    return torch.where(target[:, None].isnan(), best, target[:, None]) - earned


def packed(prompt: Tensor, steps: Tensor, count: Tensor) -> Tensor:
    """Left-packed sequences (B, P + T, ...): the first `count` (B,) entries of `prompt` (B, P, ...), then `steps`.

    Rows with a shorter prompt end with repeated entries.
    """
    both = torch.cat([prompt, steps], 1)
    place = torch.arange(both.shape[1], device=both.device).expand(len(count), -1)
    shift = torch.where(place < count[:, None], 0, prompt.shape[1] - count[:, None])  # (B, P + T) skips unused prompt
    rows = torch.arange(len(count), device=both.device)[:, None]
    return both[rows, (place + shift).clamp_max(both.shape[1] - 1)]
