"""What is yes or no is a bool: "no" counts as true in Python, and has overwritten files and ended exploration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icrl_envs import register_family

from icrl_agents import ICAgent, collect, train
from icrl_agents.histories.exchange.importing import import_histories
from tests.conftest import one_line
from tests.fakes import Variant

ENV = "icrl/Darkroom3x3-v0"


def agent(rows: int | None = None) -> ICAgent:
    made = Variant("ad").build("discrete")
    made.reset(num_envs=rows, seed=0)
    return made


def trained(folder: Path, **given: Any) -> Any:
    return train("ad", ENV, folder, settings={"updates": 1}, **given)


FLAGS = {
    "act deterministic": lambda value, _: agent().act(0, deterministic=value),
    "decide deterministic": lambda value, _: agent().decide(0, deterministic=value),
    "reset learn": lambda value, _: agent().reset(learn=value),
    "reset rows learn": lambda value, _: agent(2).reset(mask=np.array([True, False]), learn=value),
    "load local_files_only": lambda value, _: ICAgent.from_pretrained("icrl/ad-darkroom", local_files_only=value),
    "load force_download": lambda value, _: ICAgent.from_pretrained("icrl/ad-darkroom", force_download=value),
    "push private": lambda value, _: agent().push_to_hub("me/agent", private=value, token="hf_none"),
    "collect resume": lambda value, path: collect(ENV, "noise", path / "a.h5", resume=value),
    "collect overwrite": lambda value, path: collect(ENV, "noise", path / "a.h5", overwrite=value),
    "import overwrite": lambda value, path: import_histories(["none"], path / "a.h5", overwrite=value),
    "train resume": lambda value, path: trained(path / "run", resume=value),
    "train overwrite": lambda value, path: trained(path / "run", overwrite=value),
    "train quiet": lambda value, path: trained(path / "run", quiet=value),
}


@pytest.mark.parametrize("value", ["no", 1, 0.0, []], ids=repr)
@pytest.mark.parametrize("name", FLAGS)
def test_all_but_bools_are_refused(name: str, value: object, tmp_path: Path):
    one_line(lambda: FLAGS[name](value, tmp_path), ValueError, name.split()[-1])
    assert not any(tmp_path.iterdir())


def test_a_family_is_a_bandit_or_not():
    tasks = [{"sutton_barto_reward": reward} for reward in (True, False)]
    one_line(lambda: register_family("CartPole-v1", tasks, bandit="no"), ValueError, "bandit='no'", "False, True")


def test_numpys_bools_are_bools():
    made = agent()
    assert made.act(0, deterministic=np.True_) in made.action_space
    made.reset(learn=np.True_)


def test_an_empty_name_is_no_planner():
    made = Variant("ad", (("dynamics", True),)).build("discrete")
    made.reset(seed=0)
    one_line(lambda: made.act(0, plan=""), ValueError, "unknown plan ''")
