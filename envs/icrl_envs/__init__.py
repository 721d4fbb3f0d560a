"""Importing this registers the icrl/* environments; FAMILIES holds the tasks of each id."""

from gymnasium.envs.registration import register

from icrl_envs.bernoulli_bandit import BernoulliBandit
from icrl_envs.contextual_bandit import ContextualBandit
from icrl_envs.dark_key_to_door import DarkKeyToDoor
from icrl_envs.darkroom import Darkroom
from icrl_envs.darkroom_macro import DarkroomMacro
from icrl_envs.darkroom_permuted import DarkroomPermuted
from icrl_envs.gaussian_bandit import GaussianBandit, LinearBandit
from icrl_envs.tasks import TaskSet, keep_order, numpy_shuffle, python_shuffle

__all__ = ["FAMILIES", "TaskSet"]


def _family(rules_class, env_id, horizon, split=None, shuffle=python_shuffle, **kwargs):
    """Register an id and give its tasks; `split` is (fraction, seed) of the published split, None: set "train"."""
    kwargs["horizon"] = horizon
    entry_point = f"{rules_class.__module__}:{rules_class.__name__}"
    register(
        env_id,
        entry_point=f"{entry_point}Env",
        vector_entry_point=f"{entry_point}VectorEnv",
        max_episode_steps=horizon,
        kwargs=kwargs,
    )
    rules = rules_class(**kwargs)
    if split is None:
        return TaskSet(env_id, rules, len(rules.named["train"]) / rules.num_tasks, 0, keep_order)
    return TaskSet(env_id, rules, *split, shuffle)


_TASK_SETS = [
    _family(Darkroom, "icrl/Darkroom-v0", 20, (0.9, 0), size=9),
    _family(Darkroom, "icrl/Darkroom3x3-v0", 6, (0.9, 0), size=3),
    _family(Darkroom, "icrl/Darkroom17x17-v0", 50, (0.9, 0), size=17),
    _family(Darkroom, "icrl/Darkroom10x10-v0", 100, (0.8, 0), numpy_shuffle, size=10, start=(0, 0)),
    _family(DarkroomPermuted, "icrl/DarkroomPermuted-v0", 50, (0.9, 4)),
    _family(DarkroomMacro, "icrl/DarkroomMacro-v0", 20),
    _family(DarkKeyToDoor, "icrl/DarkKeyToDoor-v0", 50, (0.95, 4)),
    _family(BernoulliBandit, "icrl/BernoulliBandit-v0", 300),
    _family(ContextualBandit, "icrl/ContextualBandit-v0", 300),
    _family(GaussianBandit, "icrl/GaussianBandit-v0", 500),
    _family(LinearBandit, "icrl/LinearBandit-v0", 200),
]

FAMILIES: dict[str, TaskSet] = {tasks.env_id: tasks for tasks in _TASK_SETS}
