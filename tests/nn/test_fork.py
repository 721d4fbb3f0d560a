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
    for branches, alternatives in ((4, 3), (2, 5), (6, 1), (6, 2), (1, 4)):
        x = torch.randn(3, len(own[0]), alternatives, 16, generator=rng)
        out = fork.feed(body, x)
        for row, branch, choice in itertools.product(range(3), range(len(own[0])), range(alternatives)):
            whole = torch.cat([own[row][branch], x[row, branch, choice][None, None]], 1)
            torch.testing.assert_close(out[row, branch, choice], body(whole)[0, -1], atol=1e-5, rtol=1e-5)
        parent = torch.randint(len(own[0]), (3, branches), generator=rng)
        choice = torch.randint(alternatives, (3, branches), generator=rng)
        fork = fork.grow(parent, choice)
        own = [
            [torch.cat([own[r][p], x[r, p, c][None, None]], 1) for p, c in zip(parent[r], choice[r], strict=True)]
            for r in range(3)
        ]
    for now, then in zip((cache.keys, cache.values, cache.lengths), before, strict=True):
        assert torch.equal(now, then)


@torch.no_grad()
def test_what_is_fed_is_not_kept(body: Transformer):
    rng = torch.Generator().manual_seed(1)
    cache, x, other = body.make_cache(2, 4), *torch.randn(2, 2, 1, 3, 16, generator=rng)
    fork = Fork.of(cache)
    first = fork.feed(body, x)
    fork.feed(body, other)
    assert torch.equal(fork.feed(body, x), first)
    fork.feed(body, other)
    chosen = torch.zeros(2, 1, dtype=torch.long), torch.full((2, 1), 2)
    expected = body(torch.cat([other[:, :, 2], x[:, :, 0]], 1))[:, -1]
    torch.testing.assert_close(fork.grow(*chosen).feed(body, x)[:, 0, 0], expected, atol=1e-5, rtol=1e-5)
