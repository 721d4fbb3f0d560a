"""Validation while training: the in-context return on tasks that decide between settings, and cautions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.caution import warn
from icrl_agents.core.families import all_families, find_family
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.methods.base.method import Method
from icrl_agents.training.request import Request

FEW_TASKS = 20
VALIDATION_TASKS = 32  # at most: enough to see progress, few enough not to delay it
LIFETIMES = 4  # on each of them


def validate(method: Method, request: Request) -> dict[str, float]:
    """In-context return on validation tasks, of the latter half of episodes; never on test tasks."""
    method.eval()
    config, tasks = request.config, request.splits().validation.ids[:VALIDATION_TASKS]
    agent = ICAgent(method, {"split_seed": config.split_seed, "train": asdict(config)})
    episodes = config.eval_episodes
    curve = evaluate(agent, request.env_id, episodes=episodes, num_seeds=LIFETIMES, seed=config.seed, tasks=tasks)
    return {
        "validation_return": float(curve.mean[-max(1, episodes // 2) :].mean()),
        "validation_random": float(curve.random.mean()),
        "validation_optimal": float(curve.optimal.mean()),
    }


def validation_notes(row: dict[str, Any]) -> tuple[str, str]:
    """What a progress bar shows before the loss, and behind it, where a narrow terminal has no room."""
    if "validation_return" not in row:  # of the other processes
        return "", ""
    earned, random, best = (row[f"validation_{name}"] for name in ("return", "random", "optimal"))
    return f"validation {earned:.2f} of {best:.2f}  ", f"  random {random:.2f}"


def warn_few(env_id: str, tasks: int) -> None:
    """Warn of training tasks that are so few that an agent learns them instead of learning to learn."""
    if tasks < FEW_TASKS:
        kind = type(find_family(env_id))
        larger = (one.env_id for one in all_families() if type(one) is kind and one.num_tasks > FEW_TASKS)
        advice = f": for unseen tasks train on {name}" if (name := next(larger, None)) else ""
        warn(f"{env_id} has {tasks} training tasks, which an agent learns by heart{advice}")
