"""Planners by name, their settings, and how agents and evaluations take them."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.planning.search import PLANNERS, Planner, make_planner
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate
from tests.agents.planning.scenarios import AD, alike, scripted
from tests.conftest import one_line
from tests.fakes import Variant, variants

# ---- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "settings", "words"),
    [
        ("lookahed", {}, ("lookahed", "did you mean 'lookahead'")),
        ("best-of-m", {}, ("best-of-m", "did you mean 'best-of-n'")),
        ("nothing like it", {}, ("choose from beam, best-of-n, lookahead",)),
        ("beam", {"widht": 3}, ("widht", "did you mean 'width'")),
        ("beam", {"width": 0}, ("width=0", "1..10000")),
        ("beam", {"depth": 1001}, ("depth=1001", "1..1000")),
        ("beam", {"branches": 2.5}, ("branches='2.5'", "int")),
        ("beam", {"prior": -0.1}, ("prior=-0.1", "0.0..")),
        ("beam", {"prior": float("nan")}, ("prior=nan",)),
        ("beam", {"after": -1}, ("after=-1", "0..")),
        ("best-of-n", {"after": 500}, ("after=500 steps", "window", "lower it")),
        ("beam", {"merge": 1}, ("merge='1'", "bool")),
        ("beam", {"when": "never"}, ("when='never'", "known, full, always")),
        (Planner(), {"width": True}, ("width='True'", "int")),
        (None, {"width": 3}, ("width", "give plan")),
    ],
)
def test_mistakes_in_settings_are_told_in_one_line(plan: Any, settings: dict[str, Any], words: tuple[str, ...]):
    one_line(lambda: AD.build().use_plan(plan, settings), ValueError, *words)


def test_settings_change_what_a_name_stands_for():
    agent = AD.build()
    agent.use_plan("beam", {"width": 3})
    assert asdict(agent.planner) == {**asdict(PLANNERS["beam"]), "width": 3}
    agent.use_plan(agent.planner, {"depth": 2})
    assert (agent.planner.depth, agent.planner.width, agent.planner.when) == (2, 3, "full")
    agent.use_plan(None)
    assert agent.planner is None


def test_the_published_settings():
    """A beam of 10 with all 5 actions over likeliest rewards alone, and greedy choice among 10 candidates."""
    beam = Planner(depth=8, width=10, branches=5, when="full", prior=0.0, expected=False, merge=False, value=False)
    assert PLANNERS["beam"] == beam
    best = PLANNERS["best-of-n"]
    assert (best.depth, best.branches, best.prior, best.value) == (1, 10, 0.0, False)


@pytest.mark.parametrize("variant", [v for v in variants() if "dynamics" not in dict(v.settings)], ids=str)
def test_an_agent_without_dynamics_refuses(variant: Variant, tmp_path):
    agent = variant.build()
    agent.reset()
    obs = np.zeros(2, np.int32)
    one_line(lambda: agent.use_plan("beam"), ValueError, "dynamics=True")
    one_line(lambda: agent.act(obs, plan="beam"), ValueError, "dynamics=True")
    assert agent.act(obs, plan=None) in agent.action_space


def test_one_action_may_be_planned_otherwise():
    (planner, asked), (other, _) = scripted(-1, when="always"), scripted(-2, when="always")

    def act(own: Any, *args: Any) -> list[int]:
        agent, steps = alike()
        agent.use_plan(own)
        return agent.act(steps.obs[:, 4], False, *args).tolist()

    policy = act(None)
    assert act(other, None) == act(other, False) == act(None, True) == policy
    assert act(other, planner) == act(planner) == act(planner, True) == [-1] * 3
    assert len(asked) == 3
    one_line(lambda: act(other, "lookahed"), ValueError, "did you mean 'lookahead'")


def test_a_saved_agent_is_loaded_with_a_plan(tmp_path):
    AD.build().save_pretrained(tmp_path / "agent")
    load = ICAgent.from_pretrained
    assert load(tmp_path / "agent").planner is None
    assert load(tmp_path / "agent", plan="beam").planner == PLANNERS["beam"]
    assert load(tmp_path / "agent", plan=Planner(depth=2), plan_kwargs={"width": 3}).planner == Planner(2, 3)
    one_line(lambda: load(tmp_path / "agent", plan="bean"), ValueError, "did you mean 'beam'")
    Variant("ad").build().save_pretrained(tmp_path / "other")
    one_line(lambda: load(tmp_path / "other", plan="beam"), ValueError, "dynamics=True")


def evaluated(agent: ICAgent, **settings: Any) -> Curve:
    return evaluate(agent, "icrl/Darkroom-v0", episodes=2, tasks=[40, 41], seed=2, **settings)


@pytest.mark.slow
def test_evaluate_plans_and_tells_it():
    agent = AD.build()
    agent.use_plan("lookahead", {"depth": 3, "width": 2, "trust": 0.0})
    mine = agent.planner
    chosen = {"plan": "lookahead", "plan_kwargs": {"depth": 2, "when": "always", "trust": 0.0}}
    found = evaluated(agent, **chosen)
    planner = make_planner("lookahead", chosen["plan_kwargs"])
    assert agent.planner is mine
    assert Curve.from_json(found.to_json()).facts["plan"] == asdict(planner)
    assert evaluated(agent).facts["plan"] == asdict(mine)
    agent.use_plan(planner)
    assert (evaluated(agent).runs == found.runs).all()
    agent.use_plan(None)
    plain = evaluated(agent)
    assert "plan" not in plain.facts
    assert (plain.runs != found.runs).any()


def test_evaluate_restores_the_planner_after_a_mistake():
    agent, mine = AD.build(), Planner(depth=1)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    for planner in (mine, None):
        agent.planner = planner
        with pytest.raises(KeyboardInterrupt):
            evaluated(agent, plan="best-of-n", on_episode=stop)
        assert agent.planner is planner
        one_line(lambda: evaluated(agent, plan="bean"), ValueError, "did you mean 'beam'")
        assert agent.planner is planner


def test_the_published_search_says_that_it_helps_little():
    agent = AD.build()
    with pytest.warns(UserWarning, match="published search.*no released agent got better.*lookahead"):
        agent.use_plan(make_planner("beam", {"width": 2}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.use_plan("lookahead")
