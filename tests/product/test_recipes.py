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
    """A script's last training has the settings of the agent, and its collections the sizes of the histories."""
    path, options = ROOT / words[0], dict(zip(words[1::2], words[2::2], strict=True))
    script = runpy.run_path(str(path))
    if path.stem == "13_act_from_videos":
        check_videos(script, int(options["--labels"]), data)
        return
    facts, last = data["facts"], script["ROUNDS"][-1]
    assert facts["env_id"] == f"icrl/MetaWorld-{options['--task']}-v0"
    out = f"runs/ml1-{options['--task']}/round-{len(script['ROUNDS']) - 1}"
    given = {
        **script["SETTINGS"],
        **last.settings,
        "task_set": "train_free",
        "seed": int(options["--seed"]),
        "init": out,
    }
    config, agent, _ = split_settings(data["method"], facts["env_id"], given, fresh=False)
    assert (asdict(config), asdict(agent)) == (asdict(TrainConfig()) | facts["train"], data["config"])
    assert [part["episodes"] for part in facts["data"]["collections"]] == [one.episodes for one in script["ROUNDS"]]


def check_videos(script: dict[str, Any], labels: int, data: dict[str, Any]) -> None:
    """Each of its agents has its settings."""
    target = data["config"].get("target", "action")
    own = {"la-bc": {**script["POLICY"], "labels": labels}, "bc": {**script["CLONE"], "target": target}}
    given = {**own[data["method"]], "seed": 0, "eval_every": 0, "threads": 1}
    config, agent, _ = split_settings(data["method"], script["ENV_ID"], given, fresh=False)
    assert (asdict(config), asdict(agent)) == (asdict(TrainConfig()) | data["facts"]["train"], data["config"])
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
