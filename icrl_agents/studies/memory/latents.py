"""What is done to latents to see what they are worth: they are zeroed, swapped between tasks, shuffled or frozen.

Axis letters: B rows, Z latents, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.checks import check_choice
from icrl_agents.core.rollout import facts_of
from icrl_agents.evaluation.evaluate import learner_name

CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of latents (B, Z, D), given those of each row's first fold
    "none": lambda latents, first: latents,
    "zeroed": lambda latents, first: torch.zeros_like(latents),
    "swapped": lambda latents, first: latents.roll(1, 0),  # with those of another row: zeros if it has folded nothing
    "shuffled": lambda latents, first: latents.roll(1, 1),  # within a row
    "frozen": lambda latents, first: first,  # as the first fold left them
}


def check_change(agent: Any, change: str, tasks: int = 2) -> None:
    """Refuse a change that there is not, or that is none for this agent on so many tasks.

    Raises:
        ValueError: no such change, one for an agent without latents, or a swap of a task with itself.
    """
    check_choice("change", change, CHANGES)
    if change != "none" and not has_latents(agent):
        raise ValueError(f"change={change!r} is for agents with latents, such as cad: leave it out")
    if change == "swapped" and tasks < 2:
        raise ValueError("change='swapped' takes latents of another task, here is one: give another split")


def has_latents(agent: Any) -> bool:
    """Whether a learner folds what has left its window into latents."""
    return isinstance(agent, ICAgent) and agent.method.has_latents


class Changed:
    """A learner: an agent that sees its latents changed as soon as they are made, and folds the true ones.

    `evaluate(Changed(agent, "zeroed"), env_id)` tells what a lifetime without its memory is worth.

    Raises:
        ValueError: no such change, or one for an agent without latents.
    """

    def __init__(self, agent: Any, change: str):
        check_change(agent, change)
        self.agent, self.change, self.facts = agent, CHANGES[change], facts_of(agent)
        self.has_latents = has_latents(agent)
        self.name = f"{learner_name(agent)}, latents {change}"

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        self.agent.reset(env, seed=seed)
        self.begin()

    def act(self, obs: Any) -> Any:
        if self.has_latents:
            self.change_new()
        return self.agent.act(obs)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        self.agent.observe(obs, reward, terminated, truncated, info)

    def begin(self, first: Tensor | None = None) -> None:
        """Nothing was changed yet; `first` are the latents of each row's first fold, if that is long ago."""
        if self.has_latents:
            memory = self.agent.context.memory
            self.folds, self.shown = np.zeros_like(memory.folds), memory.latents.clone()
            self.first = self.shown if first is None else first

    @torch.inference_mode()
    def change_new(self) -> None:
        """Let the rows fold that are about to, and change what those see that have folded since the last change."""
        context = self.agent.context
        self.agent.method.handle_overflow(context)
        memory = context.memory
        if not (memory.folds > self.folds).any():
            return
        true = memory.latents.clone()
        new, begun = (
            torch.as_tensor(rows, device=true.device)[:, None, None]
            for rows in (memory.folds > self.folds, memory.folds == 1)
        )
        self.first = torch.where(new & begun, true, self.first)
        self.shown = torch.where(new, self.change(true, self.first), self.shown)
        self.folds = memory.folds.copy()
        self.agent.method.replace_latents(context, self.shown)
        memory.latents.copy_(true)
