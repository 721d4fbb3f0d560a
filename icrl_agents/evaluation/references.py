"""Reference learners for comparison with agents: random play, the source, UCB, tuned and stronger learners.

Tuned settings were chosen on training tasks only (`tests/benchmarks/tune_references.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from icrl_agents.core.families import Capability, find_family
from icrl_agents.core.rollout import Learner
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.bandits.gittins import MAX_LIFETIME
from icrl_agents.sources.source import StepSource

RANDOM = "random"


class Reference(NamedTuple):
    """Name and settings of a source."""

    source: str
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    longest: int | None = None  # maximum number of steps in a lifetime


STRONGER: dict[str, dict[str, Reference]] = {  # learners stronger than the published sources, by env and display name
    "icrl/BernoulliBandit-v0": {
        "thompson, tuned": Reference("thompson", {"sharpness": 12.0}),
        "gittins": Reference("gittins", longest=MAX_LIFETIME),
    },
    "icrl/ContextualBandit-v0": {
        "linucb, tuned": Reference("linucb", {"alpha": 1.4, "ridge": 2.0, "unpulled_first": False}),
        "linucb, fading": Reference("linucb", {"alpha": 2.0, "ridge": 2.0, "unpulled_first": False, "fade": True}),
    },
}


def reference_learners(env_id: str, episodes: int) -> dict[str, Learner]:
    """Reference learners by name: random play, the source, UCB if the family has a regret, and `STRONGER` ones.

    A source that shares one learner among the streams of a task is no reference: it has no curve by episode.
    """
    source, family = default_source(env_id), find_family(env_id)
    found = {RANDOM: Reference("uniform"), source: Reference(source)}
    if family.offers(Capability.REGRET):
        found["ucb"] = Reference("ucb")
    steps = family.horizon * episodes
    found |= {name: one for name, one in STRONGER.get(env_id, {}).items() if steps <= (one.longest or steps)}
    made = {name: make_source(one.source, env_id, one.settings) for name, one in found.items()}
    learners = {name: learner for name, learner in made.items() if isinstance(learner, StepSource)}
    for learner in learners.values():
        learner.episodes = episodes  # for schedules
    return dict(learners)
