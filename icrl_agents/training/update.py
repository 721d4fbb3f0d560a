"""The optimizer, and one weight update from a global batch, in micro-batches and over processes.

The micro-batches of an update, and the random numbers of each, do not depend on the number of processes, which take
turns with them. N processes therefore compute the gradient of one process; only the order of its sum differs.
Axis letters: B rows, T steps.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import Steps
from icrl_agents.nn.compiled import compiling
from icrl_agents.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


FORWARD = 2  # separates the random streams of forward passes, for dropout, from that of `prepare_batch`


class Part(NamedTuple):
    """Micro-batch of an update."""

    number: int  # 0, 1, ... in the global batch
    rows: np.ndarray  # row indices


class Work(NamedTuple):
    """Tokens that were trained on, and the time that it took."""

    tokens: int = 0
    seconds: float = 0.0

    def plus(self, tokens: int, seconds: float) -> Work:
        return Work(self.tokens + tokens, self.seconds + seconds)


class Updater:
    """Computes gradients on batches and applies optimizer steps.

    Args:
        model: the method, wrapped by `accelerator.prepare`.
        span: number of steps in a whole training window.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Any, config: TrainConfig, span: int):
        self.accelerator, self.model, self.optimizer, self.config = accelerator, model, optimizer, config
        self.method, self.span = accelerator.unwrap_model(model), span
        self.unread: list[tuple[int, list[str], Tensor]] = []  # update, names and values of its metrics

    def update(self, batch: Steps, number: int, read: bool = True) -> list[dict[str, Any]]:
        """Apply update `number` (from 0) on the global batch (B, T).

        Returns:
            Metrics of this update and of those before it that are unread, one row each; [] unless `read`, which waits
            for the device.

        Raises:
            ValueError: a loss is not finite.
        """
        cfg, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, cfg)
        self.method.train()
        with compiling() if cfg.compile else nullcontext():
            sums = self._backward(batch, number)
        names, values = list(sums), torch.stack(list(sums.values()))
        if accelerator.num_processes > 1:  # metrics only: gradients are averaged in `backward`
            values = accelerator.reduce(values, "mean")
        self.unread.append((number, names, values))
        # before the optimizer step, so that the weights stay finite where every update is read
        rows = self.read() if read else []
        accelerator.clip_grad_norm_(self.model.parameters(), cfg.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return rows

    def read(self) -> list[dict[str, Any]]:
        """Metrics of all unread updates; ValueError for a loss that is not finite."""
        cfg, unread, self.unread = self.config, self.unread, []
        rows = []
        for number, names, values in unread:
            row = dict(zip(names, (round(value, 6) for value in values.tolist()), strict=True))
            if not math.isfinite(row["loss"]):
                raise ValueError(
                    f"the loss became {row['loss']} at update {number + 1}: lower lr={cfg.lr} or clip={cfg.clip}"
                )
            rows.append({"update": number + 1, **row, "lr": learning_rate(number, cfg)})
        return rows

    def _parts(self, number: int) -> list[Part]:
        """Micro-batches of this process; shorter windows allow more rows per micro-batch."""
        cfg, processes = self.config, self.accelerator.num_processes
        # micro_batch is for whole windows: `shorter` times as many rows of shorter ones fit
        shorter = max(1, self.span // (cfg.most_steps(number / cfg.updates) or self.span))
        count = max(math.ceil(cfg.batch_size / (cfg.micro_batch * shorter)), processes)
        parts = [Part(*part) for part in enumerate(np.array_split(np.arange(cfg.batch_size), count))]
        return parts[self.accelerator.process_index :: processes]

    def _backward(self, batch: Steps, number: int) -> dict[str, Tensor]:
        """Accumulate the gradients of all micro-batches; returns the loss terms and their sum ("loss")."""
        accelerator, method, parts = self.accelerator, self.method, self._parts(number)
        whole = max(1.0, float(method.loss_weight(batch)))  # over the global batch
        sums: dict[str, Tensor] = {}
        for part in parts:
            last = part is parts[-1]  # processes exchange gradients once per update
            with nullcontext() if last else accelerator.no_sync(self.model):
                rows = batch.rows(part.rows)
                torch.manual_seed(_seed(self.config.seed, number, part.number))
                terms = self.model(method.tensors(rows))
                # terms are means over `rows`, and processes are averaged: rescale to a mean over the global batch
                share = float(method.loss_weight(rows)) * accelerator.num_processes / whole
                loss = torch.stack(list(terms.values())).sum() * share
            accelerator.backward(loss)
            for name, value in {**terms, "loss": sum(terms.values())}.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * share
        return sums


def _seed(*numbers: int) -> int:
    """Seed of PyTorch's generators for a forward pass."""
    return int(np.random.SeedSequence([*numbers, FORWARD]).generate_state(1, np.uint64)[0]) >> 1


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
