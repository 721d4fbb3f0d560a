"""Optimizer (AdamW) and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from icrl_agents.training.config import TrainConfig


def make_optimizer(agent: nn.Module, cfg: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with weight decay on the matrices of linear layers only: not on norms, biases and embeddings."""
    decayed = {module.weight for module in agent.modules() if isinstance(module, nn.Linear)}
    groups = [
        {"params": [p for p in agent.parameters() if p in decayed], "weight_decay": cfg.weight_decay},
        {"params": [p for p in agent.parameters() if p not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, cfg.beta2), fused=True)


def learning_rate(update: int, cfg: TrainConfig) -> float:
    """Learning rate of update 0, 1, ...: linear warm-up to `cfg.lr`, then cosine decay to 1 % of it."""
    warm = max(1, round(cfg.warmup * cfg.updates))
    if update < warm:
        return cfg.lr * (update + 1) / warm
    done = (update - warm) / max(1, cfg.updates - warm)
    return cfg.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))  # done: share of the updates after warm-up
