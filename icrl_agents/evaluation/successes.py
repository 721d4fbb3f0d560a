"""Success of every episode of lifetimes, in families whose infos hold `success`. Axis letters: N tasks, E episodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from icrl_agents.core.families import Capability, find_family, make_tasks
from icrl_agents.core.rollout import Learner, rollout

SUCCESS = Capability.SUCCESS.value  # key of infos


class Outcomes(NamedTuple):
    """Lifetimes on N tasks."""

    returns: np.ndarray  # (N, E) float64
    success: np.ndarray  # (N, E) bool, whether any step of the episode was a success

    @property
    def best_so_far(self) -> np.ndarray:
        """(N, E) bool: success in this episode or an earlier one, the published measure of Meta-World."""
        return np.maximum.accumulate(self.success, 1)


def successes(learner: Learner, env_id: str, tasks: Any, episodes: int, seed: int = 0) -> Outcomes:
    """Roll out one lifetime of `episodes` episodes on each of the tasks, ids (N,).

    Raises:
        ValueError: the family declares no success, or runs fewer rows at once than there are tasks.
    """
    family, ids = find_family(env_id), np.asarray(tasks, np.int64)
    if not family.offers(Capability.SUCCESS):
        family.undeclared(Capability.SUCCESS)
    most = family.max_rows or len(ids)
    parts = [_block(learner, env_id, ids[i : i + most], episodes, seed + i) for i in range(0, len(ids), most)]
    return Outcomes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _block(learner: Learner, env_id: str, ids: np.ndarray, episodes: int, seed: int) -> Outcomes:
    rows, options = make_tasks(env_id, ids)
    env = _Watch(rows)
    returns = rollout(learner, env, episodes, seed=seed, options=options)
    env.close()
    success = [np.array(row[:episodes]) for row in env.ended]  # faster rows have surplus episodes
    return Outcomes(returns, np.array(success, bool))


class _Watch(VectorWrapper):
    """Records whether any step of an episode was a success; resets in the step that ends an episode (SAME_STEP)."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.ended: list[list[bool]] = [[] for _ in range(env.num_envs)]  # per row, one entry per finished episode
        self._any = np.zeros(env.num_envs, bool)  # (B,) success in the present episode

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Call `env.step` and read its infos."""
        result = super().step(actions)
        over, info = result[2] | result[3], result[4]
        now = np.where(over, info["final_info"][SUCCESS], info[SUCCESS]) if over.any() else info[SUCCESS]
        self._any |= now.astype(bool)
        for row in np.flatnonzero(over):
            self.ended[row].append(bool(self._any[row]))
        self._any[over] = False
        return result
