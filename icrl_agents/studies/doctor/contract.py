"""Does the environment keep Gymnasium's contract, do seeds determine it, do codecs support its spaces?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from icrl_agents.core.families import Family, make_tasks
from icrl_agents.core.process.terminal import counted
from icrl_agents.core.rollout import rollout
from icrl_agents.core.splits import split_tasks
from icrl_agents.core.steps import Steps
from icrl_agents.evaluation.evaluate import RandomLearner
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.nn.codecs import make_codec
from icrl_agents.studies.doctor.findings import Finding, fail, note, ok

COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Gymnasium's warnings have colours, terminal or not


def check_contract(family: Family) -> Iterable[Finding]:
    """Gymnasium's own checker, on the first task."""
    env = family.make(0)
    # options reach an environment through a wrapper, without which its resets may fail; Gymnasium cannot copy it
    wrapped = (family.definition or {}).get("pass_task") == "options"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".* is different from the unwrapped version")
        check_env(env if wrapped else env.unwrapped, skip_render_check=True, skip_close_check=wrapped)
    env.close()
    heard = [" ".join(COLOUR.sub("", str(warning.message)).split()).removeprefix("WARN: ") for warning in caught]
    said = list(dict.fromkeys(heard))  # wrappers repeat some
    if said:
        yield note("contract", f"gymnasium's check_env has {counted(len(said), 'warning')}, the first: {said[0][:200]}")
    else:
        yield ok("contract", "gymnasium's check_env finds nothing")


def check_spaces(family: Family) -> Iterable[Finding]:
    """Codecs exist for both spaces."""
    for name, space in (("observations", family.observation_space), ("actions", family.action_space)):
        make_codec(space, width=8)  # ValueError for a space without a codec
        yield ok(name, _summary(space))


def _summary(space: spaces.Space) -> str:
    return " ".join(str(space).split())[:120]


def check_seeds(family: Family, steps: int = 100) -> Iterable[Finding]:
    """Two environments of one task with the same seed and actions give the same steps."""
    first, second = (random_steps(family, np.zeros(2, np.int64), steps) for _ in range(2))
    same = all(np.array_equal(first.columns[name], second.columns[name]) for name in ("obs", "reward", "terminated"))
    if same:
        yield ok("seeds", f"two runs of {first.mask.shape[1]} steps with the same seed are equal")
    else:
        yield fail("seeds", "two runs with the same seed differ: draw all randomness from self.np_random after reset")


def check_splits(family: Family) -> Iterable[Finding]:
    """Training, validation and test tasks are disjoint, also in what their arguments say."""
    splits = split_tasks(family.env_id)
    train, test = ({repr(task) for task in tasks} for tasks in (splits.train, splits.test))
    sizes = f"{len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test tasks"
    if shared := train & test:
        yield fail("split", f"{len(shared)} test tasks have the arguments of a training task, such as {min(shared)}")
    elif len(splits.train) < 20:
        yield note("split", f"{sizes}: few to generalise from; 100 and more are usual")
    else:
        yield ok("split", sizes)


def random_steps(family: Family, tasks: np.ndarray, steps: int, seed: int = 0) -> Steps:
    """Steps (B, T) of random actions on the tasks (B,), at least `steps` of them or one lifetime."""
    env, options = make_tasks(family.env_id, tasks)
    record: Any = RecordHistory(env)
    episodes = max(1, min(family.lifetime, -(-steps // family.horizon)))
    rollout(RandomLearner(), record, episodes, seed=seed, options=options)
    record.close()
    return record.steps(episodes)
