"""What acting needs besides the model: the state between two calls, and how a context is fed to the transformer.

Axis letters: B rows (environments), S tokens (slots) of a step, L tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from icrl_agents.context import Context
from icrl_agents.nn.transformer import Cache
from icrl_agents.steps import Boundary

if TYPE_CHECKING:
    from icrl_agents.agent import ICAgent


class Running:
    """The acting state between two calls of `reset`."""

    def __init__(self, agent: ICAgent, num_envs: int | None, mode: AutoresetMode | None, seed: int | None):
        rows, window = num_envs or 1, agent.config.window
        self.num_envs = num_envs  # None: single observations in and out
        self.boundary = Boundary(rows, mode)
        self.acted: np.ndarray | None = None  # (B, ...) actions that wait for their observe()
        self.generator = torch.Generator(agent.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        cache = agent.body.make_cache(rows, (window + 1) * len(agent.slots)) if agent.extends else None
        self.context = Context.empty(rows, window, agent.observation_space, agent.action_space, cache)


def read_cached(agent: ICAgent, context: Context, live: np.ndarray) -> Tensor:
    """Feed what the cache has not seen yet; rows far behind (after a slide) are fed apart from the others."""
    assert context.cache is not None
    behind = context.length * len(agent.slots) - context.cache.lengths.cpu().numpy()
    far = behind > len(agent.slots)
    if not far.any() or far.all():
        return _feed(agent, context, context.cache, None, live)
    hidden = torch.empty(context.rows, agent.config.width, device=agent.device)
    for index in (np.flatnonzero(far), np.flatnonzero(~far)):
        rows = torch.as_tensor(index, device=agent.device)
        cache = context.cache.select(rows)
        hidden[rows] = _feed(agent, context, cache, index, live[index])
        context.cache.assign(rows, cache)
    return hidden


def _feed(agent: ICAgent, context: Context, cache: Cache, index: np.ndarray | None, live: np.ndarray) -> Tensor:
    """Run the uncached tokens of the rows `index` (None: all), then each row's query; give its hidden vectors.

    Rows with fewer tokens than others get arbitrary ones after their query: causality keeps those without
    influence, and `advance` does not count them.
    """
    slots, device, cached = len(agent.slots), agent.device, cache.lengths.cpu().numpy()
    length = context.length if index is None else context.length[index]
    start = cached // slots
    missing, offset = length * slots - cached, cached - start * slots  # (B,) tokens of closed steps; first new one
    most, first = int(missing.max()), int(offset[0])
    steps = agent.tensors(context.read(start, int((length - start).max()) + 1, index))
    tokens = agent.tokens(steps).flatten(1, 2)  # (B, L, D)
    if not agent.query_stays:
        tokens = _with_query(tokens, agent.query(steps), missing)
    if (missing == most).all() and (offset == first).all():
        hidden = agent.body(tokens[:, first : first + most + 1], cache)[:, -1]
    else:
        rows = torch.arange(len(length), device=device)
        places = torch.as_tensor(offset[:, None] + np.arange(most + 1), device=device)
        fed = tokens[rows[:, None], places.clamp_max(tokens.shape[1] - 1)]
        hidden = agent.body(fed, cache)[rows, torch.as_tensor(missing, device=device)]
    cache.advance(torch.as_tensor(live * (missing + agent.query_stays), device=device))
    return hidden


def _with_query(tokens: Tensor, query: Tensor, missing: np.ndarray) -> Tensor:
    """Put each row's own query behind its closed steps; only for layouts of one token a step."""
    rows, last = torch.arange(len(tokens), device=tokens.device), torch.as_tensor(missing, device=tokens.device)
    tokens = tokens.clone()
    tokens[rows, last] = query[rows, last]
    return tokens


def check_flag(value: Any, rows: int | None, what: str) -> np.ndarray:
    array = np.asarray(value)
    wanted = () if rows is None else (rows,)
    if array.shape != wanted or array.dtype != bool:
        raise ValueError(
            f"{what} has dtype {array.dtype} and shape {array.shape}, expected bool {wanted}: "
            "pass what env.step returned"
        )
    return array
