"""Which tasks an agent trains on, which decide between settings, and which it must never see before the end."""

from __future__ import annotations

from typing import NamedTuple

import icrl_envs

from icrl_agents.config import check_known

VALIDATION_SHARE = 0.1  # of the published train split; every choice is made on these tasks


class Splits(NamedTuple):
    """Disjoint task sets of one environment id."""

    train: icrl_envs.TaskSet
    validation: icrl_envs.TaskSet
    test: icrl_envs.TaskSet

    def pick(self, name: str) -> icrl_envs.TaskSet:
        """One of these, or a set that the family names, such as "num_50" of the bandits."""
        named = [known for known in self.test.rules.named if known not in self._fields]
        check_known([name], [*self._fields, *named], "split")
        return self.test.named(name) if name in named else getattr(self, name)


def split_tasks(env_id: str, seed: int | None = None) -> Splits:
    """The published train/test split of `env_id` (or that of another `seed`), validation tasks taken out of train.

    Raises:
        ValueError: `env_id` is not one of this package's environments.
    """
    check_known([env_id], icrl_envs.FAMILIES, "environment id")
    rest, test = icrl_envs.FAMILIES[env_id].split(seed=seed)
    train, validation = rest.split(1 - VALIDATION_SHARE, seed=0)
    return Splits(train, validation, test)
