"""The families of Procgen's games, and their registration."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import register
from gymnasium.vector import AutoresetMode

from icrl_envs.base.capability import Capability
from icrl_envs.base.family import Family, VectorRows
from icrl_envs.base.registry import register_family
from icrl_envs.base.split import DeclaredTest, Split
from icrl_envs.procgen.games import ACTION_SPACE, GAMES, OBSERVATION_BOX
from icrl_envs.procgen.levels import ANY, TASKS, TRAIN, task_of

ENTRY_POINT = "icrl_envs.procgen.env:ProcgenEnv"
ROWS = "icrl_envs.procgen.vector:ProcgenVectorEnv"
ANY_LEVEL = "any_level"


class Procgen(Family):
    """Levels of one of Procgen's games.

    The tasks 0 to 199 are levels for training and 200 to 299 for tests, each the level of its number. The tasks of the
    set "any_level" are all alike: each of their episodes is on a level drawn from all of Procgen's, as in data whose
    levels are unknown. The set may replace the training tasks.

    Args:
        game: name of the game.
    """

    task_names = ("level",)
    num_tasks = TASKS
    lifetime = 5
    capabilities = frozenset({Capability.SUCCESS})
    published = Split(TRAIN / TASKS, 0, DeclaredTest(TRAIN))
    extra = {ANY_LEVEL: range(TASKS, TASKS + ANY)}  # noqa: RUF012 - a mapping as in Family
    training = (ANY_LEVEL,)
    install = "procgen"
    observation_space = OBSERVATION_BOX
    action_space = ACTION_SPACE

    def __init__(self, game: str):
        self.env_id, self.horizon = f"icrl/Procgen-{game}-v0", GAMES[game].horizon

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"level": number}, or {"level": None, "num_levels": 0} for any level."""
        return task_of(task_id)

    def make_rows(self, task_ids: Any, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorRows:
        """Return the native vector environment, and the option of its first reset that sets the tasks `task_ids`."""
        ids = self.check_ids(task_ids)
        env = gymnasium.make_vec(self.env_id, num_envs=len(ids), autoreset_mode=autoreset_mode)
        return VectorRows(env, {"task": ids})


def register_procgen() -> None:
    """Register an id and a family for each game, such as icrl/Procgen-bigfish-v0."""
    for game, known in GAMES.items():
        env_id = f"icrl/Procgen-{game}-v0"
        register(env_id, ENTRY_POINT, vector_entry_point=ROWS, max_episode_steps=known.horizon, kwargs={"game": game})
        register_family(Procgen(game))
