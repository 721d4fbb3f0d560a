"""Which tasks an agent trains on, which decide between settings, and which it must never see before the end."""

from __future__ import annotations

from typing import NamedTuple

import icrl_envs

from icrl_agents.config import check_known

TRAIN = "train"  # the set of tasks that agents are usually trained on
VALIDATION_SHARE = 0.1  # of the published train split; every choice is made on these tasks


class Splits(NamedTuple):
    """Disjoint task sets of one environment id."""

    train: icrl_envs.TaskSet
    validation: icrl_envs.TaskSet
    test: icrl_envs.TaskSet

    def pick(self, name: str) -> icrl_envs.TaskSet:
        """One of these, or a set that the family names, such as "num_50" of the bandits."""
        rules = self.test.rules
        named = [known for known in {**rules.named, **rules.extra} if known not in self._fields]
        check_known([name], [*self._fields, *named], "split")
        return self.test.named(name) if name in named else getattr(self, name)


def split_tasks(env_id: str, seed: int | None = None, task_set: str = TRAIN) -> Splits:
    """The published train/test split of `env_id` (or that of another `seed`), validation tasks taken out of train.

    Args:
        task_set: a set that the family names for training, in place of the training tasks.

    Raises:
        ValueError: `env_id` is not one of this package's environments, or has no such set, or no other split of it.
    """
    check_known([env_id], icrl_envs.FAMILIES, "environment id")
    rest, test = icrl_envs.FAMILIES[env_id].split(seed=seed)
    check_known([task_set], [TRAIN, *rest.rules.training], "set of tasks to train on")
    if task_set != TRAIN:
        if seed is not None:
            raise ValueError(
                f"split_seed={seed} splits all tasks anew, and task_set={task_set!r} is one of them: leave one out"
            )
        rest = rest.named(task_set)
        test = test.without(rest)
    train, validation = rest.split(1 - VALIDATION_SHARE, seed=0)
    return Splits(train, validation, test)
