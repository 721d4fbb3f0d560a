"""How an agent is measured: on which tasks, for how long and how often."""

from __future__ import annotations

from typing import NamedTuple


class EvalSpec(NamedTuple):
    """Settings of a measurement; None leaves a number to the function that measures."""

    split: str = "test"
    episodes: int | None = None  # episodes of a lifetime
    num_seeds: int | None = None  # lifetimes on each task
    seed: int = 0
    tasks: int | None = None  # maximum number of tasks, evenly spaced over the split
