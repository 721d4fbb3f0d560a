"""The gate of the compressor: how much of the old latents stays."""

import pytest
import torch

from icrl_agents.nn.compressor import Compressor, Reader


def fold(gate: str, bias: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Old latents, and those after a fold whose gate has the bias `bias`."""
    torch.manual_seed(0)
    compressor = Compressor(Reader(4, 16, 2, 2, 24, 0.0), 8, gate)
    torch.nn.init.constant_(compressor.open.bias, bias)
    old = torch.randn(3, 4, 16)
    return old, compressor(old, torch.randn(3, 8, 16))


@torch.no_grad()
def test_a_hard_gate_keeps_latents_exactly():
    old, new = fold("hard", -3.0)
    assert torch.equal(old, new)
    old, new = fold("gated", -3.0)
    assert not torch.equal(old, new)


@torch.no_grad()
def test_a_hard_gate_replaces_latents_exactly():
    (old, new), (_, other) = fold("hard", 3.0), fold("hard", 30.0)
    assert torch.equal(new, other)
    assert not torch.isclose(old, new).any()


@pytest.mark.parametrize("gate", ["gated", "hard"])
def test_gates_begin_alike_and_learn(gate: str):
    torch.manual_seed(0)
    compressor = Compressor(Reader(4, 16, 2, 2, 24, 0.0), 8, gate)
    old, x = torch.randn(3, 4, 16), torch.randn(3, 8, 16)
    found = compressor(old, x)
    share = (
        (found - old) / (compressor.reader(torch.cat([old + compressor.old, x + compressor.place[:8]], 1)) - old)
    ).mean()
    assert share.item() == pytest.approx(0.12, abs=0.003)
    found.square().sum().backward()
    assert compressor.open.bias.grad.abs().min() > 0
