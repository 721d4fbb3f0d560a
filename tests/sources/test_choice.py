"""The source that suits a family, and the reason."""

from types import SimpleNamespace

import pytest
from gymnasium import spaces
from icrl_envs import FAMILIES, Capability

from icrl_agents.core.families import find_family
from icrl_agents.evaluation.references import reference_learners
from icrl_agents.sources import SOURCES, choice, choose_source, default_source
from tests.envs import families
from tests.envs.families import METAWORLD, PROCGEN
from tests.sources import reach

NUMBERS, REALS = spaces.Discrete(4), spaces.Box(-1, 1, (2,))


def family(observations, actions, bandit=False, *offers):
    """A family of which nothing else is known."""
    return SimpleNamespace(
        observation_space=observations,
        action_space=actions,
        bandit=bandit,
        install="",
        offers=lambda what: what in offers,
    )


@pytest.mark.parametrize(
    ("made", "name", "reason"),
    [
        (family(NUMBERS, NUMBERS, False, Capability.BELIEF), "posterior", "belief"),
        (family(REALS, REALS, False, Capability.EXPERT), "noise", "expert_action"),
        (family(REALS, NUMBERS, True), "ucb", "bandit"),
        (family(NUMBERS, NUMBERS), "psrl", "4 observations and 4 actions"),
        (family(spaces.Discrete(500), NUMBERS), "q-learning", "500 observations"),
        (family(REALS, NUMBERS), "ppo", "no table"),
        (family(spaces.Box(0, 255, (8, 8), "uint8"), NUMBERS), "ppo", "no table"),
        (family(NUMBERS, REALS), "sac", "real-valued"),
        (family(NUMBERS, spaces.MultiDiscrete([2, 2])), "ppo", "no table"),
    ],
)
def test_what_is_known_decides(made, name, reason, monkeypatch):
    monkeypatch.setattr(choice, "find_family", lambda env_id: made)
    monkeypatch.setattr(choice, "find_expert", lambda env: None)
    monkeypatch.setattr(choice, "make_tasks", lambda env_id, tasks: SimpleNamespace(env=SimpleNamespace(close=str)))
    made.env_id = "test/Made-v0"
    found = choose_source("test/Made-v0")
    assert found.name == name
    assert reason in found.reason
    assert found.name in SOURCES


def test_a_given_expert_comes_first():
    assert choose_source("icrl/Darkroom-v0", given_expert=True) == ("noise", "an expert is given")


def test_our_environments_keep_their_sources():
    found = {env_id: default_source(env_id) for env_id in FAMILIES}
    grids = [env_id for env_id in found if "Bandit" not in env_id]
    others = {env_id: found[env_id] for env_id in grids if found[env_id] != "posterior"}
    dense = {
        "icrl/PointRobot-v0": "noise",
        "icrl/PendulumMass-v0": "noise",
        "icrl/HalfCheetahVel-v0": "sac",
        "icrl/HalfCheetahVelGoal-v0": "sac",
    }
    dense |= dict.fromkeys(METAWORLD, "noise") | dict.fromkeys(PROCGEN, "ppo")
    shown = dict.fromkeys(("icrl/PixelGridGoal-v0", "icrl/PixelGridDistractors-v0"), "noise")  # nothing to search for
    assert others == {"icrl/DarkroomMacro-v0": "q-learning", **dense, **shown}
    assert found["icrl/BernoulliBandit-v0"] == "thompson"
    assert found["icrl/ContextualBandit-v0"] == "linucb"


def test_rows_with_an_expert_need_no_declaration():
    with reach.registered():
        assert not find_family(reach.REACH).offers(Capability.EXPERT)
        assert choose_source(reach.REACH).name == "noise"
    with families.registered():
        assert choose_source(families.SPRING).name == "sac"
        assert choose_source(families.POLES).name == "ppo"


def test_no_reference_trains_a_network():
    with families.registered():
        assert list(reference_learners(families.POLES, 3)) == ["random"]
