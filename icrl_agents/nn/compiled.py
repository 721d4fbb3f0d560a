"""Transformers compiled for the whole windows of a training (`torch.compile`). Axis letters as in `transformer`."""

from __future__ import annotations

import os
import shutil
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def require_compiler(device: torch.device) -> None:
    """Refuse (ValueError) to compile where no compiler for the device is installed."""
    if BACKEND != "inductor":  # the others run Python
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("compile=true needs Triton on a GPU: pip install triton, or leave it out")
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), *COMPILERS))):
        raise ValueError("compile=true needs a C++ compiler on a CPU, such as g++: install one, or leave it out")
