"""Forks of a cache: branches equal whole sequences."""

from __future__ import annotations

import itertools

import pytest
import torch

from icrl_agents.nn.fork import Fork
from icrl_agents.nn.transformer import Transformer


@pytest.fixture
def body() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(16, layers=2, heads=2, inner=24).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.slow
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
    for branches in (4, 2, 6, 6, 1):
        parent = torch.randint(len(own[0]), (3, branches), generator=rng)
        x = torch.randn(3, branches, 16, generator=rng)
        fork, out = fork.grow(body, parent, x)
        own = [[torch.cat([own[r][p], x[r, b][None, None]], 1) for b, p in enumerate(parent[r])] for r in range(3)]
        for row, branch in itertools.product(range(3), range(branches)):
            torch.testing.assert_close(out[row, branch], body(own[row][branch])[0, -1], atol=1e-5, rtol=1e-5)
    for now, then in zip((cache.keys, cache.values, cache.lengths), before, strict=True):
        assert torch.equal(now, then)


@torch.no_grad()
def test_a_fork_grows_into_independent_forks(body: Transformer):
    rng = torch.Generator().manual_seed(1)
    cache, (x, other) = body.make_cache(2, 4), torch.randn(2, 2, 3, 16, generator=rng)
    fork, parent = Fork.of(cache), torch.zeros(2, 3, dtype=torch.long)
    grown, first = fork.grow(body, parent, x)
    fork.grow(body, parent, other)[0].grow(body, parent, other)
    assert torch.equal(fork.grow(body, parent, x)[1], first)
    expected = body(torch.stack([x[:, 0], other[:, 1]], 1))[:, -1]
    torch.testing.assert_close(grown.grow(body, parent, other)[1][:, 1], expected, atol=1e-5, rtol=1e-5)
