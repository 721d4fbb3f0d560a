"""Probe of latent actions: how well a decoder that is learned from few labelled steps tells actions on other tasks.

Axis letters: N steps, Z size of what the decoder reads, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from torch import nn

from icrl_agents.histories.shards import HistoryShards, check_one_model
from icrl_agents.methods.base.predictor import LATENT, share_right, witnessed
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.numerics import mean_and_std, own_settings
from icrl_agents.nn.vision.encoders import mlp

LABELS = (32, 128, 1024, 5000)  # numbers of labelled steps
POOL = 20_000  # steps that labels are drawn from, and steps that are held out, at most
WIDTH, UPDATES, BATCH, RATE = 128, 400, 256, 3e-3  # of a decoder and its training


class Probed(NamedTuple):
    """Quality of a decoder on tasks without labels."""

    labels: int  # labelled steps that it was learned from
    held_out: int  # steps that it was measured on
    measure: str  # "accuracy", or "r2" of real actions
    score: float
    constant: float  # score of the most frequent labelled action, or of the mean one, at every step


class Pairs(NamedTuple):
    """Steps as the decoder sees them."""

    latent: np.ndarray  # (N, Z)
    action: np.ndarray  # (N, ...)


def probe_latents(
    shards: HistoryShards, labels: Sequence[int] = LABELS, seed: int = 0, columns: Sequence[str] = (LATENT,)
) -> list[Probed]:
    """Learn a decoder from each number of labelled steps of one half of the tasks; measure it on the other half.

    Smaller numbers of steps are parts of larger ones; numbers that the histories do not have are left out.

    Args:
        shards: annotated histories with true actions, of two tasks or more.
        labels: numbers of labelled steps.
        seed: seed of the halves, of the labelled steps and of the decoders.
        columns: columns that the decoder reads.

    Raises:
        ValueError: a column is missing or of several models, or there are too few tasks or steps.
    """
    if min(labels) < 1:
        raise ValueError(f"labels={min(labels)} is no number of steps: give 1 or more")
    check_one_model(shards.stores, columns)
    if len(shards) < 2:
        raise ValueError(f"{shards.name} has {len(shards)} task, a probe needs two: one with labels, one without")
    rng, space = np.random.default_rng(seed), shards.spaces[1]
    tasks = rng.permutation(shards.tasks)
    known, other = (pairs_of(shards, half, rng, columns) for half in np.array_split(tasks, 2))
    if not len(other.action) or min(labels) > len(known.action):
        raise ValueError(
            f"{shards.name} has {len(known.action)} steps for labels and {len(other.action)} others, "
            f"labels={min(labels)}: give more histories, or fewer labels"
        )
    order = rng.permutation(len(known.action))
    found = []
    for count in sorted(number for number in labels if number <= len(order)):
        labelled = Pairs(*(value[order[:count]] for value in known))
        guess = np.broadcast_to(constant(labelled.action), other.action.shape)
        (measure, score), *_ = share_right(decoded(labelled, other.latent, space, seed), other.action).items()
        found.append(Probed(count, len(other.action), measure, score, share_right(guess, other.action)[measure]))
    return found


def pairs_of(shards: HistoryShards, tasks: np.ndarray, rng: np.random.Generator, columns: Sequence[str]) -> Pairs:
    """Up to `POOL` steps of these tasks, of histories in random order."""
    parts, latents, actions, count = shards.index(tasks.tolist()), [], [], 0
    histories = [(part, row) for part in parts for row in range(len(part.layout.lengths))]
    for number in rng.permutation(len(histories)):
        part, row = histories[number]
        steps = shards.read(part, slice(row, row + 1))
        if missing := [name for name in columns if name not in steps.extras]:
            raise ValueError(f"a probe reads {missing[0]}, which {shards.name} lacks: annotate it with a lam")
        labelled = witnessed(steps)
        latents.append(np.concatenate([steps.extras[name][labelled] for name in columns], 1))
        actions.append(steps.action[labelled])
        count += len(actions[-1])
        if count >= POOL:
            break
    return Pairs(np.concatenate(latents)[:POOL], np.concatenate(actions)[:POOL])


def decoded(labelled: Pairs, latent: np.ndarray, space: gymnasium.Space, seed: int) -> np.ndarray:
    """Most probable actions at latent actions (N, Z), by an MLP that is learned from the labelled steps."""
    with own_settings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = make_codec(space, WIDTH, embeds=False)
        network = nn.Sequential(mlp([latent.shape[1], WIDTH, WIDTH]), nn.GELU())
        given, action = torch.as_tensor(labelled.latent).float(), codec.tensor(labelled.action, torch.device("cpu"))
        codec.fit_actions(action)
        mean, std = mean_and_std(given)
        given = ((given - mean) / std).float()
        optimizer = torch.optim.AdamW([*network.parameters(), *codec.parameters()], lr=RATE)
        for _ in range(UPDATES):
            chosen = torch.randint(len(given), (min(len(given), BATCH),))
            optimizer.zero_grad()
            codec.head(network(given[chosen])).loss(action[chosen]).mean().backward()
            optimizer.step()
        with torch.no_grad():
            others = ((torch.as_tensor(latent) - mean) / std).float()
            return codec.array(codec.head(network(others)).mode())


def constant(action: np.ndarray) -> np.ndarray:
    """The single action that fits actions (N, ...) best: their mean, or of integers the most frequent of each entry."""
    if action.dtype.kind == "f":
        return action.mean(0)
    entries = [np.unique(entry, return_counts=True) for entry in action.reshape(len(action), -1).T]
    return np.reshape([values[counts.argmax()] for values, counts in entries], action.shape[1:])
