"""The doctor names what is wrong with an environment, and finds nothing wrong with a sound one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs import GymFamily, register_family, unregister_family
from typer.testing import CliRunner

from icrl_agents.cli.app import app
from icrl_agents.core.families import find_family
from icrl_agents.sources import make_source
from icrl_agents.studies.doctor.contract import check_contract
from icrl_agents.studies.doctor.costs import check_costs, duration
from icrl_agents.studies.doctor.examine import examine
from icrl_agents.studies.doctor.findings import Finding, Grade
from icrl_agents.studies.doctor.tasks import check_rewards

ENV_ID = "test/Lever-v0"


class Lever(gymnasium.Env):
    """Two levers, of which the task's one pays; `fault` breaks one part of the contract, or changes what pays."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def __init__(self, lever: int = 0, number: int = 0, fault: str = ""):
        self.lever, self.fault = lever, fault
        if fault == "spaces":
            self.observation_space = spaces.Text(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        if self.fault == "options":
            self.lever = options["lever"]
        return self._obs(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self.fault == "length":
            return 0, 1.0, action != self.lever, False, {}
        pays = {"blind": 0.0, "same": float(action == 0)}.get(self.fault, float(action == self.lever))
        return self._obs(), pays, False, False, {}

    def _obs(self) -> Any:
        generator = np.random.default_rng() if self.fault == "seeds" else self.np_random
        if self.fault == "contract":
            return 7
        return "a" if self.fault == "spaces" else int(generator.integers(3))


LACKING = [("q-learning", "dpt", "expert_action"), ("posterior", "marked-ad", "log_prob")]


@pytest.fixture
def family(request: pytest.FixtureRequest) -> Iterator[str]:
    gymnasium.register(ENV_ID, Lever, max_episode_steps=5, kwargs={"fault": request.param})
    register_family(ENV_ID, [{"lever": number % 2, "number": number} for number in range(60)], lifetime=10)
    yield ENV_ID
    unregister_family(ENV_ID)
    gymnasium.registry.pop(ENV_ID)


def grades(found: list[Finding]) -> dict[str, Grade]:
    return {finding.check: finding.grade for finding in found}


@pytest.mark.slow
@pytest.mark.parametrize("family", [""], indirect=True)
def test_a_sound_environment_has_no_failures(family):
    found = list(examine(family, source="q-learning", tasks=6, episodes=15))
    checks = ["contract", "observations", "actions", "seeds", "split", "rewards", "source", "tasks", "collect", "train"]
    assert [finding.check for finding in found] == checks
    assert {check for check, grade in grades(found).items() if grade != Grade.OK} <= {"source"}
    assert grades(found)["source"] != Grade.FAIL
    texts = {finding.check: finding.text for finding in found}
    assert "49 training, 5 validation, 6 test tasks" in texts["split"]
    assert "knowing the task pays" in texts["tasks"]
    assert all("\n" not in finding.text and len(finding.text) < 400 for finding in found)


FAULTS = {
    "contract": ("contract", "AssertionError"),
    "spaces": ("spaces", "no codec"),
    "seeds": ("seeds", "np_random"),
    "blind": ("source", "there is nothing to imitate"),
    "same": ("tasks", "the task arguments change nothing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAULTS, indirect=True)
def test_a_fault_is_named(family, request):
    check, said = FAULTS[request.node.callspec.params["family"]]
    failed = {
        finding.check: finding.text
        for finding in examine(family, source="q-learning", tasks=4, episodes=4)
        if finding.grade == Grade.FAIL
    }
    assert said in failed[check]


@pytest.mark.parametrize("family", ["length"], indirect=True)
def test_rewards_that_are_all_the_same_pay_where_episodes_differ_in_length(family):
    """CartPole's are."""
    (found,) = check_rewards(find_family(family), np.arange(4))
    assert found.grade == Grade.OK
    assert "every reward is 1 in " in found.text
    assert "the length of episodes" in found.text


def test_rewards_that_random_play_does_not_find_are_no_failure():
    """A source may find them: this goal is 16 moves away."""
    (found,) = check_rewards(find_family("icrl/Darkroom17x17-v0"), np.array([0]))
    assert found.grade == Grade.NOTE
    assert "every reward is 0 in " in found.text


def test_an_environment_that_needs_its_task_at_every_reset_keeps_the_contract():
    gymnasium.register(ENV_ID, Lever, max_episode_steps=5, kwargs={"fault": "options"})
    try:
        tasks = [{"lever": 0}, {"lever": 1}]
        (found,) = check_contract(GymFamily(ENV_ID, tasks, split=(0.5, 0), pass_task="options"))
    finally:
        gymnasium.registry.pop(ENV_ID)
    assert found == Finding("contract", Grade.OK, "gymnasium's check_env finds nothing")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "code"), [("", 0), ("blind", 1)], indirect=["family"])
def test_the_command_prints_findings_and_has_an_exit_code(family, code):
    words = ["doctor", "--env", family, "--source", "q-learning", "--sample", "4", "--episodes", "15"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == code
    found = json.loads(result.stdout)
    assert all(finding.keys() == {"check", "grade", "text"} for finding in found)
    assert code == any(finding["grade"] == "FAIL" for finding in found)
    table = CliRunner().invoke(app, words).stdout
    assert all(finding["check"] in table for finding in found)


@pytest.mark.parametrize("family", [""], indirect=True)
@pytest.mark.parametrize(("source", "method", "column"), LACKING, ids=[column for *_, column in LACKING])
def test_a_source_without_what_a_method_learns_from_fails(source, method, column, family):
    env_id = family if method == "dpt" else "icrl/Darkroom3x3-v0"
    last = list(check_costs(find_family(env_id), make_source(source, env_id), method, 2))[-1]
    assert (last.check, last.grade) == ("train", Grade.FAIL)
    assert f"{method} learns from {column}, which this source does not record" in last.text


def test_warnings_of_gymnasium_have_no_colours():
    """Gymnasium's checker has one warning for actions that are not from -1 to 1."""
    tasks = [{"m": 0.5}, {"m": 2.0}]
    found = next(iter(check_contract(GymFamily("Pendulum-v1", tasks, split=(0.5, 0), pass_task="attributes"))))
    assert "1 warning, the first: For Box action spaces" in found.text
    assert found.text.isprintable()


def test_an_unknown_environment_or_method_is_one_line():
    with pytest.raises(ValueError, match="environment id"):
        next(iter(examine("my/Nothing-v0")))
    with pytest.raises(ValueError, match="method"):
        next(iter(examine("icrl/Darkroom3x3-v0", method="a")))


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


class Knowing:
    """An expert: pulls the lever of the task."""

    def __call__(self, obs: np.ndarray, tasks: list[dict[str, Any]]) -> np.ndarray:
        return np.array([task["lever"] for task in tasks])


knowing = Knowing()


@pytest.mark.slow
@pytest.mark.parametrize("family", [""], indirect=True)
def test_the_expert_of_a_user_is_examined(family):
    words = ["doctor", "--env", family, "--set", "source.expert=tests.studies.test_doctor:knowing", "--sample", "4"]
    result = CliRunner().invoke(app, [*words, "--episodes", "6", "--json"])
    found = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert ", noise from" in found["source"]["text"]
    assert found["source"]["grade"] == Grade.OK
