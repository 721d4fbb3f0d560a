"""The command on a card gives the settings its agent was trained with: recipe, options and the defaults of today."""

import json
import re
import runpy
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from icrl_agents.cli.app import app
from icrl_agents.cli.settings import parse_pairs, read_toml
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.sources import default_source, make_source
from icrl_agents.training.config import TrainConfig, split_settings
from tests.fakes import imagines

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "model_cards").iterdir())


RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
IMAGINES = {path for path in RECIPES if read_toml(path).get("dynamics")}
OWN = {path: method for path in RECIPES for method in METHODS if path.stem.startswith(f"{method}-")}


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        (method, path)
        for path in RECIPES
        for method in METHODS
        if OWN.get(path, method) == method and (path not in IMAGINES or imagines(method))
        if OWN.get(path) or issubclass(METHODS[method].Config, AgentConfig)
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_every_method_takes_every_recipe(method: str, recipe: Path):
    """But for those that are named after one, or are about what it does not do."""
    env_id = next(iter(re.findall(r"--env (\S+)", recipe.read_text())), "icrl/Darkroom-v0")
    config, _, source = split_settings(method, env_id, read_toml(recipe))
    assert config.updates >= 1000  # shorter trainings did not learn
    make_source(config.source or default_source(env_id), env_id, source)


def test_lifetimes_of_one_episode_are_seen_as_a_whole_unless_said_otherwise():
    config, agent, _ = split_settings("ad", "icrl/GaussianBandit-v0", {})
    assert (config.episodes, config.eval_episodes, agent.window) == (1, 1, 500)
    config, agent, _ = split_settings("ad", "icrl/GaussianBandit-v0", {"window": 100, "episodes": 3})
    assert (config.episodes, config.eval_episodes, agent.window) == (3, 1, 100)
    assert split_settings("ad", "icrl/Darkroom-v0", {})[0] == TrainConfig()


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.name)
def test_the_command_on_a_card_gives_its_settings(card: Path):
    data = json.loads((card / "config.json").read_text())
    facts = data["facts"]
    words = shlex.split(facts["command"])
    if words[0] == "python":
        check_script(words[1:], data)
        return
    assert words[:2] == ["icrl-agents", "train"]
    with get_command(app).commands["train"].make_context("train", words[2:]) as context:
        given = context.params
    settings = read_toml(given["config"] and ROOT / given["config"]) | parse_pairs(given["settings"], [])
    settings |= {name: given[name] for name in ("source", "updates", "seed", "threads") if given[name] is not None}
    config, agent, source = split_settings(given["method"], given["env"], settings)
    assert (given["method"], given["env"]) == (data["method"], facts["env_id"])
    added = METHODS[data["method"]].Config.ADDED
    older = {name: value for name, value in added.items() if name not in {**settings, **data["config"]}}
    assert {**asdict(agent), **older} == {**added, **data["config"]}  # a command lacks settings that came after it
    known = asdict(TrainConfig()) | facts["train"]  # settings that the card is too old to have had their defaults
    assert known == asdict(config)
    if given["histories"]:
        assert facts["data"]["histories"] == given["histories"][0].name
        return
    made = make_source(config.source or default_source(given["env"]), given["env"], source)
    assert asdict(made.Settings()) | facts["data"]["settings"] == asdict(made.settings)


def check_script(words: list[str], data: dict[str, Any]) -> None:
    """The script trains an agent with the settings of this one."""
    path, options = ROOT / words[0], dict(zip(words[1::2], words[2::2], strict=True))
    check = {"10": check_cheetah, "11": check_rounds, "13": check_videos}
    check[path.name[:2]](runpy.run_path(str(path)), options, data)


def check_settings(env_id: str, given: dict[str, Any], data: dict[str, Any]) -> None:
    """The settings that a script gives, and the defaults of today, are those of the agent."""
    config, agent, _ = split_settings(data["method"], env_id, given, fresh=False)
    assert asdict(config) == asdict(TrainConfig()) | data["facts"]["train"]
    assert asdict(agent) == {**METHODS[data["method"]].Config.ADDED, **data["config"]}
    assert data["facts"]["env_id"] == env_id


def check_cheetah(script: dict[str, Any], options: dict[str, str], data: dict[str, Any]) -> None:
    check_settings(script["ENV_ID"], script["SETTINGS"], data)
    assert not options
    assert data["facts"]["data"]["settings"].items() >= script["SOURCE"].items()
    assert (data["facts"]["data"]["episodes"], data["facts"]["data"]["streams"]) == (
        script["EPISODES"],
        script["STREAMS"],
    )


def check_rounds(script: dict[str, Any], options: dict[str, str], data: dict[str, Any]) -> None:
    """The last training has the settings of the agent, and the collections the sizes of the histories."""
    last, task = script["ROUNDS"][-1], options["--task"]
    more = {"task_set": "train_free", "seed": int(options["--seed"])}
    more["init"] = f"runs/ml1-{task}/round-{len(script['ROUNDS']) - 1}"
    check_settings(f"icrl/MetaWorld-{task}-v0", {**script["SETTINGS"], **last.settings, **more}, data)
    episodes = [part["episodes"] for part in data["facts"]["data"]["collections"]]
    assert episodes == [one.episodes for one in script["ROUNDS"]]


def check_videos(script: dict[str, Any], options: dict[str, str], data: dict[str, Any]) -> None:
    """Each of its agents has its settings."""
    target = data["config"].get("target", "action")
    own = {
        "la-bc": {**script["POLICY"], "labels": int(options["--labels"])},
        "bc": {**script["CLONE"], "target": target},
    }
    given = {**own[data["method"]], "seed": int(options["--seed"]), "eval_every": 0, "threads": 1}
    check_settings(script["ENV_ID"], given, data)
    assert data["facts"]["data"]["episodes"] == script["VIDEOS"]["episodes"]


def test_the_small_rooms_settings_are_for_its_own_source():
    """Random actions in its histories keep agents from learning seven goals by heart; what is given comes first."""
    room = "icrl/Darkroom3x3-v0"
    for given, fresh, slips in (
        ({}, True, {"slips": 1.0}),
        ({"source": "posterior"}, True, {}),
        ({"source.slips": 0.25, "updates": 7}, True, {"slips": 0.25}),
        ({"source": "q-learning"}, True, {}),
        ({}, False, {}),  # a file of histories, or a run that is resumed
    ):
        config, _, source = split_settings("ad", room, given, fresh)
        assert (config.updates, source) == (given.get("updates", 300), slips)
    assert split_settings("ad", "icrl/Darkroom-v0", {})[2] == {}
