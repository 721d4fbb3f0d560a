"""Where a training's metrics go besides metrics.jsonl: through Accelerate's trackers, of which one is a fake."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from icrl_agents import train
from icrl_agents.training import tracking
from icrl_agents.training.tracking import TRACKERS, check_trackers
from tests.cli.test_cli import call, refused
from tests.conftest import one_line
from tests.training.test_training import FAST, ID


class Fake(GeneralTracker):
    """Remembers what Accelerate hands to a tracker."""

    name = "fake"
    requires_logging_directory = False

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.rows: list[tuple[dict[str, Any], int | None]] = []
        self.finished, self.fails_at = 0, fails_at

    @property
    def tracker(self) -> Fake:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if step == self.fails_at:
            raise OSError("the tracker's disk is full")
        self.rows.append((values, step))

    def finish(self) -> None:
        self.finished += 1


def run(out: Path, track: Any = None, **changes: Any) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl of a short training."""
    train("ad", ID, out, settings={**FAST, **changes}, device="cpu", quiet=True, track=track)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_tracker_gets_what_is_in_the_metrics_file(tmp_path):
    fake = Fake()
    rows = run(tmp_path / "run", [fake], eval_every=4)
    assert fake.rows == [(row, row["update"]) for row in rows]
    assert "validation_random" in rows[-1]
    assert fake.finished == 1


def test_a_tracker_is_finished_where_training_fails(tmp_path):
    fake = Fake(fails_at=3)
    with pytest.raises(OSError, match="disk is full"):
        run(tmp_path / "run", [fake])
    assert (len(fake.rows), fake.finished) == (2, 1)


def test_wandb_is_asked_to_stay_offline_in_the_runs_folder(tmp_path, monkeypatch):
    calls, logged = [], []
    session = SimpleNamespace(log=lambda values, step: logged.append(step), finish=lambda: logged.append("end"))
    fake = SimpleNamespace(init=lambda **options: calls.append(options) or session)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path / "run", ["wandb"], updates=2)
    (options,) = calls
    assert (options["mode"], options["dir"], options["name"]) == ("offline", str(tmp_path / "run"), "run")
    assert (options["project"], options["config"]["train"]["updates"]) == ("icrl-agents", 2)
    assert logged == [1, 2, "end"]


def test_wandb_itself_writes_into_the_runs_folder(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path / "run", ["wandb"], updates=2)
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_tensorboard_itself_gets_every_number(tmp_path):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = run(tmp_path / "run")  # it is the default where it is installed
    found = module.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss")]
    assert losses == [(row["update"], pytest.approx(row["loss"], rel=1e-5)) for row in rows]


def test_none_writes_the_metrics_file_only(tmp_path):
    for number, track in enumerate(([], ["none"])):
        run(tmp_path / str(number), track, updates=1)
        assert {path.name for path in (tmp_path / str(number)).iterdir()} == {
            *("config.json", "model.safetensors", "README.md", "metrics.jsonl", "train.json")
        }


def test_mistakes_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    one_line(lambda: check_trackers(["tensorbord"]), ValueError, "tensorbord", "did you mean 'tensorboard'")
    one_line(lambda: check_trackers("wandb"), ValueError, "['wandb']")
    one_line(lambda: check_trackers(["none", "wandb"]), ValueError, "alone")
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    out = tmp_path / "run"
    words = ("train", "ad", "--env", ID, "-o", out, "--updates", 1)
    assert 'pip install "icrl-agents[tracking]"' in refused(*words, "--track", "wandb")
    assert not out.exists()
    assert call("train", "--help").stdout.count("--track") == 1


def test_without_tensorboard_there_is_no_tracker(monkeypatch):
    monkeypatch.setitem(tracking.PACKAGES, "tensorboard", "no_such_package")
    assert check_trackers(None) == ()
    assert set(TRACKERS) == set(tracking.PACKAGES)
