"""Vector environments of Meta-World: rows in this process, one after the other. Axis letter: B rows."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from icrl_envs.base.checks import as_array, check_int, short
from icrl_envs.metaworld.env import MetaWorldEnv


class MetaWorldRows(SyncVectorEnv):
    """Gymnasium's vector environment of `MetaWorldEnv`s, with their experts."""

    def expert_action(self, tasks: Any = None) -> np.ndarray:
        """Return the actions (B, 4) float32 of the scripted policies.

        Args:
            tasks: ids (B,) of the tasks in whose goals the policies believe; None for the rows' own.
        """
        wanted = [None] * self.num_envs if tasks is None else as_array(tasks).tolist()
        if tasks is not None and np.shape(wanted) != (self.num_envs,):
            raise ValueError(f"tasks={short(tasks)}: give {self.num_envs} task ids, one a row.")
        rows: list[Any] = [env.unwrapped for env in self.envs]
        return np.stack([row.expert_action(task) for row, task in zip(rows, wanted, strict=True)])


def make_rows(
    num_envs: int = 1,
    max_episode_steps: int = 100,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    **kwargs: Any,
) -> MetaWorldRows:
    """Make `num_envs` rows with the same arguments of `MetaWorldEnv`; `gymnasium.make_vec` calls it.

    `max_episode_steps` is the time limit, -1 for none, as in `gymnasium.make`.
    """

    def make() -> gymnasium.Env:
        env = MetaWorldEnv(**kwargs)
        return env if max_episode_steps == -1 else TimeLimit(env, max_episode_steps)

    rows = [make] * check_int(num_envs, "num_envs", 1, 2**16)
    return MetaWorldRows(rows, autoreset_mode=autoreset_mode)
