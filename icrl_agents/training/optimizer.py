"""What changes the weights in training: the optimizer, and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from icrl_agents.training.config import TrainConfig


def make_optimizer(agent: nn.Module, cfg: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; norms, biases and embeddings are not decayed."""
    decayed = {module.weight for module in agent.modules() if isinstance(module, nn.Linear)}
    groups = [
        {"params": [p for p in agent.parameters() if p in decayed], "weight_decay": cfg.weight_decay},
        {"params": [p for p in agent.parameters() if p not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, cfg.beta2), fused=True)


def learning_rate(update: int, cfg: TrainConfig) -> float:
    """Linear warm-up to `cfg.lr`, then half a cosine down to a hundredth of it."""
    warm = max(1, round(cfg.warmup * cfg.updates))
    if update < warm:
        return cfg.lr * (update + 1) / warm
    done = (update - warm) / max(1, cfg.updates - warm)
    return cfg.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
