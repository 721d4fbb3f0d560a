"""Validation during training: in-context return on validation tasks, and a warning about too few training tasks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.shown import usual_demos
from icrl_agents.core.families import all_families, find_family, is_native
from icrl_agents.core.process.caution import warn
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.methods.base.method import Method
from icrl_agents.training.request import Request

FEW_TASKS = 20
VALIDATION_TASKS = 32  # maximum number of tasks: enough to show progress at little cost
LIFETIMES = 4  # lifetimes per validation task


def validate(method: Method, request: Request) -> dict[str, float]:
    """Mean return on validation tasks over the second half of the episodes, with its random and optimal reference."""
    method.eval()
    config, tasks = request.config, request.splits().validation.ids[:VALIDATION_TASKS]
    agent = ICAgent(method, {"split_seed": config.split_seed, "train": asdict(config)})  # facts that select the split
    episodes = config.eval_episodes
    demos = usual_demos(agent, request.env_id)
    curve = evaluate(
        agent, request.env_id, episodes=episodes, num_seeds=LIFETIMES, seed=config.seed, tasks=tasks, demos=demos
    )
    row = {
        "validation_return": float(curve.mean[-max(1, episodes // 2) :].mean()),  # (E,) -> second half
        "validation_random": float(curve.random.mean()),
        "validation_optimal": float(curve.optimal.mean()),
    }
    return {name: value for name, value in row.items() if np.isfinite(value)}  # the optimum may not be known


def validation_notes(row: dict[str, Any]) -> tuple[str, str]:
    """Texts of a progress bar before and after the loss; narrow terminals cut the latter off."""
    if "validation_return" not in row:  # only the main process validates
        return "", ""
    possible = f" of {row['validation_optimal']:.2f}" if "validation_optimal" in row else ""
    return f"validation {row['validation_return']:.2f}{possible}  ", f"  random {row['validation_random']:.2f}"


def warn_few(env_id: str, tasks: int) -> None:
    """Warn about a training set so small that an agent memorises its tasks instead of learning in context."""
    if tasks < FEW_TASKS:
        family = find_family(env_id)
        larger = (one.env_id for one in all_families() if type(one) is type(family) and one.num_tasks > FEW_TASKS)
        if not is_native(family):  # others have no relation to it
            advice = ": register more"
        else:
            advice = f": for unseen tasks train on {name}" if (name := next(larger, None)) else ""
        warn(f"{env_id} has {tasks} training tasks, so few that an agent memorises them{advice}")
