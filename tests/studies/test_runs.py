"""`icrl-agents runs`: what the folders of trainings say, side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from icrl_agents import train
from icrl_agents.studies import runs
from tests.cli.test_cli import done, refused
from tests.conftest import one_line
from tests.training.test_training import FAST, ID


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings that differ in their learning rate, the second one interrupted after four of six updates."""
    out = tmp_path_factory.mktemp("runs")
    for name, lr in (("slow", 1e-4), ("fast", 1e-2)):
        settings = {**FAST, "lr": lr, "eval_every": 2, "source.slips": 0.5}
        train("ad", ID, out / name, settings=settings, device="cpu", quiet=True)
    (out / "fast" / "model.safetensors").unlink()
    lines = (out / "fast" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "fast" / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    (out / "notes").mkdir()
    return out


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_table_says_what_the_folders_hold(folder):
    fast, slow = json.loads(done("runs", folder, "--json"))["runs"]
    assert [(run["run"], run["updates"], run["planned"], run["finished"]) for run in (fast, slow)] == [
        ("fast", 4, 6, False),
        ("slow", 6, 6, True),
    ]
    assert [run["settings"] for run in (fast, slow)] == [{"lr": 1e-2}, {"lr": 1e-4}]
    rows = metrics(folder / "slow")
    measured = {row["update"]: row["validation_return"] for row in rows if "validation_return" in row}
    assert list(measured) == [2, 4, 6]
    assert (slow["validation"], slow["best"]) == (measured[6], max(measured.values()))
    assert measured[slow["best_update"]] == slow["best"]
    assert (slow["random"], slow["optimum"]) == (rows[-1]["validation_random"], rows[-1]["validation_optimal"])
    assert 0 < slow["random"] < slow["optimum"] == 5
    assert slow["loss"] == pytest.approx(np.mean([row["loss"] for row in rows]))
    assert slow["seconds"] == rows[-1]["seconds"]
    assert (slow["method"], slow["env"], slow["seed"]) == ("ad", ID, 0)


def test_a_folder_of_runs_stands_for_the_runs_in_it(folder):
    said = done("runs", folder)
    assert said == done("runs", folder / "fast", folder / "slow", folder / "fast")
    words = said.split()
    assert "4/6" in words
    assert "not finished" in said
    assert "lr=0.0001" in words


def test_runs_of_the_same_name_are_told_apart(folder, tmp_path):
    shutil.copytree(folder / "slow", tmp_path / "slow")
    found = runs.read_runs([folder / "slow", tmp_path / "slow"])
    assert [run.name for run in found] == [str(folder / "slow"), str(tmp_path / "slow")]


@pytest.mark.slow
def test_the_figure_and_the_table_are_written_together(folder, tmp_path):
    said = done("runs", folder, "--json", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "runs.json").read_text() == said
    assert (tmp_path / "out" / "runs.png").read_bytes().startswith(b"\x89PNG")
    assert "--overwrite" in refused("runs", folder, "-o", tmp_path / "out")
    done("runs", folder, "-o", tmp_path / "out", "--overwrite")


def test_a_run_that_has_just_begun_has_no_numbers_yet(folder, tmp_path):
    shutil.copytree(folder / "slow", tmp_path / "new")
    (tmp_path / "new" / "metrics.jsonl").unlink()
    (summary,) = runs.summarise(runs.read_runs([tmp_path / "new"]))
    assert (summary.updates, summary.loss, summary.best, summary.random) == (0, None, None, None)
    runs.write_runs(runs.read_runs([tmp_path / "new", folder / "slow"]), [summary], tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train.json", "{}", ("not of a training run",)),
        ("train.json", '{"method": "ad", "env_id": 3, "train": {}}', ("not of a training run",)),
        ("train.json", "[1", ("train.json", "leave the run out")),
        ("metrics.jsonl", "nonsense\n", ("metrics.jsonl", "leave the run out")),
        ("metrics.jsonl", '{"update": "1"}\n', ("no update's metrics",)),
        ("metrics.jsonl", '{"update": 1, "loss": "low"}\n', ("no update's metrics",)),
    ],
)
def test_what_train_did_not_write_is_refused_in_one_line(file, content, words, folder, tmp_path):
    shutil.copytree(folder / "slow", tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    one_line(lambda: runs.read_runs([tmp_path / "run"]), ValueError, *words)


def test_a_folder_without_runs_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        one_line(lambda path=path: runs.read_runs([path]), FileNotFoundError, str(path), "give the run folders")
