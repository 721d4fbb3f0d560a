"""Settings of latent action models. Axis letters: W earlier frames, Z size of a latent action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from icrl_agents.methods.base.config import ModelConfig
from icrl_agents.nn.quantizers import FSQ_LEVELS, QUANTIZERS


@dataclass(frozen=True)
class LAMConfig(ModelConfig):
    """Sizes of a latent action model."""

    encoder: str = "cnn"  # networks of images: "cnn" or "vit", a transformer of patches; vectors have an MLP
    width: int = 128  # size of hidden vectors
    layers: int = 2  # blocks of each transformer of "vit"; published: 6
    heads: int = 4  # attention heads of "vit"; published: 8
    patch: int = 4  # side of a patch of "vit" in pixels; published: 8, of images of 64
    latent: int = 16  # size of a latent action, Z
    quantizer: str = "vq"  # quantiser of latent actions: "vq", "residual-vq", "fsq" or "none"
    codes: int = 16  # number of codes of a level; of "fsq" 9, 16, 64, 240, 1000 or 4096
    levels: int = 2  # levels of "residual-vq"
    commitment: float = 0.05  # weight of the distance between a latent action and its code
    earlier: int = 0  # frames before the current one that both models read, W; published: 1
    differences: bool = True  # whether the inverse model reads changes between frames instead of frames; published: no
    bounded: bool = False  # whether an image is predicted as tanh(x)/2 instead of by its change; published: yes
    ahead: int = 1  # frames that the forward model predicts, each from the predictions before it, k
    hierarchy: int = 0  # length of a skill in steps, beside the latent action of each step; 0: no skills
    decoder: bool = False  # whether to learn actions from latent actions too, which shapes them: the joint stage
    label_weight: float = 1.0  # weight of the loss of actions
    window: int = 8  # number of steps in a training window

    CHOICES: ClassVar = {"quantizer": QUANTIZERS, "encoder": ("cnn", "vit")}
    MEANINGS: ClassVar = ("heads", "bounded", "hierarchy", "quantizer", "codes", "levels")
    ADDED: ClassVar = MappingProxyType(
        {"decoder": False, "label_weight": 1.0, "encoder": "cnn", "layers": 2, "heads": 4, "patch": 4}
        | {"bounded": False, "ahead": 1, "hierarchy": 0}
    )
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "width": (2, 8192),
        "layers": (1, 128),
        "heads": (1, 128),
        "patch": (1, 256),
        "latent": (1, 4096),
        "codes": (2, 65536),
        "levels": (1, 16),
        "commitment": (0.0, 100.0),
        "earlier": (0, 64),
        "ahead": (1, 1000),
        "hierarchy": (0, 1000),
        "label_weight": (0.0, 1e6),
        "window": (1, 100_000),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantizer == "fsq" and self.codes not in FSQ_LEVELS:
            sizes = ", ".join(map(str, FSQ_LEVELS))
            raise ValueError(f"codes={self.codes}: quantizer='fsq' has one of {sizes} codes, so give one of these")
        if self.encoder == "vit" and self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        for name in ("ahead", "hierarchy"):
            if (steps := getattr(self, name)) > self.window:
                raise ValueError(f"{name}={steps} steps are more than window={self.window}: give a longer window")
        if self.earlier >= self.window:
            raise ValueError(
                f"earlier={self.earlier} frames before the current one are in no window={self.window}: "
                "give a longer window"
            )
        if self.hierarchy == 1:
            raise ValueError("hierarchy=1: a skill is of 2 steps or more, and 0 means none")
        if self.hierarchy and self.decoder:
            raise ValueError(
                f"decoder=true learns from steps alone, hierarchy={self.hierarchy} of several: leave one out"
            )

    @property
    def span(self) -> int:
        return self.window

    @property
    def unread(self) -> Mapping[str, str]:
        coded, vit = "without quantizer='vq' or 'residual-vq'", "without encoder='vit'"
        return {
            **(dict.fromkeys(("layers", "heads", "patch"), vit) if self.encoder != "vit" else {}),
            **({"levels": "without quantizer='residual-vq'"} if self.quantizer != "residual-vq" else {}),
            **({"commitment": coded} if self.quantizer in ("fsq", "none") else {}),
            **({"codes": "without a quantizer"} if self.quantizer == "none" else {}),
            **({"label_weight": "without decoder=true"} if not self.decoder else {}),
        }

    @property
    def one_process(self) -> str:
        moves = self.quantizer in ("vq", "residual-vq")
        return f"quantizer={self.quantizer!r} moves its codes in every forward pass" if moves else ""
