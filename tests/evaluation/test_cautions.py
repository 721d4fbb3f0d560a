"""Calls that do what was asked, but probably not what was meant, are told in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from icrl_envs import FAMILIES

from icrl_agents import collect, evaluate, train
from icrl_agents.core.process.caution import Caution
from icrl_agents.sources import SOURCES, find_source, make_source
from tests.cli.test_cli import call
from tests.training.test_training import FAST

ROOM, KEYS, SMALL, ARMS = ("icrl/Darkroom-v0", "icrl/DarkKeyToDoor-v0", "icrl/Darkroom3x3-v0", "icrl/GaussianBandit-v0")


def make(env_id: str) -> gymnasium.Env:
    return gymnasium.make(env_id)


FORMS: dict[str, Callable[[str], Any]] = {
    "single": make,
    "wrapped": lambda env_id: gymnasium.wrappers.RecordEpisodeStatistics(make(env_id)),
    "native": lambda env_id: gymnasium.make_vec(env_id, 2),
    "made sync": lambda env_id: gymnasium.make_vec(env_id, 2, vectorization_mode="sync"),
    "sync": lambda env_id: SyncVectorEnv([lambda: make(env_id)] * 2),
    "async": lambda env_id: AsyncVectorEnv([lambda: make(env_id)] * 2),
}


def cautions(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in found if issubclass(one.category, Caution)]


@pytest.mark.parametrize("form", FORMS)
def test_an_agent_notices_a_foreign_environment_with_its_spaces(form, tiny_agent):
    agent = tiny_agent()  # of ROOM
    for env_id in (KEYS, ROOM):
        env = FORMS[form](env_id)
        told = cautions(lambda env=env: agent.reset(env))
        env.close()
        assert told == (
            [] if env_id == ROOM else [f"the agent was trained on {ROOM}, this is {KEYS}: it may not learn here"]
        )


def test_what_has_no_id_is_no_foreign_environment(tiny_agent):
    agent, env = tiny_agent(), make(KEYS)
    assert cautions(lambda: agent.reset(env.unwrapped.__class__())) == []
    agent.facts = {"env_id": 3}  # of somebody else
    assert cautions(lambda: agent.reset(env)) == []
    agent.facts = {}
    assert cautions(lambda: agent.reset(env)) == []


@pytest.mark.slow
def test_measuring_and_playing_elsewhere_is_told_in_one_line(tiny_agent, tmp_path):
    agent, elsewhere = tiny_agent(), "icrl/DarkroomPermuted-v0"
    (told,) = set(cautions(lambda: evaluate(agent, elsewhere, episodes=1, tasks=[0])))
    agent.save_pretrained(tmp_path)
    for command, option in (("play", "--no-animation"), ("evaluate", "--seeds=1")):
        result = call(command, tmp_path, "--env", elsewhere, "--episodes", 1, option)
        assert (result.exit_code, result.stderr) == (0, f"warning: {told}\n")
        assert call(command, tmp_path, "--episodes", 1, option).stderr == ""


@pytest.mark.parametrize("name", SOURCES)
def test_a_learner_of_bandits_in_a_room_is_told(name):
    """And no other learner anywhere; in bandits nobody is told anything."""
    told = cautions(lambda: make_source(name, SMALL))
    assert (
        bool(told)
        == find_source(name).needs_bandit
        == (name in ("thompson", "gaussian-thompson", "ucb", "linucb", "epsilon-greedy", "gittins", "bayes-ucb"))
    )
    assert all(f"source {name!r} is for bandits" in line and "use 'posterior'" in line for line in told)
    assert cautions(lambda: make_source(name, ARMS)) == []


def test_collecting_with_it_is_told_on_standard_error(tmp_path):
    words = ("--streams", 1, "--episodes", 1, "-o", tmp_path / "h.h5")
    result = call("collect", "--env", SMALL, "--source", "linucb", *words)
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("warning: source 'linucb' is for bandits")
    assert cautions(lambda: collect(SMALL, "ucb", tmp_path / "u.h5", tasks=[0], streams=1, episodes=1))


def test_other_warnings_are_printed_as_ever(monkeypatch):
    monkeypatch.setattr(
        "icrl_agents.hub.remote.list_pretrained", lambda: warnings.warn("another", UserWarning, stacklevel=1) or []
    )
    with pytest.warns(UserWarning, match="another"):
        assert "warning: another" not in call("agents").stderr


def test_bandits_are_those_whose_lifetime_is_one_episode():
    assert {name for name, tasks in FAMILIES.items() if tasks.family.bandit} == {
        name for name, tasks in FAMILIES.items() if tasks.family.lifetime == 1
    }


def test_a_room_of_few_tasks_is_told_before_training(tmp_path):
    """It is for quick tests: an agent learns its goals by heart."""
    settings = {**FAST, "updates": 1}
    (told,) = cautions(lambda: train("ad", SMALL, tmp_path / "a", settings=settings, quiet=True, track=[]))
    assert (
        told == f"{SMALL} has 7 training tasks, so few that an agent memorises them: for unseen tasks train on {ROOM}"
    )
    assert cautions(lambda: train("ad", ROOM, tmp_path / "b", settings=settings, quiet=True, track=[])) == []
