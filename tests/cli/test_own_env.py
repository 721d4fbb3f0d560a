"""Environments of a user on the command line: `--env MODULE:ID` and `--tasks FILE`, from a module in the folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import gymnasium
import pytest
from icrl_envs import FAMILIES, find_family, unregister_family
from typer.testing import CliRunner, Result

from icrl_agents import HistoryStore, ICAgent, evaluate
from icrl_agents.cli.app import app

ID = "my/Poles-v0"
ENV = f"my_poles:{ID}"
MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class PoleEnv(CartPoleEnv):
    def __init__(self, length=0.5, gravity=9.8, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.length, self.polemass_length, self.gravity = length, self.masspole * length, gravity


gymnasium.register("my/Poles-v0", PoleEnv, max_episode_steps=60)
"""
TASKS = """
horizon = 12
lifetime = 2
num_tasks = 24
seed = 1
split = [0.75, 0]

[tasks]
length = {low = 0.3, high = 2.0}
gravity = [5, 10, 15]
"""
SMALL = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 24, "slide": 12, "batch_size": 4, "eval_every": 2,
         "eval_episodes": 1, "updates": 2}  # fmt: skip
SETS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def done(*args: object) -> str:
    result = call(*args)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def refused(*args: object) -> str:
    result = call(*args)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 410
    return result.stderr


def forget() -> None:
    """A program that has not imported the module and knows none of the tasks."""
    for env_id in [env_id for env_id in FAMILIES if not env_id.startswith("icrl/")]:
        unregister_family(env_id)
    for env_id in [ID, "my/Other-v0"]:
        gymnasium.registry.pop(env_id, None)
    sys.modules.pop("my_poles", None)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a module that registers an environment, and a file of tasks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_poles.py").write_text(MODULE)
    (tmp_path / "tasks.toml").write_text(TASKS)
    yield tmp_path
    forget()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """An agent of an environment without a family."""
    root = tmp_path_factory.mktemp("own")
    (root / "my_poles.py").write_text(MODULE)
    (root / "tasks.toml").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "path", list(sys.path))
        words = ["--env", ENV, "--tasks", "tasks.toml"]
        done("collect", *words, "--source", "uniform", "--streams", 1, "--episodes", 2, "-o", "histories.h5")
        said = done("train", "ad", *words, "--histories", "histories.h5", "-o", "agent", *SETS, "--device", "cpu")
        assert "nan" not in said
        assert f"watch it: icrl-agents play agent --env {ENV}" in said
    forget()
    return root


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_value_within_an_environment_says_where_it_was(folder, processes):
    line = "        assert gravity > 9 or int('x')\n"
    before, rest = MODULE.split("        self.length")
    (folder / "my_poles.py").write_text(f"{before}{line}        self.length{rest}")
    words = ["--env", ENV, "--tasks", "tasks.toml", "--source", "uniform", "--streams", 1, "--processes", processes]
    said = refused("collect", *words, "-o", "h.h5")
    place = f"(from {folder / 'my_poles.py'}, line {before.count(chr(10)) + 1}, in __init__"
    assert f"invalid literal for int() with base 10: 'x' {place}" in said
    assert "--debug" in said
    assert "(from" not in refused("collect", *words, "-o", folder)  # a mistake in the command


# ---- which environment ------------------------------------------------------------------------------------------


def test_the_list_shows_one_environment():
    [row] = json.loads(done("envs", "--env", ENV, "--tasks", "tasks.toml", "--json"))
    assert (row["id"], row["horizon"], row["train"], row["test"], row["optimum"]) == (ID, 12, 18, 6, None)
    assert re.search(rf"{ID}.* 18 .* 6 .*-\s*$", done("envs", "--env", ENV, "--tasks", "tasks.toml"), re.MULTILINE)
    assert find_family(ID).tasks[0].keys() == {"length", "gravity", "max_episode_steps"}


def test_a_module_may_register_the_tasks_itself(folder):
    with (folder / "my_poles.py").open("a") as file:
        file.write("\nfrom icrl_envs import register_family\n")
        file.write("register_family('my/Poles-v0', {'length': {'low': 0.3, 'high': 2.0}}, num_tasks=10)\n")
    assert json.loads(done("envs", "--env", ENV, "--json"))[0]["train"] == 9
    assert "leave --tasks out" in refused("envs", "--env", ENV, "--tasks", "tasks.toml")


def test_an_environment_of_gymnasium_needs_a_file_only(folder):
    (folder / "poles.json").write_text('[{"gravity": 5.0}, {"gravity": 8.0}, {"gravity": 12.0}, {"gravity": 15.0}]')
    tasks = {"tasks": [{"gravity": 5.0}, {"gravity": 8.0}], "test_tasks": [{"gravity": 9.0}]}
    text = json.dumps({**tasks, "pass_task": "attributes"})
    (folder / "held_out.json").write_text(text)
    assert "cannot be made with the task" in refused("envs", "--env", "CartPole-v1", "--tasks", "poles.json")
    [row] = json.loads(done("envs", "--env", "CartPole-v1", "--tasks", "held_out.json", "--json"))
    assert (row["train"], row["test"]) == (2, 1)
    assert find_family("CartPole-v1").make(2).unwrapped.gravity == 9.0


