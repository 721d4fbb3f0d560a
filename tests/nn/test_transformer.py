"""The backbone: causal, and the same function with and without a cache, whatever the rows' lengths."""

import pytest
import torch

from icrl_agents.nn.transformer import Transformer

WIDTH, CAPACITY = 16, 24


@pytest.fixture(params=[True, False], ids=["grad", "acting"], autouse=True)
def grad(request):
    """Without gradients single tokens take the NumPy path."""
    with torch.set_grad_enabled(request.param):
        yield


@pytest.fixture
def body() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(WIDTH, layers=2, heads=2, inner=24).eval()
    for parameter in model.parameters():  # the small initial scale would hide errors below the tolerance
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def tokens(rows: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 1, 3, 2], [1, 11]])
def test_cached_equals_uncached(body, pieces):
    x = tokens(3, 12)
    cache, outputs, done = body.make_cache(3, CAPACITY), [], 0
    for count in pieces:
        outputs.append(body(x[:, done : done + count], cache))
        cache.advance(torch.full((3,), count))
        done += count
    torch.testing.assert_close(torch.cat(outputs, 1), body(x), atol=1e-5, rtol=1e-5)


def test_parts_of_a_row_do_not_see_each_other(body):
    x, begin = tokens(2, 12), torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [3] * 12])
    found = body(x, parts=begin)
    for start, stop in ((0, 5), (5, 9), (9, 12)):
        torch.testing.assert_close(found[:1, start:stop], body(x[:1, start:stop]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1:], body(x[1:]), atol=1e-5, rtol=1e-5)


def test_rows_at_different_lengths_do_not_see_each_other(body):
    x = tokens(3, 12)
    lengths = torch.tensor([2, 7, 0])
    cache = body.make_cache(3, CAPACITY)
    body(x[:, :7], cache)
    cache.advance(lengths)  # each row keeps its own number of tokens, the rest is overwritten
    for step in range(4):
        new = torch.stack([x[row, int(lengths[row]) + step] for row in range(3)])[:, None]
        out = body(new, cache)
        cache.advance(torch.ones(3, dtype=torch.long))
        for row in range(3):
            end = int(lengths[row]) + step + 1
            torch.testing.assert_close(out[row, 0], body(x[row : row + 1, :end])[0, -1], atol=1e-5, rtol=1e-5)


def test_fork_leaves_the_parent_alone(body):
    x = tokens(2, 8)
    cache = body.make_cache(2, CAPACITY)
    body(x[:, :5], cache)
    cache.advance(torch.full((2,), 5))
    fork = cache.select(torch.tensor([1, 1, 0]))
    body(tokens(3, 3, seed=1), fork)
    fork.advance(torch.full((3,), 3))
    assert cache.lengths.tolist() == [5, 5]
    torch.testing.assert_close(body(x[:, 5:], cache), body(x)[:, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        body(x[:1, 5:6], cache.select(torch.tensor([0]))), body(x)[:1, 5:6], atol=1e-5, rtol=1e-5
    )


@torch.enable_grad()
def test_causal(body):
    x = tokens(1, 10).requires_grad_()
    body(x)[0, 4].sum().backward()
    assert x.grad[0, :5].abs().sum(1).min() > 0
    assert x.grad[0, 5:].abs().max() == 0


def test_full_cache_is_a_clear_error(body):
    cache = body.make_cache(1, 4)
    with pytest.raises(ValueError, match="5 tokens do not fit a cache of 4"):
        body(tokens(1, 5), cache)


def test_dropout_only_while_training():
    model = Transformer(WIDTH, layers=1, heads=2, inner=8, dropout=0.5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = tokens(1, 4)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_odd_head_width_is_refused():
    with pytest.raises(ValueError, match="width 12 must be an even multiple of heads 4"):
        Transformer(12, layers=1, heads=4, inner=8)


def test_whole_windows_attend_without_a_mask(body, monkeypatch):
    """Flash kernels take `is_causal`, but no mask; later padding has no influence on what stands before it."""
    calls, attention = [], torch.nn.functional.scaled_dot_product_attention

    def listen(*qkv, attn_mask=None, is_causal=False):
        calls.append((attn_mask, is_causal))
        return attention(*qkv, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listen)
    x = tokens(2, 12)
    y = body(x)
    assert calls == [(None, True)] * 2
    padded = torch.cat([x[:, :7], tokens(2, 5, seed=1)], 1)
    torch.testing.assert_close(body(padded)[:, :7], y[:, :7])
