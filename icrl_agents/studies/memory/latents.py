"""Interventions on latents, to measure their value: zeroed, swapped between tasks, shuffled or frozen.

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

# (latents (B, Z, D), latents after each row's first fold (B, Z, D)) -> changed latents (B, Z, D)
INTERVENTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda latents, first: latents,
    "zeroed": lambda latents, first: torch.zeros_like(latents),
    "swapped": lambda latents, first: latents.roll(1, 0),  # those of the previous row; zeros if it has no fold yet
    "shuffled": lambda latents, first: latents.roll(1, 1),  # cyclic shift within a row
    "frozen": lambda latents, first: first,  # as after the first fold
}


def check_change(agent: Any, change: str, tasks: int = 2) -> None:
    """Check that a change applies to this agent on `tasks` tasks.

    Raises:
        ValueError: unknown change, an agent without latents, or "swapped" on a single task.
    """
    check_choice("change", change, INTERVENTIONS)
    if change != "none" and not has_latents(agent):
        raise ValueError(f"change={change!r} is for agents with latents, such as cad: leave it out")
    if change == "swapped" and tasks < 2:
        raise ValueError("change='swapped' takes latents of another task, here is one: give another split")


def has_latents(agent: Any) -> bool:
    """Whether a learner is an agent that folds evicted steps into latents."""
    return isinstance(agent, ICAgent) and agent.method.has_latents


class LatentIntervention:
    """A learner: an agent that attends to changed latents after every fold, while later folds use the true ones.

    `evaluate(LatentIntervention(agent, "zeroed"), env_id)` measures the return without the memory.

    Raises:
        ValueError: unknown change, or an agent without latents.
    """

    def __init__(self, agent: Any, change: str):
        check_change(agent, change)
        self.agent, self.change, self.facts = agent, INTERVENTIONS[change], facts_of(agent)
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
        """Start without changes; `first` (B, Z, D) are the latents after the first fold, if it is already past."""
        if self.has_latents:
            memory = self.agent.context.memory
            self.folds, self.shown = np.zeros_like(memory.folds), memory.latents.clone()
            self.first = self.shown if first is None else first

    @torch.inference_mode()
    def change_new(self) -> None:
        """Apply pending folds, then change the visible latents of rows with a new fold."""
        context = self.agent.context
        self.agent.method.handle_overflow(context)  # applies pending folds before the action
        memory = context.memory
        if not (memory.folds > self.folds).any():
            return
        true = memory.latents.clone()  # (B, Z, D)
        new, begun = (  # (B, 1, 1) each: rows with a new fold, rows with exactly one fold
            torch.as_tensor(rows, device=true.device)[:, None, None]
            for rows in (memory.folds > self.folds, memory.folds == 1)
        )
        self.first = torch.where(new & begun, true, self.first)
        self.shown = torch.where(new, self.change(true, self.first), self.shown)
        self.folds = memory.folds.copy()
        self.agent.method.replace_latents(context, self.shown)
        memory.latents.copy_(true)  # the next fold reads the true latents