LINES = {
    "no tasks": (["--env", ENV], "without tasks", "--tasks FILE.toml", "register_family"),
    "a missing module": (["--env", "my_pole:my/Poles-v0"], "my_pole cannot be imported", "No module named 'my_pole'"),
    "another id": (["--env", "my_poles:my/Pole-v0"], "my_poles registers no my/Pole-v0"),
    "a path": (["--env", "./my_poles.py:my/Poles-v0"], "is not MODULE:ID"),
    "no environment": (["--tasks", "tasks.toml"], "give --env too"),
    "no file": (["--env", ENV, "--tasks", "task.toml"], "task.toml"),
    "no TOML": (["--env", ENV, "--tasks", "my_poles.py"], "my_poles.py is not TOML"),
}


@pytest.mark.parametrize("name", LINES)
def test_mistakes_are_one_line(name):
    words, *told = LINES[name]
    line = refused("envs", *words)
    assert [word for word in told if word not in line] == [], line


@pytest.mark.parametrize(
    ("text", "told"),
    {
        "length = {low = 1, high = 2}": "has no tasks, but length: write tables [[tasks]]",
        "[tasks]\nlength = {low = 2, high = 1}": "the range of length",
        "horizons = 3\n[tasks]\nlength = {low = 1.0, high = 2.0}": "did you mean 'horizon'?",
        "[tasks]\nmass = {low = 1.0, high = 2.0}": "cannot be made with the task",
        'tasks = "all"': "tasks='all': give a list",
        "[tasks]\nlength = nan": "finite Python numbers",
    }.items(),
)
def test_bad_files_are_one_line_with_their_name(text, told, folder):
    (folder / "bad.toml").write_text(text)
    line = refused("envs", "--env", ENV, "--tasks", "bad.toml")
    assert line.startswith("error: bad.toml")
    assert told in line
    assert ID not in FAMILIES


def test_a_broken_module_is_one_line(folder):
    (folder / "my_poles.py").write_text("import gymnasium\nraise RuntimeError('no licence\\nfound')\n")
    assert "RuntimeError: no licence" in refused("envs", "--env", ENV, "--tasks", "tasks.toml")


# ---- agents of it -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tasks_are_recorded_with_the_agent_and_its_histories(trained):
    facts = ICAgent.from_pretrained(trained / "agent").facts
    family = facts["family"]
    assert (facts["env_id"], len(family["tasks"]), family["horizon"], family["split"]) == (ID, 24, 12, [0.75, 0])
    with HistoryStore(trained / "histories.h5") as store:
        assert store.info.env_kwargs["family"] == {"checksum": family["checksum"]}
    card = (trained / "agent" / "README.md").read_text()
    assert "| family.tasks | 24 |" in card
    row = json.loads((trained / "agent" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"validation_return", "validation_random"} <= set(row)
    assert "validation_optimal" not in row


@pytest.mark.slow
def test_an_agent_brings_its_tasks(trained):
    said = done("play", trained / "agent", "--env", ENV, "--episodes", 2, "--task", 1)
    assert re.search(r"my/Poles-v0, task 1 of 6 test tasks: length=[\d.]+, gravity=\d+; seed", said)
    assert "optimal" not in said
    assert "drawing" not in said  # CartPole has no render mode of text
    forget()
    measured = done("evaluate", trained / "agent", "--env", ENV, "--seeds", 1, "--device", "cpu")
    assert "6 test tasks" in measured
    assert "nan" not in measured
    assert re.search(r"length=[\d.]+, gravity=\d+ +[\d.]+ +[\d.]+ +- +-", measured)


@pytest.mark.slow
def test_other_tasks_than_those_of_the_training_are_refused(trained, folder):
    (folder / "tasks.toml").write_text(TASKS.replace("seed = 1", "seed = 2"))
    words = ["--env", ENV, "--tasks", folder / "tasks.toml"]
    assert "trained on other tasks of my/Poles-v0" in refused("evaluate", trained / "agent", *words)
    line = refused("train", "ad", *words, "-o", "new", "--histories", trained / "histories.h5", *SETS)
    assert "was recorded on other tasks" in line
    assert not Path("new", "train.json").exists()
    assert "trained on other tasks" in refused("train", "ad", *words, "-o", "new", "--init", trained / "agent", *SETS,
                                               "--source", "uniform")  # fmt: skip
    run = shutil.copytree(trained / "agent", "run")
    assert "family='" in refused("train", "ad", *words, "-o", run, "--resume")


@pytest.mark.slow
def test_a_module_that_only_a_checkpoint_names_is_not_imported(trained):
    assert f"give --env MODULE:{ID}" in refused("play", trained / "agent")
    assert "my_poles" not in sys.modules
    agent = ICAgent.from_pretrained(trained / "agent")
    with pytest.raises(ValueError, match="unknown environment id 'my/Poles-v0'"):
        evaluate(agent, ID)


@pytest.mark.slow
def test_tasks_that_a_function_sets_are_asked_for(trained, folder):
    text = (trained / "agent" / "config.json").read_text()
    agent = Path(shutil.copytree(trained / "agent", "agent"))
    (agent / "config.json").write_text(text.replace('"pass_task": "make"', '"pass_task": "my_poles:set_pole"'))
    line = refused("play", agent, "--env", ENV)
    assert "set by the function my_poles:set_pole" in line
    (agent / "config.json").write_text(text.replace('"family"', '"families"'))
    assert "give --tasks FILE.toml" in refused("play", agent, "--env", ENV)
