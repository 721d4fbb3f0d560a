"""Choose the settings of the reference learners of bandits, on training tasks and nothing else.

    python tests/benchmarks/tune_references.py

A setting's score is its regret over that of the source's own settings, as a mean over the training sets of a family,
which have other numbers of arms. What `icrl_agents/evaluation/references.py` has is the first line of each learner,
of LinUCB the first one without `fade` and the first one with it.
"""

from __future__ import annotations

from itertools import product

from icrl_envs import FAMILIES

from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.results import spread
from icrl_agents.sources import make_source
from icrl_agents.studies.action_sets.lifetimes import Setup, run_lifetimes

TASKS, SEED = 100, 11  # of every training set, evenly spaced
GRIDS: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("icrl/BernoulliBandit-v0", "thompson"): {"sharpness": (3.0, 6.0, 8.0, 12.0, 16.0, 24.0)},
    ("icrl/ContextualBandit-v0", "linucb"): {
        "alpha": (0.7, 1.0, 1.4, 2.0),
        "ridge": (1.0, 2.0, 4.0),
        "unpulled_first": (True, False),
        "fade": (True, False),
    },
}


def main() -> None:
    for (env_id, name), grid in GRIDS.items():
        sets = ["train", *FAMILIES[env_id].rules.training]
        plain = regrets(env_id, name, {}, sets)
        found = []
        for values in product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            each = [regret / base for regret, base in zip(regrets(env_id, name, settings, sets), plain, strict=True)]
            found.append((sum(each) / len(each), settings, each))
        print(f"{env_id}, {name}: regret over that of its own settings, mean and on {', '.join(sets)}")
        for mean, settings, each in sorted(found, key=lambda row: row[0]):
            print(f"  {mean:.3f}  {settings}  {' '.join(f'{ratio:.2f}' for ratio in each)}", flush=True)


def regrets(env_id: str, name: str, settings: dict[str, float], sets: list[str]) -> list[float]:
    """Mean regret of a lifetime on each set."""
    learner, found = make_source(name, env_id, settings), []
    for task_set in sets:
        tasks = spread(split_tasks(env_id, task_set=task_set).train.ids, TASKS)
        found.append(float(run_lifetimes(learner, Setup(env_id, tasks, seed=SEED)).curve[:, -1].mean()))
    return found


if __name__ == "__main__":
    main()
