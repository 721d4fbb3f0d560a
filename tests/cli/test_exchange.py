"""The commands import and export, and the recordings of play."""

import numpy as np
import pytest
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


def test_a_recording_is_not_lost(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"mine")
    assert "--overwrite" in run("play", "icrl/ad-darkroom", "--record", path, code=2)
    assert path.read_bytes() == b"mine"
    assert "--record FILE.gif" in run("play", "icrl/ad-darkroom", "--record-episodes", "1", code=2)
    for option in ("--record-width", "--record-every"):
        assert "--record FILE.gif" in run("play", "icrl/ad-darkroom", option, "100", code=2)
    assert "1,a" in run("play", "icrl/ad-darkroom", "--record", tmp_path / "b.gif", "--record-episodes", "1,a", code=2)
