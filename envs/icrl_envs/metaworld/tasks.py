"""Reset spaces of Meta-World's 50 tasks, and the goals of the ML1 benchmark that are drawn from them.

A task of ML1 is one array `rand_vec`: the place of an object, and in most tasks that of a goal. The spaces are those of
metaworld 3.1.1, written down here so that families are known without it; a test compares them and the goals with the
package. Axis letters: N tasks, D entries of a rand_vec.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from icrl_envs.base.checks import as_array, short

GOALS = 50  # training goals of ML1, and as many for tests
FREE = 10_000  # goals drawn beyond them
TASKS = 2 * GOALS + FREE
TAKEN = 0.25  # largest share of the space that the margins around the test goals take
NOTICED = 0.02  # metres; entries of a rand_vec with a smaller range do not tell goals apart
FREE_SEED = 20_000
BLOCK = 4096  # goals drawn at a time
PLACE = 3  # entries of a place
ROUNDING = 1e-9  # metres


class Space(NamedTuple):
    """Reset space of a task: a rand_vec is uniform in a box, drawn again until its two places are apart."""

    low: tuple[float, ...]  # (D,), D = 3 for one place, 6 for an object and a goal
    high: tuple[float, ...]  # (D,)
    apart: float = 0.0  # smallest horizontal distance between object and goal
    goal: tuple[float, float] | None = None  # horizontal place that `apart` refers to; None: the drawn goal's

    @property
    def has_goal(self) -> bool:
        """Whether a goal is drawn beside the object; otherwise it is a place on the object, which is observed."""
        return len(self.low) == 2 * PLACE

    def fits(self, rand_vecs: np.ndarray) -> np.ndarray:
        """Return (N,) bool: the two places of `rand_vecs` (N, D) are apart."""
        if not self.apart:
            return np.ones(len(rand_vecs), bool)
        goal = rand_vecs[:, 3:5] if self.goal is None else np.array(self.goal)
        return np.linalg.norm(rand_vecs[:, :2] - goal, axis=1) >= self.apart

    def hidden(self) -> np.ndarray:
        """Return the indices of the entries that tell goals apart: of the goal where it varies, else of the object."""
        wide = np.flatnonzero(np.subtract(self.high, self.low) >= NOTICED)
        goal = wide[wide >= 3]
        return goal if len(goal) else wide


SPACES: dict[str, Space] = {
    "assembly": Space((0.0, 0.6, 0.02, -0.1, 0.75, 0.1), (0.0, 0.6, 0.02, 0.1, 0.85, 0.1), 0.1),
    "basketball": Space((-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0), (0.1, 0.7, 0.0301, 0.1, 0.9000001, 0.0), 0.15),
    "bin-picking": Space((-0.21, 0.65, 0.02, 0.1199, 0.699, -0.001), (-0.03, 0.75, 0.02, 0.1201, 0.701, 0.001)),
    "box-close": Space((-0.05, 0.5, 0.02, -0.1, 0.7, 0.133), (0.05, 0.55, 0.02, 0.1, 0.8, 0.133), 0.25),
    "button-press-topdown": Space((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115)),
    "button-press-topdown-wall": Space((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115)),
    "button-press": Space((-0.1, 0.85, 0.115), (0.1, 0.9, 0.115)),
    "button-press-wall": Space((-0.05, 0.85, 0.1149), (0.05, 0.9, 0.1151)),
    "coffee-button": Space((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
    "coffee-pull": Space((-0.05, 0.7, -0.001, -0.1, 0.55, -0.001), (0.05, 0.75, 0.001, 0.1, 0.65, 0.001), 0.15),
    "coffee-push": Space((-0.1, 0.55, -0.001, -0.05, 0.7, -0.001), (0.1, 0.65, 0.001, 0.05, 0.75, 0.001), 0.15),
    "dial-turn": Space((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
    "disassemble": Space((0.0, 0.6, 0.025, -0.1, 0.6, 0.1699), (0.1, 0.75, 0.02501, 0.1, 0.75, 0.1701), 0.1),
    "door-close": Space((0.0, 0.85, 0.15), (0.1, 0.95, 0.15)),
    "door-lock": Space((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15)),
    "door-open": Space((0.0, 0.85, 0.15), (0.1, 0.95, 0.15)),
    "door-unlock": Space((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15)),
    "hand-insert": Space((-0.1, 0.6, 0.05, -0.04, 0.8, -0.0201), (0.1, 0.7, 0.05, 0.04, 0.88, -0.0199), 0.15),
    "drawer-close": Space((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0)),
    "drawer-open": Space((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0)),
    "faucet-open": Space((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0)),
    "faucet-close": Space((-0.1, 0.8, 0.0), (0.1, 0.85, 0.0)),
    "hammer": Space((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0)),
    "handle-press-side": Space((-0.35, 0.65, -0.001), (-0.25, 0.75, 0.001)),
    "handle-press": Space((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
    "handle-pull-side": Space((-0.35, 0.65, 0.0), (-0.25, 0.75, 0.0)),
    "handle-pull": Space((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
    "lever-pull": Space((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
    "pick-place-wall": Space((-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3), 0.15),
    "pick-out-of-hole": Space((0.0, 0.75, 0.02, -0.1, 0.5, 0.15), (0.0, 0.75, 0.02, 0.1, 0.6, 0.3), 0.15),
    "pick-place": Space((-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3), 0.15),
    "plate-slide": Space((0.0, 0.6, 0.0, -0.1, 0.85, 0.0), (0.0, 0.6, 0.0, 0.1, 0.9, 0.0)),
    "plate-slide-side": Space((0.0, 0.6, 0.0, -0.3, 0.54, 0.0), (0.0, 0.6, 0.0, -0.25, 0.66, 0.0)),
    "plate-slide-back": Space((0.0, 0.85, 0.0, -0.1, 0.6, 0.015), (0.0, 0.85, 0.0, 0.1, 0.6, 0.015)),
    "plate-slide-back-side": Space((-0.25, 0.6, 0.0, -0.05, 0.6, 0.015), (-0.25, 0.6, 0.0, 0.15, 0.6, 0.015)),
    "peg-insert-side": Space((0.0, 0.5, 0.02, -0.35, 0.4, -0.001), (0.2, 0.7, 0.02, -0.25, 0.7, 0.001), 0.1),
    "peg-unplug-side": Space((-0.25, 0.6, -0.001), (-0.15, 0.8, 0.001)),
    "soccer": Space((-0.1, 0.6, 0.03, -0.1, 0.8, 0.0), (0.1, 0.7, 0.03, 0.1, 0.9, 0.0), 0.15),
    "stick-push": Space((-0.08, 0.58, 0.0, 0.399, 0.55, 0.1319), (-0.03, 0.62, 0.001, 0.401, 0.6, 0.1321), 0.1),
    "stick-pull": Space((-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199), (0.0, 0.65, 0.001, 0.45, 0.55, 0.0201), 0.1),
    "push": Space((-0.1, 0.6, 0.02, -0.1, 0.8, 0.01), (0.1, 0.7, 0.02, 0.1, 0.9, 0.02), 0.15),
    "push-wall": Space((-0.05, 0.6, 0.015, -0.05, 0.85, 0.01), (0.05, 0.65, 0.015, 0.05, 0.9, 0.02), 0.15),
    "push-back": Space((-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199), (0.1, 0.85, 0.02, 0.1, 0.7, 0.0201), 0.15),
    "reach": Space((-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3), 0.15),
    "reach-wall": Space((-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3), 0.15),
    "shelf-place": Space((-0.1, 0.5, 0.019, -0.1, 0.8, 0.299), (0.1, 0.6, 0.021, 0.1, 0.9, 0.301), 0.1),
    "sweep-into": Space(
        (-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199), (0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201), 0.15, (0.0, 0.84)
    ),
    "sweep": Space((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)),
    "window-open": Space((-0.1, 0.7, 0.16), (0.1, 0.9, 0.16)),
    "window-close": Space((0.0, 0.75, 0.2), (0.0, 0.9, 0.2)),
}
"""Reset space of each task, by its name in Meta-World without the version."""


@cache
def published_goals(name: str, seed: int = 0) -> np.ndarray:
    """Return the rand_vecs (2 * GOALS, D) of `metaworld.ML1(name, seed)`: training goals, then test goals.

    Training goals are drawn from `seed`, test goals from `seed + 1`. Meta-World resets an environment for each goal,
    which draws twice, and keeps the second draw.
    """
    space, goals = SPACES[name], []
    for rng in (np.random.RandomState(seed), np.random.RandomState(seed + 1)):
        draws = [_draw(space, rng) for _ in range(2 * GOALS)]
        goals += draws[1::2]
    return _read_only(np.array(goals))


@cache
def free_goals(name: str) -> np.ndarray:
    """Return FREE more rand_vecs (N, D) of the same space, none of them near a published test goal.

    Near means within a box around the test goal, in the entries that tell goals apart; the boxes of all test goals
    together take at most a quarter of the space.
    """
    space, rng, found = SPACES[name], np.random.default_rng(FREE_SEED), np.empty((0, len(SPACES[name].low)))
    hidden = space.hidden()
    test = published_goals(name)[GOALS:, hidden]
    margin = (np.subtract(space.high, space.low) * (TAKEN / GOALS) ** (1 / len(hidden)) / 2)[hidden]
    while len(found) < FREE:
        drawn = rng.uniform(space.low, space.high, (BLOCK, len(space.low)))
        far = (np.abs(drawn[:, None, hidden] - test) > margin).any(2).all(1)  # (BLOCK, GOALS, D) -> (BLOCK,)
        found = np.concatenate([found, drawn[far & space.fits(drawn)]])
    return _read_only(found[:FREE])


def goal_of(name: str, task_id: int) -> np.ndarray:
    """Return the rand_vec (D,) of a task id: of ML1's training goals, its test goals, then the free goals."""
    if not isinstance(task_id, int | np.integer) or isinstance(task_id, bool) or not 0 <= task_id < TASKS:
        raise ValueError(f"task={short(task_id)}: task ids go from 0 to {TASKS - 1}.")
    return published_goals(name)[task_id] if task_id < 2 * GOALS else free_goals(name)[task_id - 2 * GOALS]


