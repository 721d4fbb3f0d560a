"""Quantisers: few vectors, gradients that pass, codebooks that only training changes."""

import pytest
import torch

from icrl_agents.nn.quantizers import FSQ_LEVELS, QUANTIZERS, Quantizer

BOOKS = ["vq", "residual-vq"]


def build(kind: str, codes: int = 8, levels: int = 3) -> Quantizer:
    torch.manual_seed(0)
    return Quantizer(kind, 4, codes, levels, commitment=0.5)


def vectors(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_vectors_are_few_and_gradients_pass_straight_through(kind):
    quantizer, given = build(kind, codes=16), vectors().requires_grad_()
    found = quantizer(given)
    assert found.vectors.shape == (200, 4)
    assert found.codes.dtype == torch.long
    assert found.codes.shape == (200, {"none": 0, "residual-vq": 3}.get(kind, 1))
    if kind != "none":
        assert len(found.vectors.detach().round(decimals=4).unique(dim=0)) == len(found.codes.unique(dim=0)) < 200
    found.vectors.sum().backward()
    assert given.grad is not None
    if kind != "fsq":  # which has projections
        torch.testing.assert_close(given.grad, torch.ones(200, 4))


@pytest.mark.parametrize("kind", BOOKS)
def test_the_loss_is_the_distance_to_the_codes(kind):
    quantizer, given = build(kind, levels=1), vectors().requires_grad_()
    found = quantizer(given)
    expected = 0.5 * (given - found.vectors).pow(2).mean()
    torch.testing.assert_close(found.loss, expected)
    assert found.loss > 0


def test_each_level_quantises_what_the_levels_before_have_left():
    """The parts of all levels add up to the vector, and what is left becomes less from level to level."""
    quantizer = build("residual-vq").train()
    for _ in range(20):
        quantizer(vectors())
    quantizer.eval()
    given = vectors()
    found = quantizer(given)
    parts = quantizer.layer.get_codes_from_indices(found.codes[None])[:, 0]  # (L, N, Z)
    torch.testing.assert_close(parts.sum(0), found.vectors)
    left = [(given - parts[:level].sum(0)).norm(dim=1) for level in range(4)]
    for level in range(3):
        every = torch.arange(8)[None, :, None].expand(1, 8, 3)
        book = quantizer.layer.get_codes_from_indices(every)[level, 0]  # (codes, Z)
        nearest = torch.cdist(given - parts[:level].sum(0), book).argmin(1)
        assert torch.equal(nearest, found.codes[:, level])  # of the residual, not of the vector
    means = [norm.mean().item() for norm in left]
    assert means == sorted(means, reverse=True)
    assert means[3] < 0.6 * means[1]


@pytest.mark.parametrize("kind", BOOKS)
def test_only_training_changes_codebooks(kind):
    quantizer = build(kind).train()
    quantizer(vectors())
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()
    one, two = quantizer(3 + vectors()), quantizer(3 + vectors())
    assert torch.equal(one.codes, two.codes)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    quantizer.train()(3 + vectors())
    assert any(not torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize("kind", BOOKS)
def test_codes_start_in_the_data_and_none_stays_dead(kind):
    quantizer = build(kind, levels=1).train()
    far = 100 + vectors(400)
    for _ in range(5):
        found = quantizer(far)
    assert len(found.codes.unique()) == 8


@pytest.mark.parametrize("codes", FSQ_LEVELS)
def test_fsq_has_as_many_codes_as_asked_for(codes):
    assert build("fsq", codes).layer.codebook_size == codes
