"""Transformers with a lower precision or compiled code in training: nearly the same outputs, acting unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from icrl_agents.nn import compiled
from icrl_agents.nn.compiled import compile_bodies, require_compiler
from icrl_agents.nn.compressor import Reader
from icrl_agents.nn.lowered import set_precision
from icrl_agents.nn.transformer import Transformer
from tests.conftest import one_line

WIDTH = 16


@pytest.fixture
def body() -> Transformer:
    torch.manual_seed(0)
    body = Transformer(WIDTH, layers=2, heads=2, inner=24)
    for parameter in body.parameters():  # the small initial scale would hide errors
        torch.nn.init.normal_(parameter, std=0.4)
    return body


def outputs(module: torch.nn.Module, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Outputs and the gradient with respect to the inputs."""
    x = torch.randn(rows, 12, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def test_products_are_lower_in_training_alone(body: Transformer):
    exact = outputs(body)
    set_precision(body, "bf16")
    for found, wanted in zip(outputs(body), exact, strict=True):
        assert found.dtype == torch.float32
        assert not torch.equal(found, wanted)
        torch.testing.assert_close(found, wanted, atol=0.05 * float(wanted.abs().max()), rtol=0.1)
    assert torch.equal(body.eval()(torch.ones(1, 3, WIDTH)), copy.deepcopy(body)(torch.ones(1, 3, WIDTH)))
    assert torch.equal(outputs(body)[0], exact[0])  # as acting computes
    set_precision(body.train(), "no")
    assert torch.equal(outputs(body)[0], exact[0])


def test_readers_are_lowered_too():
    torch.manual_seed(0)
    reader = Reader(4, WIDTH, layers=1, heads=2, inner=24, dropout=0.0)
    exact, _ = outputs(reader)
    set_precision(reader, "bf16")
    found, _ = outputs(reader)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) < 0.1


@pytest.mark.slow
def test_compiled_windows_equal_plain_ones(body: Transformer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")  # traces as the others do, and generates no code
    exact, names = outputs(body), list(body.state_dict())
    compile_bodies(body)
    for rows in (3, 1):  # each shape is compiled by itself
        for found, wanted in zip(outputs(body, rows), exact, strict=True):
            torch.testing.assert_close(found, wanted[:rows], atol=1e-4, rtol=1e-4)
    assert list(body.state_dict()) == names
    assert body.compiled is not None
    assert copy.deepcopy(body).compiled is None
    x, parts = torch.randn(2, 12, WIDTH), torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    torch.testing.assert_close(body(x, parts=parts), body.eval()(x, parts=parts), atol=1e-4, rtol=1e-4)
    cache = body.eval().make_cache(1, 4)
    assert torch.equal(body(torch.ones(1, 3, WIDTH), cache), body(torch.ones(1, 3, WIDTH)))


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    one_line(lambda: require_compiler(torch.device("cpu")), ValueError, "compile=true", "C++ compiler")
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    one_line(lambda: require_compiler(torch.device("cuda")), ValueError, "compile=true", "Triton")
