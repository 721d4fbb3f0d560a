"""The command line: what it does, what it says, and that a user's mistake costs one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icrl_envs import FAMILIES
from rich.console import Console
from typer.testing import CliRunner, Result

from icrl_agents import HistoryStore, ICAgent, __version__
from icrl_agents.cli.app import app
from icrl_agents.cli.settings import parse_pairs, read_toml
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import play as stage
from icrl_agents.evaluation import results as report
from icrl_agents.evaluation.curves import Curve
from icrl_agents.evaluation.evaluate import evaluate, random_returns
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.hub import remote as hub
from icrl_agents.sources import SOURCES
from icrl_agents.training.config import TrainConfig
from tests.conftest import one_line
from tests.evaluation.test_plots import without_matplotlib

ID = "icrl/Darkroom3x3-v0"
SMALL = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6, "episodes": 2, "batch_size": 4,
         "eval_episodes": 2}  # fmt: skip
SETS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def done(*args: object) -> str:
    """Standard output of a command that must succeed, with no word on standard error but on so small a room."""
    result = call(*args)
    told = [line for line in result.stderr.splitlines() if f"warning: {ID} has 7 training tasks" not in line]
    assert (result.exit_code, told) == (0, []), (result.stderr, result.exception)
    return result.stdout


def refused(*args: object) -> str:
    """The one line on standard error of a command that must be refused."""
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `train` leaves it."""
    out = tmp_path_factory.mktemp("run") / "ad"
    said = done("train", "ad", "--env", ID, "-o", out, *SETS, "--updates", 2, "--device", "cpu")
    assert str(out) in said
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    stakes = f"of {last['validation_optimal']:.2f}, random {last['validation_random']:.2f}"
    assert f"validation return {last['validation_return']:.2f} {stakes}" in said
    return out


