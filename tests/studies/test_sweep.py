"""A sweep trains every cell as `train` alone does, wherever it runs, and continues after an interruption."""

from __future__ import annotations

import errno
import importlib.util
import json
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from icrl_agents import collect, train
from icrl_agents.core.process.jobs.backends import Backend, open_workers
from icrl_agents.core.process.jobs.slurm_pool import SlurmExecutor
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.studies.sweep import Grid, folder_name, sweep, table
from tests.conftest import one_line
from tests.training.test_training import FAST, ID

GRID = Grid("ad", ID, {**FAST, "updates": 2, "threads": 1}, {"lr": [1e-3, 3e-2]}, (0, 3))
SPEC = EvalSpec("validation", 2, 1)
PICTURE = ["sweep.png"] if importlib.util.find_spec("matplotlib") else []


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A sweep in this process."""
    out = tmp_path_factory.mktemp("sweep")
    return out, sweep(GRID, out, spec=SPEC)


@pytest.mark.slow
def test_every_cell_is_the_training_alone(here, tmp_path):
    out, found = here
    train("ad", ID, tmp_path / "alone", settings={**GRID.settings, "lr": 3e-2, "seed": 3}, quiet=True)
    weights = "model.safetensors"
    assert (out / "lr=0.03-seed3" / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["sweep.json", *PICTURE, *(f"lr={lr}-seed{seed}" for lr in (0.001, 0.03) for seed in (0, 3))]
    )
    written = json.loads((out / "sweep.json").read_text())
    assert (written["seed"], written["demos"]) == (0, 0)
    assert (written["split"], written["seeds"], written["episodes"]) == ("validation", [0, 3], 2)
    assert [point["settings"] for point in written["points"]] == [measured.point for measured in found]
    assert found[0].last().value >= found[1].last().value
    for measured in found:
        mean = sum(measured.last(curve).value for curve in measured.curves) / 2
        assert measured.last().value == pytest.approx(mean)
    assert {row[0] for row in table(found)[1]} == {"0.001", "0.03"}


@pytest.mark.slow
def test_on_slurm_it_is_the_same(here, tmp_path):
    """Submitit's own executor of one machine takes the place of the queue."""
    pytest.importorskip("submitit", reason='needs the package submitit: pip install "icrl-agents[slurm]"')
    out, _ = here
    one = replace(GRID, values={"lr": [3e-2]}, seeds=(3,))
    backend = Backend("slurm", None, {"cluster": "local", "timeout_min": 5})
    sweep(one, tmp_path / "there", spec=SPEC, jobs=None, backend=backend)
    for name in ("model.safetensors", "curve.json"):
        there = tmp_path / "there/lr=0.03-seed3" / name
        assert there.read_bytes() == (out / "lr=0.03-seed3" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["jobs", "lr=0.03-seed3", "sweep.json"]


def mistake(item: int) -> None:
    raise ValueError(f"lr={item} is outside 0.0..1.0")


def test_mistakes_of_slurm_jobs_are_one_line(tmp_path):
    pytest.importorskip("submitit", reason='needs the package submitit: pip install "icrl-agents[slurm]"')
    debug = Backend("slurm", None, {"cluster": "debug"})
    with open_workers(debug, None, (), tmp_path) as workers:
        assert list(workers.in_order(abs, [-3, -2])) == [3, 2]
        one_line(lambda: list(workers.as_finished(mistake, [7])), ValueError, "lr=7 is outside 0.0..1.0")
    unknown = Backend("slurm", None, {"cluster": "debug", "colour": "red"})
    one_line(lambda: open_workers(unknown, None, (), tmp_path).__enter__(), ValueError, "colour")
    one_line(lambda: open_workers(debug).__enter__(), ValueError, "backend 'slurm' is for trainings")


class Unreadable:
    """A job of submitit whose folder cannot be read any more."""

    job_id, paths, cancelled = "7", SimpleNamespace(stderr="7.err"), False

    def done(self) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    def cancel(self, check: bool) -> None:
        self.cancelled = True


def test_a_job_that_cannot_be_read_ends_the_command():
    """Instead of a wait without end."""
    job = Unreadable()
    with SlurmExecutor(SimpleNamespace(submit=lambda *given: job), ()) as pool:
        error = pool.submit(abs, -1).exception(timeout=20)
    assert isinstance(error, BrokenExecutor)
    assert str(error) == f"job 7: [Errno {errno.ESTALE}] Stale file handle; see 7.err"
    assert job.cancelled


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": ()}, "seeds=[]: give at least one"),
        ({"seeds": (1, 1)}, "seeds=[1, 1]: give at least one, each once"),
        ({"values": {"lr": []}}, "lr=[]: give at least one"),
        ({"values": {"seed": [1]}}, "seed varies by itself"),
        ({"values": {"updates": [1, 2]}}, "updates=2 is fixed and varied"),
    ],
)
def test_what_cannot_be_swept_is_one_line(changes, words):
    one_line(lambda: replace(GRID, **changes), ValueError, words)


