"""A method and an environment are two files each: a new one, and a line in the registry beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import icrl_envs
import pytest

import icrl_agents

ADDITIONS = Path(__file__).parent / "additions"
SIZES = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6, "episodes": 2, "batch_size": 4}


def register(folder: Path, *lines: str) -> None:
    """Add lines to the registry of a folder."""
    path = folder / "__init__.py"
    path.write_text("\n".join([path.read_text(), *lines, ""]))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the packages to which a method and an environment were added."""
    for package in (icrl_agents, icrl_envs):
        source = Path(package.__file__).parent
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    methods, envs = tmp_path / "icrl_agents" / "methods", tmp_path / "icrl_envs"
    shutil.copy(ADDITIONS / "plain_ad.py", methods)
    shutil.copy(ADDITIONS / "corridor.py", envs / "grids")
    register(methods, "from icrl_agents.methods.plain_ad import PlainAD", 'METHODS["plain-ad"] = PlainAD')
    register(
        envs,
        "from icrl_envs.grids.corridor import Corridor",
        'register_rules(Corridor, "icrl/Corridor-v0", 8, Split(0.8, 0))',
    )
    return tmp_path


@pytest.mark.slow
def test_a_method_and_an_environment_are_two_files_each(copied: Path):
    def call(*words: object) -> str:
        command = [sys.executable, "-m", "icrl_agents", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": str(copied), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copied, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    settings = [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]
    settings += ["--set", "source=noise", "--set", "reward_scale=0.5", "--set", "eval_every=0", "--updates", "2"]
    call("train", "plain-ad", "--env", "icrl/Corridor-v0", *settings, "-o", "run", "--device", "cpu")
    config = json.loads((copied / "run" / "config.json").read_text())
    assert (config["method"], config["facts"]["env_id"]) == ("plain-ad", "icrl/Corridor-v0")
    assert config["config"]["reward_scale"] == 0.5
    assert len((copied / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    words = ("--episodes", "2", "--seeds", "1", "--device", "cpu", "--json")
    assert json.loads(call("evaluate", "run", *words))
