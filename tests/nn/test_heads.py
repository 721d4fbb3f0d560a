"""The three heads of Box actions: densities, samples, extreme outputs, several equally good actions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents.nn.codecs import BOX_HEADS, make_codec

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32)
every_head = pytest.mark.parametrize("head", BOX_HEADS)


def untrained(head, space=LINE, scale=0.3):
    torch.manual_seed(0)
    codec = make_codec(space, 16, head=head)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    codec.mean.fill_(0.5)
    codec.std.fill_(0.8)
    return codec, 0.5 * torch.randn(16)


@every_head
@torch.inference_mode()
def test_the_density_is_that_of_the_samples(head):
    codec, hidden = untrained(head)
    grid = torch.linspace(-30, 30, 1501)
    density = codec.head(hidden.expand(1501, 16)).log_prob(grid[:, None]).exp() * (grid[1] - grid[0])
    assert density.sum() == pytest.approx(1, abs=2e-3)
    drawn = codec.head(hidden.expand(20_000, 16)).sample(torch.Generator().manual_seed(0))[:, 0]
    share = (drawn[:, None] <= grid[None, ::25]).float().mean(0)  # distribution function of the samples
    torch.testing.assert_close(share, density.cumsum(0)[::25], atol=0.03, rtol=0)


@every_head
@torch.inference_mode()
def test_the_density_of_two_entries_is_that_of_the_samples(head):
    codec, hidden = untrained(head, spaces.Box(-np.inf, np.inf, (2,), np.float32))
    axis = torch.linspace(-12, 12, 61)
    grid = torch.cartesian_prod(axis, axis)
    density = codec.head(hidden.expand(len(grid), 16)).log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    assert density.sum() == pytest.approx(1, abs=5e-3)
    drawn = codec.head(hidden.expand(20_000, 16)).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), density @ grid, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), grid.T.cov(aweights=density.clamp_min(1e-12)), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
@pytest.mark.parametrize("bound", [1.0, np.inf])
@every_head
def test_extreme_outputs_have_finite_losses_and_gradients(head, bound, shape):
    codec = make_codec(spaces.Box(-bound, bound, shape, np.float32), 8, head=head)
    values = torch.as_tensor(np.clip(np.random.default_rng(0).normal(size=(3, 5, *shape)), -1, 1), dtype=torch.float32)
    for scale in (0.0, 1.0, 1e3):
        hidden = scale * torch.randn(3, 5, 8)
        loss = codec.head(hidden).loss(values)
        assert loss.shape == (3, 5)
        assert loss.isfinite().all()
        codec.zero_grad()
        loss.sum().backward()
        assert all(p.grad.isfinite().all() for name, p in codec.named_parameters() if name.startswith("outputs"))
        distribution = codec.head(hidden)
        for value in (distribution.sample(), distribution.mode()):
            assert value.shape == (3, 5, *shape)
            assert (value.abs() <= bound).all()
        choice, log_prob = distribution.candidates(4)
        assert choice.shape == (3, 5, 4, *shape)
        assert log_prob.shape == (3, 5, 4)


def fitted(head, updates, actions):
    """A head alone, without a transformer, trained on what `actions(rows)` gives."""
    torch.manual_seed(0)
    codec = make_codec(spaces.Box(-1, 1, (2,), np.float32), 16, head=head)
    hidden = torch.ones(256, 16)
    optimizer = torch.optim.Adam(codec.outputs.parameters(), lr=1e-2)
    for _ in range(updates):
        loss = codec.head(hidden).loss(actions(256)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec.head(torch.ones(2000, 16))


def two_ways(rows):
    """Actions near (0.7, 0.7) and (-0.7, -0.7), equally often."""
    return (0.7 * torch.randint(0, 2, (rows, 1)).mul(2).sub(1) + 0.05 * torch.randn(rows, 2)).clamp(-1, 1)


@pytest.mark.slow
def test_components_of_a_mixture_have_a_width():
    """Labels on a bound must not draw a component together until it gains more than the task explains."""
    codec = make_codec(LINE, 8, head="mixture")
    with torch.no_grad():
        codec.outputs.weight.zero_()
        codec.outputs.bias.fill_(-100.0)
    assert codec.head(torch.zeros(1, 8)).log_std.exp().min() > 0.08


@pytest.mark.parametrize(("head", "low", "high"), [("gaussian", 0, 0.3), ("mixture", 0.95, 1), ("flow", 0.9, 1)])
def test_two_equally_good_actions(head, low, high):
    drawn = fitted(head, 300, two_ways).sample(torch.Generator().manual_seed(0)).detach()
    near = [((drawn - side).norm(dim=-1) < 0.25).float().mean().item() for side in (0.7, -0.7)]
    assert low <= sum(near) <= high
    if low:
        assert min(near) > 0.35  # both of them


@every_head
def test_actions_are_normalised_by_their_bounds_or_by_data(head):
    space = spaces.Box(np.array([-2, 0, -np.inf], np.float32), np.array([6, np.inf, np.inf], np.float32))
    codec = make_codec(space, 8, head=head)
    codec.fit_actions(torch.tensor([[0.0, 3.0, -1.0], [1.0, 5.0, -1.0]]))
    assert codec.mean.tolist() == [2, 4, -1]
    assert codec.std.tolist() == [4, 1, 1]


@every_head
def test_losses_repeat_with_the_seed(head):
    codec, hidden = untrained(head)
    values = torch.randn(7, 1)
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(codec.head(hidden.expand(7, 16)).loss(values))
    assert torch.equal(*losses)


def test_an_unknown_head_is_refused(tiny_agent):
    with pytest.raises(ValueError, match="head='gausian', choose from gaussian, mixture, flow"):
        tiny_agent(head="gausian")
    tiny_agent(head="flow")  # Discrete actions have one kind of head


@every_head
def test_mixed_precision_gives_nearly_the_same_loss(head):
    codec, hidden = untrained(head)
    values, rows = torch.randn(64, 1), hidden.expand(64, 16)
    noise = torch.randn(64, codec.noise_size)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = codec.head(rows).loss(values, noise)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, codec.head(rows).loss(values, noise), atol=0.05, rtol=0.05)
