"""Linear layers of real numbers, as they are or with bins. Axis letters: N numbers, K bins, D width, M samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NARROWEST = 1e-3  # width of a bin in ranges of the data: equal values would make bins without a width
LEAST = 1e-6  # and in units of the number, as float32 rounding is about as large


class BinnedLinear(nn.Linear):
    """Linear layer of N numbers and their piecewise linear encodings (Gorishniy et al. 2022, arXiv 2203.05556, eq. 1).

    A number has K further entries, one for each bin: 0 below the bin, 1 above it, linear within it. The bins are
    equally frequent in the data, so values that lie close together, such as rewards near the best one, are as easy to
    tell apart as any. Beyond the data the number itself goes on.
    """

    edges: Tensor  # (N, K + 1), ascending

    def __init__(self, size: int, width: int, bins: int):
        super().__init__(size * (1 + bins), width)
        self.register_buffer("edges", torch.linspace(-2, 2, bins + 1).repeat(size, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., D) of numbers (..., N)."""
        number = x[..., None]  # (..., N, 1)
        inside = ((number - self.edges[:, :-1]) / self.edges.diff(dim=1)).clamp(0, 1)  # (..., N, K)
        return super().forward(torch.cat([number, inside], -1).flatten(-2))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the edges to quantiles of data (M, N)."""
        count = self.edges.shape[1]
        places = torch.linspace(0, len(x) - 1, count, device=x.device).round().long()
        edges = x.double().sort(dim=0).values[places].T  # (N, K + 1)
        low, high = edges[:, :1], edges[:, -1:]
        narrowest = torch.maximum((high - low) * NARROWEST, LEAST * torch.maximum(low.abs(), high.abs()).clamp_min(1))
        rising = torch.arange(count, device=x.device) * narrowest
        self.edges.copy_((edges - rising).cummax(1).values + rising)

    def validate(self, what: str) -> None:
        """Refuse (ValueError) impossible edges, in loaded weights; the message names them as `what`."""
        if not (self.edges.isfinite().all() and (self.edges.diff(dim=1) > 0).all()):
            raise ValueError(f"{what} have edges that do not ascend or are not finite: the checkpoint is damaged")


def number_layer(size: int, width: int, bins: int) -> nn.Linear:
    """Layer (..., size) -> (..., width); with 0 bins a linear one."""
    return BinnedLinear(size, width, bins) if bins else nn.Linear(size, width)
