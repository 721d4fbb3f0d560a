"""Meta-World's scripted policies, as experts that know the goal or believe in another one."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np

from icrl_envs.metaworld.simulation import VERSION, Simulation, package
from icrl_envs.metaworld.tasks import GOALS, published_goals

CLIPPED = "Constant.* may be too high"  # a warning of the policies at most of their steps; actions are clipped here
PROBES = 10  # goals from which the shown places of all goals are derived


class Expert:
    """The scripted policy of a task."""

    def __init__(self, name: str):
        self.policy = package("metaworld.policies").ENV_POLICY_MAP[f"{name}-{VERSION}"]()
        warnings.filterwarnings("ignore", CLIPPED, module="metaworld.policies")

    def act(self, obs: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Return the action (4,) float32 on Meta-World's observation (39,), if the goal is shown at `goal` (3,)."""
        action = self.policy.get_action(np.concatenate([obs[:36], goal]))
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def shown_goal(name: str, rand_vec: np.ndarray) -> np.ndarray:
    """Return the place (3,) at which Meta-World shows the goal `rand_vec` (D,)."""
    return np.append(rand_vec, 1.0) @ _shown(name)


@cache
def _shown(name: str) -> np.ndarray:
    """Affine map (D + 1, 3) from a rand_vec to the place where its goal is shown.

    Each task computes that place by adding constants to some entries of the rand_vec. The least-squares fit to a few
    goals finds them.
    """
    row, goals = Simulation(name), published_goals(name)[:: 2 * GOALS // PROBES]
    places = []
    for goal in goals:
        row.set_goal(goal)
        row.reset()
        places.append(row.goal)
    return np.linalg.lstsq(np.column_stack([goals, np.ones(len(goals))]), np.array(places), rcond=None)[0]
