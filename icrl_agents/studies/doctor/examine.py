"""The doctor: all checks of a family, in the order in which a training would meet them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from icrl_agents.core.checks import pick, whole
from icrl_agents.core.families import find_family
from icrl_agents.core.splits import split_tasks
from icrl_agents.methods import METHODS
from icrl_agents.sources import default_source, make_source, source_name
from icrl_agents.sources.source import Source
from icrl_agents.studies.doctor.contract import check_contract, check_seeds, check_spaces, check_splits
from icrl_agents.studies.doctor.costs import check_costs
from icrl_agents.studies.doctor.findings import Finding, Grade, attempted
from icrl_agents.studies.doctor.tasks import check_difference, check_returns, check_rewards, source_returns


def examine(
    env_id: str, *, method: str = "ad", source: str | Source | None = None, tasks: int = 12, episodes: int = 20
) -> Iterator[Finding]:
    """Check a registered environment id and its tasks; yields findings as they are made.

    Args:
        method: method whose training time is estimated.
        source: learner to measure, or its name; default the environment's.
        tasks: number of training tasks that are measured.
        episodes: episodes of the source on each of them.

    Raises:
        ValueError: unknown id, method or source.
    """
    family = find_family(env_id)
    pick(METHODS, method, "method")
    whole("tasks", tasks, 2), whole("episodes", episodes, 1)
    learner = source if isinstance(source, Source) else make_source(source or default_source(env_id), env_id)
    name = source_name(learner) or type(learner).__name__
    yield from attempted("contract", partial(check_contract, family))
    yield from (found := attempted("spaces", partial(check_spaces, family)))
    if any(finding.grade == Grade.FAIL for finding in found):  # nothing can be recorded
        return
    yield from attempted("seeds", partial(check_seeds, family))
    yield from attempted("split", partial(check_splits, family))
    ids = split_tasks(env_id).train.ids
    ids = np.random.default_rng(0).permutation(ids)[:tasks]
    yield from attempted("rewards", partial(check_rewards, family, ids))
    yield from attempted("source", lambda: check_returns(source_returns(family, learner, ids, episodes), name))
    yield from attempted("tasks", partial(check_difference, family, learner, ids, episodes))
    yield from attempted("costs", partial(check_costs, family, learner, method, episodes))
