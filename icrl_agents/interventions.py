"""What is done to latents to see what they are worth: they are zeroed, swapped between tasks, shuffled or frozen.

Axis letters: B rows, Z latents, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icrl_agents.config import check_choice

CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of latents (B, Z, D), given those of each row's first fold
    "none": lambda latents, first: latents,
    "zeroed": lambda latents, first: torch.zeros_like(latents),
    "swapped": lambda latents, first: latents.roll(1, 0),  # with those of another task
    "shuffled": lambda latents, first: latents.roll(1, 1),  # within a row
    "frozen": lambda latents, first: first,  # as the first fold left them
}


class Changed:
    """A learner: an agent whose latents are changed after every fold, before it acts on them.

    `evaluate(Changed(agent, "zeroed"), env_id)` tells what a lifetime without its memory is worth.

    Raises:
        ValueError: no such change, or one for an agent without latents.
    """

    def __init__(self, agent: Any, change: str):
        check_choice("change", change, CHANGES)
        if change != "none" and not hasattr(agent, "replace_latents"):
            raise ValueError(f"change={change!r} is for agents with latents, such as cad: leave it out")
        self.agent, self.change, self.facts = agent, CHANGES[change], getattr(agent, "facts", {})

    def reset(self, env: Any, *, seed: int | None = None) -> None:
        self.agent.reset(env, seed=seed)
        self._begin()

    def act(self, obs: Any) -> Any:
        self._change_new()
        return self.agent.act(obs)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        self.agent.observe(obs, reward, terminated, truncated, info)

    def _begin(self, first: Tensor | None = None) -> None:
        """Nothing was changed yet; `first` are the latents of each row's first fold, if that is long ago."""
        if hasattr(self.agent, "replace_latents"):
            memory = self.agent.context.memory
            self.folds, self.first = np.zeros_like(memory.folds), memory.latents if first is None else first

    @torch.inference_mode()
    def _change_new(self) -> None:
        """Let the rows fold that are about to, and change what they have folded since the last change."""
        if not hasattr(self.agent, "replace_latents"):
            return
        context = self.agent.context
        self.agent.make_room(context)
        memory = context.memory
        if not (memory.folds > self.folds).any():
            return
        latents = memory.latents.clone()
        new, begun = (
            torch.as_tensor(rows, device=latents.device)[:, None, None]
            for rows in (memory.folds > self.folds, memory.folds == 1)
        )
        self.first = torch.where(new & begun, latents, self.first)
        self.folds = memory.folds.copy()
        self.agent.replace_latents(context, torch.where(new, self.change(latents, self.first), latents))
