"""How an agent is measured: by what, on which tasks, for how long and how often."""

from __future__ import annotations

from typing import NamedTuple

RETURN, SUCCESS, BEST = "return", "success", "best_so_far"
MEASURES = {  # what an episode is measured by, and its label in a figure
    RETURN: "return (sum of an episode's rewards)",
    SUCCESS: "success (share of lifetimes)",
    BEST: "success so far (share of lifetimes)",
}


class EvalSpec(NamedTuple):
    """Settings of a measurement; None leaves a number to the function that measures."""

    split: str = "test"
    episodes: int | None = None  # episodes of a lifetime
    num_seeds: int | None = None  # lifetimes on each task
    seed: int = 0
    tasks: int | None = None  # maximum number of tasks, evenly spaced over the split
