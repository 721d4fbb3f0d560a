"""The commands import and export, and the recordings of play."""

import gymnasium
import h5py
import numpy as np
import pytest
from icrl_envs import FAMILIES, unregister_family
from typer.testing import CliRunner

from icrl_agents import HistoryStore, collect
from icrl_agents.cli.app import app

ROOM = "icrl/Darkroom3x3-v0"


def run(*words, code=0):
    """Output of a command; the error line where it fails."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    said = result.stdout if code == 0 else result.stderr
    assert code == 0 or said.count("\n") == 1
    return said


@pytest.fixture
def histories(tmp_path):
    return collect(ROOM, "noise", tmp_path / "a.h5", tasks=[0, 2], streams=1, episodes=2)


@pytest.mark.slow
def test_export_and_import(histories, tmp_path):
    pytest.importorskip("minari")
    folder = tmp_path / "sets" / "my" / "rooms-v0"
    assert str(folder) in run("export", histories, "my/rooms-v0", "-o", tmp_path / "sets")
    said = run("import", folder, "-o", tmp_path / "b.h5")
    assert "2 tasks of icrl/Darkroom3x3-v0" in said
    with HistoryStore(histories) as one, HistoryStore(tmp_path / "b.h5") as other:
        assert one.tasks == other.tasks
        np.testing.assert_array_equal(one[2].action, other[2].action)
    assert "exists" in run("import", folder, "-o", tmp_path / "b.h5", code=2)
    run("import", folder, "-o", tmp_path / "b.h5", "--tasks", "1", "--episodes-per-lifetime", "1", "--overwrite")
    with HistoryStore(tmp_path / "b.h5") as store:
        assert store.tasks == [1]
        assert len(store[1].mask) == 4
    assert "1 data sets and 2 tasks" in run("import", folder, "-o", tmp_path / "c.h5", "--tasks", "1,2", code=2)
    assert "no Minari data set" in run("import", tmp_path / "none", "-o", tmp_path / "c.h5", code=2)


def test_import_of_chunks(tmp_path):
    count, folder = 6, tmp_path / "bigfish" / "train"
    folder.mkdir(parents=True)
    columns = {
        "obs": np.zeros((count, 64, 64, 3), np.uint8),
        "ta": np.zeros(count, np.int64),
        "done": np.arange(count) % 3 == 2,
        "rewards": np.zeros(count, np.float32),
    }
    np.savez_compressed(folder / "0.npz", **columns)
    game = "icrl/Procgen-bigfish-v0"
    said = run("import", folder, "--env", game, "-o", tmp_path / "a.h5")
    assert f"1 task of {game}, up to 1 lifetime of up to 2 episodes" in said
    run("import", folder, "--env", game, "--tasks", "7", "--episodes-per-lifetime", "1", "-o", tmp_path / "b.h5")
    with HistoryStore(tmp_path / "b.h5") as store:
        assert store[7].mask.sum(1).tolist() == [3, 3]
    (folder / "0.npz").write_bytes(b"PK")
    assert "damaged" in run("import", folder, "--env", game, "-o", tmp_path / "c.h5", code=2)


LINE = """
import gymnasium
from gymnasium import spaces


class Line(gymnasium.Env):
    observation_space, action_space = spaces.Box(-9, 9, (1,)), spaces.Box(-1, 1, (1,))

    def __init__(self, goal=0):
        self.goal = goal


gymnasium.register("my/Line-v0", Line, max_episode_steps=9)
"""


def test_import_into_an_environment_of_ones_own(tmp_path, monkeypatch):
    """D4RL files name no environment, and commands know those of the package only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_line.py").write_text(LINE)
    (tmp_path / "tasks.toml").write_text("tasks = [{goal = 0}, {goal = 1}]\nsplit = [0.5, 0]\n")
    with h5py.File("data.hdf5", "w") as file:
        for name in ("observations", "actions", "rewards"):
            file[name] = np.zeros((3, 1), np.float32)
        file["terminals"] = [False, False, True]
    try:
        env = ["--env", "my_line:my/Line-v0", "--task-file", "tasks.toml"]
        run("import", "data.hdf5", *env, "--tasks", "1", "-o", "a.h5")
    finally:
        if "my/Line-v0" in FAMILIES:
            unregister_family("my/Line-v0")
        gymnasium.registry.pop("my/Line-v0", None)
    with HistoryStore("a.h5") as store:
        assert store.tasks == [1]
        assert store.info.env_id == "my/Line-v0"


def test_a_recording_is_not_lost(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"mine")
    assert "--overwrite" in run("play", "icrl/ad-darkroom", "--record", path, code=2)
    assert path.read_bytes() == b"mine"
    assert "--record FILE.gif" in run("play", "icrl/ad-darkroom", "--record-episodes", "1", code=2)
    for option in ("--record-width", "--record-every"):
        assert "--record FILE.gif" in run("play", "icrl/ad-darkroom", option, "100", code=2)
    assert "1,a" in run("play", "icrl/ad-darkroom", "--record", tmp_path / "b.gif", "--record-episodes", "1,a", code=2)
