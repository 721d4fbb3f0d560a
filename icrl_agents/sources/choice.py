"""The source that suits a family of tasks, and the reason."""

from __future__ import annotations

from typing import NamedTuple

from icrl_agents.core.families import Capability, Family, Rules, find_family, make_tasks
from icrl_agents.core.spaces import box_range, num_actions
from icrl_agents.histories.experts import find_expert
from icrl_agents.sources.tables.psrl import fits
from icrl_agents.sources.tables.states import count_states

PUBLISHED: dict[str, str] = {  # default source of an environment, where it is the one of a paper
    "icrl/DarkroomMacro-v0": "q-learning",
    "icrl/BernoulliBandit-v0": "thompson",
    "icrl/ContextualBandit-v0": "linucb",
    "icrl/GaussianBandit-v0": "gaussian-thompson",
    "icrl/LinearBandit-v0": "gaussian-thompson",
}


class Choice(NamedTuple):
    """A source and why it is chosen."""

    name: str  # in `SOURCES`
    reason: str  # a clause, such as "the family declares a belief"


def choose_source(env_id: str, given_expert: bool = False) -> Choice:
    """The source for an environment: the one with the best histories among those that work in it.

    Args:
        given_expert: whether the caller gives an expert.
    """
    family = find_family(env_id)
    noisy = bool(num_actions(family.action_space)) or box_range(family.action_space) is not None
    if given_expert and noisy:
        return Choice("noise", "an expert is given")
    if env_id in PUBLISHED:
        return Choice(PUBLISHED[env_id], "the paper of this environment uses it")
    if family.offers(Capability.BELIEF):
        return Choice("posterior", "the family declares a belief over its tasks")
    if noisy and _has_expert(family):
        return Choice("noise", "the environment has expert_action()")
    return _by_spaces(family)


def _has_expert(family: Family) -> bool:
    if family.offers(Capability.EXPERT) or isinstance(family, Rules) or family.install:  # they say what they have
        return family.offers(Capability.EXPERT)
    env = make_tasks(family.env_id, [0]).env
    found = find_expert(env) is not None
    env.close()
    return found


def _by_spaces(family: Family) -> Choice:
    """The source for a family of which nothing but the spaces is known."""
    actions, states = num_actions(family.action_space), count_states(family.observation_space)
    if actions and family.bandit:
        return Choice("ucb", "the family is a bandit")
    if actions and fits(states, actions):
        return Choice("psrl", f"{states} observations and {actions} actions fit into a table")
    if actions and states:
        return Choice("q-learning", f"{states} observations fit into a table")
    if box_range(family.action_space) is not None:
        return Choice("sac", "real-valued actions without an expert")
    return Choice("ppo", "observations that fit into no table, without an expert")


def default_source(env_id: str) -> str:
    """Name of an environment's default source, see `choose_source`."""
    return choose_source(env_id).name
