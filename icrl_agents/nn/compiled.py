"""Transformers compiled for the whole windows of a training (`torch.compile`). Axis letters as in `transformer`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icrl_agents.core.printable import printable
from icrl_agents.nn.transformer import Transformer

BACKEND = "inductor"  # of torch.compile
COMPILERS = ("g++", "clang++", "cl")  # that Inductor finds for code on CPUs


class Whole:
    """`Spot` of whole windows that turns pairs by cosine and sine: compilers make no code for complex numbers."""

    def __init__(self, turns: Tensor, mask: Tensor | None):
        self.cos, self.sin = turns.unbind(-1)  # (L, K / 2) each
        self.mask = mask

    def rotate(self, x: Tensor) -> Tensor:
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, L, K / 2) each
        pairs = even * self.cos - odd * self.sin, even * self.sin + odd * self.cos
        return torch.stack(pairs, -1).flatten(-2).to(x.dtype)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        causal = query.shape[2] > 1 and self.mask is None
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=causal)


def compile_bodies(module: nn.Module) -> None:
    """Compile all transformers of a module for training, once per shape of a batch; weights keep their names."""
    for part in module.modules():
        if isinstance(part, Transformer):
            part.compiled = torch.compile(partial(_run, part), dynamic=False, backend=BACKEND)


def _run(body: Transformer, x: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
    return body.run(x, Whole(turns, mask))


@contextmanager
def compiling() -> Iterator[None]:
    """Say (ValueError) on one line that a compiler fails, in a block that runs compiled code forward or backward."""
    try:
        yield
    except Exception as error:
        kinds = (kind.__module__ for kind in type(error).__mro__)
        if not any(name.startswith(("torch._dynamo", "torch._inductor")) for name in kinds):
            raise
        lines = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split("\n")
        told = [line for line in lines if "error" in line.lower()]  # among commands and warnings of the compiler
        why = printable(" ".join(" ".join(told or lines).split()), 300)
        raise ValueError(f"compile=true failed ({why}): mend the compiler, or leave it out") from None


def require_compiler(device: torch.device) -> None:
    """Refuse (ValueError) to compile where no compiler for the device is installed."""
    if BACKEND != "inductor":  # the others run Python
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("compile=true needs Triton on a GPU: pip install triton, or leave it out")
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), *COMPILERS))):
        raise ValueError("compile=true needs a C++ compiler on a CPU, such as g++: install one, or leave it out")
