"""The families of Meta-World's tasks, and their registration."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import register
from gymnasium.vector import AutoresetMode

from icrl_envs.base.capability import Capability
from icrl_envs.base.family import Family, VectorRows
from icrl_envs.base.registry import register_family
from icrl_envs.base.split import DeclaredTest, Split
from icrl_envs.metaworld.spaces import ACTION_BOX, FULL, PUBLISHED, View, observation_box
from icrl_envs.metaworld.tasks import FREE, GOALS, SPACES, goal_of

ENTRY_POINT = "icrl_envs.metaworld.env:MetaWorldEnv"
ROWS = "icrl_envs.metaworld.rows:make_rows"
HORIZON = 100  # of the published evaluation; Meta-World's own is 500
FEWER = (200, 1000)  # sizes of smaller sets of free goals, for sources that learn each task


class MetaWorld(Family):
    """Goals of one of Meta-World's tasks.

    The tasks 0 to 49 are the training goals of `metaworld.ML1(name, seed=0)`, 50 to 99 its test goals; the set
    "train_free" has 10,000 more, drawn from the same space away from the test goals. 50 training goals are so few that
    an agent memorises them: `train_free` may replace them; "train_free_200" and "train_free_1000" are its first parts.

    Args:
        env_id: Gymnasium id of a `MetaWorldEnv`, registered with its `name`, a time limit, and other arguments.
    """

    task_names = ("rand_vec",)
    num_tasks = 2 * GOALS
    lifetime = 20
    capabilities = frozenset({Capability.SUCCESS, Capability.EXPERT, Capability.TASK_EXPERTS})
    published = Split(0.5, 0, DeclaredTest(GOALS))
    named = {"ml1_train": range(GOALS), "ml1_test": range(GOALS, 2 * GOALS)}  # noqa: RUF012 - a mapping as in Family
    extra = {  # noqa: RUF012
        "train_free": range(2 * GOALS, 2 * GOALS + FREE),
        **{f"train_free_{size}": range(2 * GOALS, 2 * GOALS + size) for size in FEWER},
    }
    training = tuple(extra)
    max_rows = 64  # rows simulate one after the other: more are not faster
    install = "metaworld"
    action_space = ACTION_BOX

    def __init__(self, env_id: str):
        spec = gymnasium.spec(env_id)
        kwargs = spec.kwargs
        self.env_id, self.task, self.horizon = env_id, kwargs["name"], spec.max_episode_steps or HORIZON
        view = View.of(self.task, kwargs.get("obs", PUBLISHED), kwargs.get("hide_goal", True))
        self.observation_space = observation_box(view)

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"rand_vec": places of object and goal in metres}."""
        return {"rand_vec": tuple(goal_of(self.task, task_id).tolist())}

    def make_rows(self, task_ids: Any, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorRows:
        """Return a vector environment with a row for each task id (B,), on one model."""
        from icrl_envs.metaworld.rows import MetaWorldRows

        makes = [partial(self.make, task) for task in self.check_ids(task_ids)]
        return VectorRows(MetaWorldRows(makes, autoreset_mode=autoreset_mode))


def register_metaworld() -> None:
    """Register an id and a family for each of Meta-World's tasks, such as icrl/MetaWorld-reach-v0.

    Where the observation hides the goal there is a second id, icrl/MetaWorldGoal-reach-v0, with Meta-World's own, which
    shows it.
    """
    hidden = {f"icrl/MetaWorld-{name}-v0": {"name": name} for name in SPACES}
    shown = {
        f"icrl/MetaWorldGoal-{name}-v0": {"name": name, "obs": FULL, "hide_goal": False}
        for name, space in SPACES.items()
        if space.has_goal
    }
    for env_id, kwargs in (hidden | shown).items():
        register(env_id, ENTRY_POINT, vector_entry_point=ROWS, max_episode_steps=HORIZON, kwargs=kwargs)
        register_family(MetaWorld(env_id))
