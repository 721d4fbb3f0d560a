"""One weight update from a global batch, in micro-batches and over processes. Axis letters: B rows, T steps."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from icrl_agents.core.steps import Steps
from icrl_agents.training.config import TrainConfig
from icrl_agents.training.optimizer import learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator


class Updater:
    """Computes gradients on batches and applies optimizer steps.

    Args:
        model: the method, wrapped by `accelerator.prepare`.
        span: number of steps in a whole training window.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Any, config: TrainConfig, span: int):
        self.accelerator, self.model, self.optimizer, self.config = accelerator, model, optimizer, config
        self.method, self.span = accelerator.unwrap_model(model), span

    def update(self, batch: Steps, number: int) -> dict[str, Any]:
        """Apply update `number` (from 0) on the global batch (B, T); returns its metrics.

        Raises:
            ValueError: the loss is not finite.
        """
        cfg, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, cfg)
        self.method.train()
        sums = self._backward(batch, self._parts(number))
        # before the optimizer step, so that the saved weights stay finite
        if not math.isfinite(sums["loss"]):
            raise ValueError(
                f"the loss became {sums['loss']} at update {number + 1}: lower lr={cfg.lr} or clip={cfg.clip}"
            )
        accelerator.clip_grad_norm_(self.model.parameters(), cfg.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if accelerator.num_processes > 1:
            # metrics only: gradients are averaged in `backward`
            values = accelerator.reduce(torch.tensor(list(sums.values()), device=accelerator.device), "mean")
            sums = dict(zip(sums, values.tolist(), strict=True))
        rounded = {name: round(value, 6) for name, value in sums.items()}
        return {"update": number + 1, **rounded, "lr": learning_rate(number, cfg)}

    def _parts(self, number: int) -> list[np.ndarray]:
        """Row indices of each micro-batch of this process; shorter windows allow more rows per micro-batch."""
        cfg = self.config
        ours = np.arange(cfg.batch_size)[self.accelerator.process_index :: self.accelerator.num_processes]
        # micro_batch is for whole windows: `shorter` times as many rows of shorter ones fit
        shorter = max(1, self.span // (cfg.most_steps(number / cfg.updates) or self.span))
        return np.array_split(ours, math.ceil(len(ours) / (cfg.micro_batch * shorter)))

    def _backward(self, batch: Steps, parts: list[np.ndarray]) -> dict[str, float]:
        """Accumulate the gradients of all micro-batches; returns the loss terms and their sum ("loss")."""
        accelerator, method = self.accelerator, self.method
        whole = max(1.0, float(method.loss_weight(batch)))  # over the global batch
        sums: dict[str, float] = {}
        for number, part in enumerate(parts):
            last = number + 1 == len(parts)  # processes exchange gradients once per update
            with nullcontext() if last else accelerator.no_sync(self.model), accelerator.autocast():
                rows = batch.rows(part)
                terms = self.model(method.tensors(rows))
                # terms are means over `rows`, and processes are averaged: rescale to a mean over the global batch
                share = float(method.loss_weight(rows)) * accelerator.num_processes / whole
                loss = torch.stack(list(terms.values())).sum() * share
            accelerator.backward(loss)
            for name, value in {**terms, "loss": sum(terms.values())}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
        return sums