def test_points_are_measured_on_the_same_tasks(tmp_path):
    grid = replace(GRID, values={"split_seed": [0, 1]})
    one_line(lambda: sweep(grid, tmp_path, spec=SPEC), ValueError, "split_seed changes the validation tasks")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "words"),
    [({"lr": [1e-3, -1.0]}, "lr=-1.0 is outside"), ({"source.slips": [0.1, "much"]}, "slips='much'")],
)
def test_all_values_are_checked_before_the_first_training(tmp_path, values, words):
    one_line(lambda: sweep(replace(GRID, values=values), tmp_path, spec=SPEC), ValueError, words)
    assert not list(tmp_path.iterdir())


def test_backends_say_what_they_do_not_use():
    one_line(lambda: Backend("rey"), ValueError, "backend='rey', choose from local, ray, slurm")
    one_line(lambda: Backend("local", "auto"), ValueError, "address='auto' is of a Ray cluster")
    one_line(lambda: Backend(resources={"num_cpus": 2}), ValueError, "{'num_cpus': 2}", "not of 'local'")


def test_folder_names_are_plain():
    assert folder_name({"lr": 1e-3, "init": "a/b c"}, 2) == "lr=0.001-init=a_b_c-seed2"


@pytest.mark.slow
def test_cells_learn_from_histories(tmp_path):
    """The budget of labels, as one sweep: what a cell learned from is written down, and a figure is drawn."""
    path = collect(ID, "noise", tmp_path / "h.h5", tasks=range(8), streams=1, episodes=3)
    settings = {"updates": 2, "batch_size": 4, "width": 8, "threads": 1, "eval_every": 0}
    grid = Grid("bc", ID, settings, {"labels": [4, 40]}, (0,), path)
    found = sweep(grid, tmp_path / "out", spec=SPEC)
    train("bc", ID, tmp_path / "alone", histories=path, settings={**settings, "labels": 4, "seed": 0}, quiet=True)
    weights = "model.safetensors"
    assert (tmp_path / "out/labels=4-seed0" / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    assert json.loads((tmp_path / "out/sweep.json").read_text())["histories"] == str(path.resolve())
    assert [one.point for one in sweep(grid, tmp_path / "out", spec=SPEC)] == [one.point for one in found]
    if PICTURE:
        assert (tmp_path / "out/sweep.png").read_bytes()[:4] == b"\x89PNG"
    (other := tmp_path / "other.h5").write_bytes(path.read_bytes())
    one_line(
        lambda: sweep(replace(grid, histories=other), tmp_path / "out", spec=SPEC), ValueError, "histories", "folder"
    )


@pytest.mark.slow
def test_histories_that_stream_by_themselves_are_the_same_study_again(tmp_path, monkeypatch):
    """A training with pool=0 chooses a pool and records it; the same settings are no other study."""
    path = collect(ID, "posterior", tmp_path / "h.h5", tasks=range(4), streams=2, episodes=3)
    monkeypatch.setattr("icrl_agents.training.processes.memory_limit", lambda: 10_000.0)
    settings = {name: value for name, value in FAST.items() if name != "episodes"} | {"updates": 2, "threads": 1}
    grid = Grid("ad", ID, settings, {"lr": [1e-3]}, (0,), path)
    first = sweep(grid, tmp_path / "study", spec=SPEC)
    assert json.loads((tmp_path / "study" / "lr=0.001-seed0" / "train.json").read_text())["train"]["pool"] > 0
    for more in ({}, {"pool": 0}):
        again = sweep(replace(grid, settings={**settings, **more}), tmp_path / "study", spec=SPEC)
        assert again[0].last() == first[0].last()
    other = replace(grid, settings={**settings, "pool": 7})
    one_line(lambda: sweep(other, tmp_path / "study", spec=SPEC), ValueError, "pool=7, but", "another folder")


@pytest.mark.slow
def test_cells_show_the_demonstrations_that_fit(tmp_path):
    settings = {"updates": 1, "batch_size": 4, "width": 8, "heads": 2, "layers": 1, "inner": 8, "window": 8, "slide": 4}
    settings |= {"demos": 2, "prompt": 12, "source": "noise", "episodes": 3, "threads": 1, "eval_every": 0}
    (found,) = sweep(Grid("prompted-dt", ID, settings), tmp_path / "out", spec=SPEC)
    assert found.curves[0].facts["demos"] == 2