# ---- help -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_help_imports_nothing_heavy():
    script = (
        "import importlib, pkgutil, sys\n"
        "from icrl_agents import cli\n"
        "from icrl_agents.cli.app import main\n"
        "for found in pkgutil.walk_packages(cli.__path__, 'icrl_agents.cli.'):\n"
        "    if not found.name.endswith(('__main__', 'help_settings')):\n"  # the latter is for --help-settings only
        "        importlib.import_module(found.name)\n"
        "sys.argv = ['icrl-agents', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print('LOADED', *sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    help_text, _, modules = found.stdout.partition("LOADED ")
    commands = {"play", "envs", "agents", "collect", "train", "evaluate", "push", "research"}
    assert commands <= set(help_text.split())
    heavy = {"torch", "h5py", "scipy", "matplotlib", "huggingface_hub", "accelerate", "stable_baselines3", "jinja2"}
    assert heavy & set(modules.split()) == set()


@pytest.mark.slow
def test_help_and_version():
    assert done() == done("-h")
    assert done("--version") == f"icrl-agents {__version__}\n"
    for command in ("play", "envs", "agents", "collect", "train", "evaluate", "push"):
        assert done(command, "-h").startswith(f"Usage: icrl-agents {command}")


# ---- what exists ------------------------------------------------------------------------------------------------


def test_envs_lists_every_family():
    lines = [line.split() for line in done("envs").splitlines()]
    rows = {words[0]: words for words in lines if words}
    assert set(FAMILIES) <= set(rows)
    assert rows["icrl/Darkroom-v0"][-4:] == ["20", "73", "8", "16.54"]


def test_agents_lists_what_comes_with_the_package(tiny_agent, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path)
    agent = tiny_agent()
    agent.save_pretrained(tmp_path / "ad-test")
    count = sum(value.numel() for value in agent.state_dict().values())
    words = done("agents").split()
    assert ["icrl/ad-test", "icrl/Darkroom-v0", "ad", f"{count:,}", "not", "measured"] == words[-6:]
    row = {"name": "mean return, episodes 1-2", "value": 3.25, "unit": "return"}
    (tmp_path / "ad-test" / "results.json").write_text(json.dumps({"table": [row]}))
    assert "3.25 in episodes 1-2" in done("agents")


# ---- train, evaluate, push --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_prints_what_evaluate_measures(trained):
    expected = evaluate(ICAgent.from_pretrained(trained), ID, episodes=12, num_seeds=2, seed=5)
    said = done("evaluate", trained, "--episodes", 12, "--seeds", 2, "--seed", 5)
    value, low, high = expected.at(3, 12)
    assert f"mean return, episodes 3-12 {value:.2f} {low:.2f} to {high:.2f}" in " ".join(said.split())
    for word in ("random", "optimal", "source posterior", "interquartile mean", "goal="):
        assert word in said


@pytest.mark.slow
def test_evaluate_writes_json_to_standard_output_and_nothing_else(trained, tmp_path):
    files = tmp_path / "deep" / "results.json", tmp_path / "curve.png"
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    options = ("--episodes", 3, "--seeds", 2, "-o", files[0], "--curve", files[1], "--measure", "success")
    said = done("evaluate", trained, "--env", ID, "--json", *options)
    results = json.loads(said)
    assert (results["env_id"], results["split"], results["episodes"], results["num_seeds"]) == (ID, "test", 3, 2)
    curve = Curve.from_json(results["curves"][0])
    assert curve.runs.shape == curve.success.shape == (2, 1, 3)
    assert {"success, episode 3", "best-so-far success, episode 3"} <= {row["name"] for row in results["table"]}
    assert files[0].read_text() == said
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert results["settings"] == {"episodes": 3, "num_seeds": 2, "seed": 0}
    assert {"python", "torch", "numpy"} <= set(results["versions"])
    assert before == {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("option", "name"), [("-o", "precious.json"), ("--curve", "precious.png")])
def test_evaluate_replaces_a_file_only_when_told(option, name, trained, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_text("precious")
    words = ("evaluate", trained, "--episodes", 1, "--seeds", 1, option)
    with monkeypatch.context() as patch:
        patch.setattr("icrl_agents.evaluation.results.measure", None)  # all of it is refused before
        said = refused(*words, path)
        assert str(path) in said
        assert "--overwrite" in said
        folder = tmp_path / f"folder{path.suffix}"
        folder.mkdir()
        assert "is a folder" in refused(*words, folder, "--overwrite")
        assert "measure='regret', choose from return, success" in refused(*words, path, "--measure", "regret")
        assert "is a file" in refused(*words, path / name)
        assert path.read_text() == "precious"
    done(*words, path, "--overwrite")
    assert path.read_bytes() != b"precious"


@pytest.mark.slow
def test_evaluate_write_renews_the_folder(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    assert "Not measured yet" in (folder / "README.md").read_text()
    done("evaluate", folder, "--episodes", 2, "--seeds", 1, "--split", "validation", "--write")
    assert json.loads((folder / "results.json").read_text())["split"] == "validation"
    assert "mean return, episodes 1-2" in (folder / "README.md").read_text()
    assert (folder / "curve.png").exists()


@pytest.mark.slow
def test_stored_results_are_shown_and_renewed_without_measuring(trained, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    assert f"run icrl-agents evaluate {folder} --write first" in refused("evaluate", folder, "--stored")
    assert "a folder of yours" in refused("evaluate", "icrl/ad-darkroom", "--stored", "--write")
    first = done("evaluate", folder, "--episodes", 12, "--seeds", 2, "--write")
    assert "mean return, episode 12" in first
    assert "all 9 tasks: mean return, episode 12" in first
    names = ("README.md", "results.json", "curve.png")
    files = {name: (folder / name).read_bytes() for name in names}
    monkeypatch.setattr("icrl_agents.evaluation.results.measure", None)
    (folder / "README.md").write_text("lost")
    (folder / "curve.png").unlink()
    assert done("evaluate", folder, "--stored", "--write") == first
    assert {name: (folder / name).read_bytes() for name in names} == files
    asked = [("--seeds", 0), ("--seed", 1), ("--plan-after", 0), ("--split", "train"), ("--env", ID), ("--demos", 0)]
    work = [("--processes", 2), ("--backend", "ray"), ("--resource", "num_gpus=1"), ("--device", "cpu")]
    for option in asked + work:
        wanted = f"--stored measures nothing: leave out {option[0]}, "
        assert wanted in refused("evaluate", folder, "--stored", *option)
    (tmp_path / "icrl").mkdir()  # a folder comes before a bundled agent of the same name
    shutil.copytree(folder, tmp_path / "icrl" / "ad-darkroom")
    monkeypatch.chdir(tmp_path)
    assert done("evaluate", "icrl/ad-darkroom", "--stored") == first
    assert "--curve draws" in refused("evaluate", folder, "--stored", "--measure", "success")
    for option in (("--seeds", 0), ("--plan-after", 0), ("--also", tmp_path), ("--output", tmp_path)):
        wanted = f"--stored measures nothing: leave out {option[0]}, "
        assert wanted in refused("research", "table", "--stored", *option)
    results = json.loads((folder / "results.json").read_text())
    assert json.loads(done("evaluate", folder, "--stored", "--json")) == results
    study = [{"name": "3 trainings: gain", "value": 0.5}]
    results |= {"table": [*results["table"], *study], "study": study, "versions": {"torch": "1.0"}}
    (folder / "results.json").write_text(json.dumps(results))
    assert json.loads(done("evaluate", folder, "--stored", "--json")) == results
    assert "3 trainings: gain" in done("evaluate", folder, "--stored")
    results["curves"] = [{**curve, "env_id": "mine/Room-v0"} for curve in results["curves"]]  # not registered here
    (folder / "results.json").write_text(json.dumps(results))
    assert "task " in done("evaluate", folder, "--stored")


@pytest.mark.slow
def test_train_report_goes_from_nothing_to_an_evaluated_agent(tmp_path, monkeypatch):
    monkeypatch.setattr(
        report, "measure", partial(report.measure, spec=EvalSpec(episodes=3, num_seeds=2))
    )  # instead of 50 and 20
    out = tmp_path / "run"
    said = done("train", "ad", "--env", ID, "-o", out, *SETS, "--updates", 1, "--threads", 1, "--report")
    assert "trained in" in said
    assert "evaluated in" in said
    found = json.loads((out / "results.json").read_text())
    assert (found["episodes"], found["num_seeds"], len(found["curves"])) == (3, 2, 3)


def test_settings_come_from_the_file_then_set_then_options(tmp_path):
    out, config = tmp_path / "run", tmp_path / "c.toml"
    config.write_text("lr = 1e-3\nbeta2 = 0.9\nupdates = 9\nseed = 7\n[source]\nsharpness = 2.0\n")
    sets = ("--set", "beta2=0.8", "--set", "updates=8", "--set", "precision=fp32", "--set", "source.noise=0.5")
    options = ("--updates", 1, "--source", "posterior")
    done("train", "ad", "--env", ID, "-o", out, "--config", config, *SETS, *sets, *options)
    started = json.loads((out / "train.json").read_text())
    names = ("lr", "beta2", "updates", "seed", "precision", "source")
    assert [started["train"][name] for name in names] == [1e-3, 0.8, 1, 7, "fp32", "posterior"]
    assert started["source"] == {"sharpness": 2.0, "noise": 0.5}
    assert started["agent"]["width"] == 8


@pytest.mark.parametrize("name", ["recipes/darkroom.toml", "darkroom.toml"])
def test_the_packages_recipes_are_there_wherever_one_stands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_toml(Path(name)) == read_toml(Path(__file__).parents[2] / "recipes" / "darkroom.toml")
    Path("darkroom.toml").write_text("lr = 0.5\n")
    Path("recipes").mkdir()
    Path("recipes/darkroom.toml").write_text("lr = 0.5\n")
    assert read_toml(Path(name)) == {"lr": 0.5}  # one's own come first


def test_the_help_names_every_source():
    said = " ".join(done("collect", "--help").replace("-\n", "-").split())
    assert all(name in said for name in SOURCES)


@pytest.mark.slow
def test_collect_then_train_on_it(tmp_path):
    path = tmp_path / "h.h5"
    words = ("collect", "--env", ID, "--source", "q-learning", "-o", path, "--streams", 3, "--episodes", 4)
    said = done(*words, "--set", "epsilon_end=0.1", "--seed", 2)
    train_tasks = sorted(split_tasks(ID).train.ids.tolist())
    assert f"{3 * len(train_tasks)} histories of 4 episodes" in said
    with HistoryStore(path) as store:
        assert store.tasks == train_tasks
        assert (store.info.settings["epsilon_end"], store.info.seed) == (0.1, 2)
    assert "h.h5" in refused(*words)
    assert "contradict" in refused(*words, "--resume", "--overwrite")
    done(*words, "--overwrite", "--split", "all")
    with HistoryStore(path) as store:
        assert len(store) == 9
    words = (*[word.replace("episodes=2", "episodes=4") for word in SETS], "--updates", 1)
    done("train", "ad", "--env", ID, "-o", tmp_path / "run", "--histories", path, *words)


def test_push_uploads_the_folder(trained, monkeypatch):
    calls = []
    monkeypatch.setattr(hub, "upload", lambda *args, **options: calls.append((args, options)) or "https://hub/commit/1")
    assert done("push", trained, "org/name", "--private", "--revision", "v1", "--message", "first") == (
        "https://hub/commit/1\n"
    )
    done("push", trained, "org/name")
    wanted = {"private": True, "revision": "v1", "commit_message": "first"}
    assert (calls[0][0][:2], calls[0][1]) == ((trained, "org/name"), wanted)
    assert calls[1][1] == {"private": None, "revision": None, "commit_message": "Upload agent"}


# ---- play -------------------------------------------------------------------------------------------------------


class Second:
    """Stays in its first episode, and walks to the goal in all later ones."""

    def __init__(self, goal: tuple[int, int]):
        self.goal, self.ended = np.array(goal), 0

    def reset(self, env: Any, seed: int | None = None) -> None:
        self.ended = 0

    def act(self, obs: np.ndarray) -> int:
        d0, d1 = self.goal - obs
        return 4 if not self.ended else int(np.select([d0 > 0, d0 < 0, d1 > 0, d1 < 0], [0, 1, 2, 3], 4))

    def observe(self, obs: Any, reward: Any, terminated: bool, truncated: bool, info: Any) -> None:
        self.ended += terminated or truncated


def show(terminal: bool, **options: Any) -> tuple[list[stage.Episode], str]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None, _environ={"TERM": "xterm"})
    task = split_tasks("icrl/Darkroom-v0").test[2]  # goal (6, 8), worth 15
    options = {"episodes": 4, "seed": 0, "task": 2, "fps": 1e6, "console": console, **options}
    return stage.play(Second(task["goal"]), "icrl/Darkroom-v0", **options), stream.getvalue()


def test_play_prints_a_line_an_episode_and_what_happened():
    played, said = show(terminal=False)
    assert [(episode.number, episode.total, episode.success) for episode in played] == [
        (1, 0.0, False),
        (2, 15.0, True),
        (3, 15.0, True),
        (4, 15.0, True),
    ]
    lines = said.splitlines()
    assert len(lines) == 2 + 4 + 1
    assert "goal=(6, 8)" in lines[0]
    random = float(random_returns("icrl/Darkroom-v0", split_tasks("icrl/Darkroom-v0").test.ids[2:3], 0)[0])
    end = f"random {random:5.2f}   optimal 15.00"
    assert lines[2] == f"episode   1  [{'.' * 20}]  return  0.00   {end}"
    assert lines[3] == f"episode   2  [{'#' * 20}]  return 15.00   {end}"
    assert "first succeeded in episode 2" in lines[-1]
    assert "its last episode earned 15.00, of 15.00 possible" in lines[-1]
    assert "\x1b" not in said


def test_play_draws_the_room_in_a_terminal_only():
    played, said = show(terminal=True)
    assert played == show(terminal=False)[0]
    drawn = [number for number in range(1, 5) if f"episode {number} of 4, return" in said]
    assert drawn == [1, 2, 4]  # the first, a middle and the last one
    assert said.count("A . .") > 0
    assert "*" in said
    for quiet in (show(terminal=True, animate=False)[1], show(terminal=False)[1]):
        assert "of 4, return" not in quiet


def test_play_says_when_nothing_was_found():
    assert "In 1 episode the agent never succeeded." in show(terminal=False, episodes=1)[1]


@pytest.mark.slow
def test_play_from_the_command_line(trained):
    said = done("play", trained, "--episodes", 3, "--seed", 4)
    assert f"{trained} (local)" in said
    assert said == done("play", trained, "--episodes", 3, "--seed", 4)
    assert said.count("\nepisode ") == 3
    fresh = [done("play", trained, "--episodes", 1, "--no-animation").split("seed ")[1].split(".")[0] for _ in "ab"]
    assert fresh[0] != fresh[1]


# ---- mistakes ---------------------------------------------------------------------------------------------------

TRAIN = ("train", "ad", "--env", ID, "-o", "{new}")
MISTAKES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("tran",), ("tran", "train")),
    (("--colour",), ("--colour",)),
    (("train", "ad"), ("--env",)),
    (("train", "ad", "--env", "icrl/Darkrom3x3-v0", "-o", "{new}"), ("icrl/Darkrom3x3-v0", ID)),
    (("train", "da", "--env", ID, "-o", "{new}"), ("'da'", "ad")),
    ((*TRAIN, "--set", "learning=1"), ("learning",)),
    ((*TRAIN, "--set", "widht=8"), ("widht", "width")),
    ((*TRAIN, "--set", "width=wide"), ("width", "wide", "int")),
    ((*TRAIN, "--set", "width=1"), ("width=1", "2")),
    ((*TRAIN, "--set", "width"), ("'width'", "NAME=VALUE")),
    ((*TRAIN, "--set", "lr=1", "--set", "lr=2"), ("lr", "twice")),
    ((*TRAIN, "--set", "source.noise=7"), ("noise=7",)),
    ((*TRAIN, "--updates", "0"), ("updates=0",)),
    ((*TRAIN, "--source", "q-lerning"), ("q-lerning", "q-learning")),
    ((*TRAIN, "--histories", "{new}.h5"), ("{new}.h5",)),
    ((*TRAIN, "--config", "{new}.toml"), ("{new}.toml",)),
    ((*TRAIN, "--config", "{bad}"), ("{bad}", "TOML")),
    (("train", "cad", *TRAIN[2:], "--stage", "finetune"), ("--init",)),
    (("train", "cad", *TRAIN[2:], "--stage", "pretrain", "--set", "pretrain=0.5"), ("pretrain=0.5", "leave one out")),
    ((*TRAIN, "--device", "gpu"), ("gpu", "cpu")),
    ((*TRAIN, "--resume"), ("{new}", "--resume")),
    ((*TRAIN, "--resume", "--overwrite"), ("contradict",)),
    (("train", "ad", "--env", ID, "-o", "{agent}"), ("{agent}", "--overwrite")),
    (("train", "ad", "--env", ID, "-o", "{bad}"), ("{bad}",)),
    (("train", "ad", "--env", ID, "-o", "{agent}", "--overwrite", "--histories", "{new}.h5"), ("{new}.h5",)),
    (("collect", "--env", "icrl/Dark-v0", "--source", "noise", "-o", "{new}"), ("icrl/Dark-v0",)),
    (("collect", "--env", ID, "--source", "nois", "-o", "{new}"), ("nois", "noise")),
    (("collect", "--env", ID, "--source", "noise", "-o", "{new}", "--split", "tests"), ("tests", "test")),
    (("collect", "--env", ID, "--source", "noise", "-o", "{new}", "--set", "stat=1"), ("stat", "start")),
    (("collect", "--env", ID, "--source", "noise", "-o", "{new}", "--set", "source.start=7"), ("start=7", "0.0..1.0")),
    (("collect", "--env", ID, "--source", "noise", "-o", "{new}", "--set", "start=x"), ("start", "x")),
    (("collect", "--env", ID, "--source", "noise", "-o", "{new}", "--streams", "0"), ("streams=0",)),
    (("evaluate", "./nowhere"), ("./nowhere",)),
    (("evaluate", "{bad}"), ("{bad}", "config.json")),
    (("evaluate", "{agent}", "--env", "CartPole-v1"), ("CartPole-v1",)),
    (("evaluate", "{agent}", "--env", "icrl/Darkroom-v0"), ("observation_space",)),
    (("evaluate", "{agent}", "--split", "tset"), ("tset", "test")),
    (("evaluate", "{agent}", "--plan", "beam"), ("plan", "dynamics=True")),
    (("evaluate", "{agent}", "--change", "zeroed"), ("zeroed", "agents with latents")),
    (("evaluate", "{agent}", "--change", "frozen", "--plan", "beam"), ("--change frozen", "leave")),
    (("evaluate", "{agent}", "--plan", "bem"), ("bem", "did you mean 'beam'")),
    (("evaluate", "{agent}", "--beam-width", "5"), ("--plan",)),
    (("evaluate", "{agent}", "--plan", "beam", "--beam-width", "0"), ("width=0",)),
    (("evaluate", "{agent}", "--episodes", "many"), ("--episodes",)),
    (("evaluate", "{agent}", "--curve", "{new}.txt"), ("{new}.txt", ".png")),
    (("evaluate", "{agent}", "--episodes", "1", "--seeds", "1", "-o", "{agent}"), ("{agent}",)),
    (("play", "{agent}", "--task", "5"), ("task=5", "0 to 0")),
    (("play", "{agent}", "--split", "every"), ("every", "test", "all")),
    (("play", "{agent}", "--fps", "0"), ("fps=0.0",)),
    (("play", "{agent}", "--episodes", "0"), ("episodes=0",)),
    (("play", "{agent}", "--seed", "-1"), ("seed=-1",)),
    (("evaluate", "{agent}", "--seeds", "0"), ("num_seeds=0",)),
    (("push", "{new}", "org/name"), ("{new}",)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("args", "words"), MISTAKES, ids=[" ".join(args) for args, _ in MISTAKES])
def test_a_mistake_costs_one_line_and_nothing_else(args, words, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    bad = tmp_path / "bad"
    bad.write_text("lr = = 1\n")
    places = {"new": str(tmp_path / "new"), "bad": str(bad), "agent": str(trained)}
    files = sorted(path.name for path in trained.iterdir())
    said = refused(*(arg.format(**places) for arg in args))
    assert [word for word in words if word.format(**places) not in said] == [], said
    assert sorted(path.name for path in trained.iterdir()) == files
    assert not [path for path in tmp_path.iterdir() if path != bad and not path.name.endswith(".partial")]


def test_an_agent_that_names_no_environment(tiny_agent, tmp_path):
    agent = tiny_agent()
    agent.facts = {"env_id": ["icrl/Darkroom-v0"]}
    agent.save_pretrained(tmp_path)
    assert "--env" in refused("evaluate", tmp_path)


def test_only_local_folders_are_written_to(tiny_agent, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "bundled_folder", lambda: tmp_path)
    tiny_agent().save_pretrained(tmp_path / "ad-test")
    assert "bundled" in refused("evaluate", "icrl/ad-test", "--write")


def test_a_missing_extra_is_named(trained, monkeypatch):
    without_matplotlib(monkeypatch)
    assert "icrl-agents[plots]" in refused("evaluate", trained, "--curve", "c.png")


class Endings:
    """How errors that no test can provoke end a command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch

    def __call__(self, error: BaseException, *flags: str) -> Result:
        def fail(*args: Any, **options: Any) -> None:
            raise error

        self.monkeypatch.setattr(hub, "upload", fail)
        return call("push", "folder", "org/name", *flags)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Endings:
    return Endings(monkeypatch)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError("no\ntoken"), "error: no token\n"),
        (OSError(28, "No space left on device", "/x"), "error: /x: No space left on device\n"),
        (ImportError("pip install icrl-agents[plots]"), "error: pip install icrl-agents[plots]\n"),
        (TimeoutError(), "error: TimeoutError\n"),
    ],
)
def test_what_users_can_mend_is_one_line(ending, error, line):
    result = ending(error)
    assert (result.exit_code, result.stderr, result.stdout) == (2, line, "")
    assert ending(error, "--debug").exception is error


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), ModuleNotFoundError("x", name="x")])
def test_a_bug_keeps_its_traceback(ending, error):
    assert ending(error).exception is error


def test_ctrl_c_is_one_line(ending):
    result = ending(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


# ---- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=3e-4", 3e-4),
        ("lr=1", 1.0),
        ("updates=1_000", 1000),
        ("updates=1.5", 1.5),  # refused by the configuration, not here
        ("precision=bf16", "bf16"),
        ("precision='bf16'", "bf16"),
        ("source=1", "1"),
        ("split_seed=none", None),
        ("split_seed=3", 3),
        ("other=true", True),
        ("other=word", "word"),
        (" lr = 2.5 ", 2.5),
    ],
)
def test_values_are_read_as_the_types_of_their_fields(text, value):
    (found,) = parse_pairs([text], fields(TrainConfig)).values()
    assert found == value
    assert type(found) is type(value)


def test_files_that_are_not_toml(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"lr = 1e-3\nwidth : 4\n")
    one_line(lambda: read_toml(path), ValueError, "c.toml", "line 2")
    path.write_bytes(b"\xff\xfe")
    one_line(lambda: read_toml(path), ValueError, "c.toml", "TOML")
    assert read_toml(None) == {}