def check_goal(name: str, rand_vec: Any) -> np.ndarray:
    """Return `rand_vec` as an array (D,); ValueError unless Meta-World can draw it."""
    space, found = SPACES[name], as_array(rand_vec)
    low, high = np.array(space.low), np.array(space.high)
    if found.shape != low.shape or found.dtype.kind not in "iuf":
        raise ValueError(
            f"rand_vec={short(rand_vec)}: give {len(low)} numbers, the place of object and goal in {name}."
        )
    goal = found.astype(np.float64)
    if not ((low - ROUNDING <= goal) & (goal <= high + ROUNDING)).all():  # false for NaN
        raise ValueError(f"rand_vec={short(rand_vec)} is outside {name}: give values from {space.low} to {space.high}.")
    if not space.fits(goal[None])[0]:
        raise ValueError(
            f"rand_vec={short(rand_vec)}: object and goal of {name} are nearer than {space.apart}, move one of them."
        )
    return goal


def _draw(space: Space, rng: np.random.RandomState) -> np.ndarray:
    """Draw a rand_vec (D,) as Meta-World does."""
    while True:
        found = rng.uniform(space.low, space.high, len(space.low))
        if space.fits(found[None])[0]:
            return found


def _read_only(goals: np.ndarray) -> np.ndarray:
    goals.flags.writeable = False
    return goals
