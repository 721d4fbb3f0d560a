"""A full disk costs one line: no crash, nothing half-written, and what is continued afterwards ends the same."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file

from icrl_agents import HistoryStore, collect, train
from icrl_agents.core.process.interrupts import Interrupted
from tests.contracts.full_disk import disk
from tests.training.test_training import FAST, ID, same

HISTORIES = {"tasks": [1, 2], "streams": 20, "episodes": 3, "progress": lambda done, total: None}
SETTINGS = {**FAST, "updates": 4, "checkpoint_every": 2, "dropout": 0.1}


def make(path: Path) -> None:
    collect(ID, "posterior", path, **HISTORIES)


def learn(out: Path, **more: bool) -> None:
    train("ad", ID, out, settings=SETTINGS, device="cpu", quiet=True, **more)


def columns(path: Path) -> dict[str, np.ndarray]:
    with HistoryStore(path) as store:
        return {f"{task} {name}": value for task in store for name, value in store[task].columns.items()}


def refused(call, path: Path, number: int = errno.ENOSPC) -> None:
    with pytest.raises(OSError, match=r"No space left|File too large") as caught:
        call()
    error = caught.value
    assert error.errno == number
    assert str(path) in error.filename
    assert "\n" not in str(error)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed collection and training, and how many bytes each of them wrote."""
    place = tmp_path_factory.mktemp("whole")
    with disk() as collected:
        make(place / "h.h5")
    with disk() as trained:
        learn(place / "run")
    return place, collected.written, trained.written


@pytest.mark.slow
@pytest.mark.parametrize("part", range(12))
def test_a_collection(tmp_path, whole, part):
    place, size, _ = whole
    path, room = tmp_path / "h.h5", random.Random(part).randrange(size)
    with disk(room) as full:
        refused(lambda: make(path), path)
    assert full.refused
    assert not path.exists()
    make(path)
    one, other = columns(path), columns(place / "h.h5")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_a_training(tmp_path, whole, part):
    place, _, size = whole
    out, room = tmp_path / "run", random.Random(part).randrange(size)
    with disk(room):
        refused(lambda: learn(out), out)
    assert not list(tmp_path.rglob("*.tmp"))
    learn(out, resume=(out / "train.json").exists())
    assert same(load_file(out / "model.safetensors"), load_file(place / "run" / "model.safetensors"))
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (out, place / "run")
    ]
    assert losses[0] == losses[1]


@contextmanager
def largest_file(size: int):
    """The system's own limit: no file of this process grows beyond it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_the_systems_own_limit(tmp_path, whole):
    path = tmp_path / "h.h5"
    size = (whole[0] / "h.h5").stat().st_size
    for limit in (1000, size // 2, size - 1):
        with largest_file(limit):
            refused(lambda: make(path), path, errno.EFBIG)
    make(path)
    assert columns(path).keys() == columns(whole[0] / "h.h5").keys()


def test_a_column_that_does_not_fit_leaves_the_store(tmp_path):
    path = tmp_path / "h.h5"
    make(path)
    before = path.read_bytes()
    with disk() as needed, HistoryStore(path) as store:
        store.annotate("one", lambda steps: steps.reward + 1)
    path.write_bytes(before)
    for room in range(0, needed.written, needed.written // 5):
        with disk(room), HistoryStore(path) as store:
            refused(lambda: store.annotate("one", lambda steps: steps.reward + 1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_agent_that_does_not_fit_leaves_the_old_one(tmp_path, tiny_agent):
    tiny_agent().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with disk(3000):
        refused(lambda: tiny_agent(seed=1).save_pretrained(tmp_path), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- errors of the system keep their meaning ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EAGAIN, BlockingIOError, "another program has it open: close it, or set HDF5_USE_FILE_LOCKING"),
        (errno.EMFILE, OSError, "Too many open files; close some"),
        (errno.EACCES, PermissionError, "Permission denied; give yourself the right"),
        (errno.EPERM, PermissionError, "Operation not permitted"),
        (errno.ENOLCK, OSError, "No locks available; its file system has no locks"),
        (errno.EIO, OSError, "the file may be whole"),
        (errno.ESTALE, OSError, os.strerror(errno.ESTALE)),
    ],
)
def test_a_store_that_cannot_be_read_now_is_not_damaged(whole, monkeypatch, number, kind, told):
    def fail(*args, **kwargs):
        raise OSError(number, "Unable to synchronously open file (...)")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(kind, match=told) as caught:
        HistoryStore(whole[0] / "h.h5")
    assert type(caught.value) is kind
    assert (caught.value.errno, caught.value.filename) == (number, str(whole[0] / "h.h5"))


WRITER = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); input()"


@pytest.mark.slow
def test_a_store_that_another_program_writes_and_a_folder(tmp_path):
    make(tmp_path / "h.h5")
    words = [sys.executable, "-c", WRITER, tmp_path / "h.h5"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(BlockingIOError, match="another program has it open"):
            HistoryStore(tmp_path / "h.h5")
        writer.communicate(b"\n")
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        HistoryStore(tmp_path)
    (tmp_path / "bad.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="it is damaged, or of another program"):
        HistoryStore(tmp_path / "bad.h5")


def test_a_damaged_part_is_named(tmp_path):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    path = tmp_path / "h.h5"
    with pytest.raises(Interrupted, match="interrupted; --resume continues with 2 of 2 tasks done"):
        collect(ID, "posterior", path, **{**HISTORIES, "progress": stop})
    (part,) = (tmp_path / "h.h5.partial").glob("part-*")
    part.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=f"{part.name}: it is damaged"):
        make(path)


@pytest.mark.slow
def test_a_store_travels_to_other_processes(tmp_path, monkeypatch):
    import multiprocessing

    make(tmp_path / "h.h5")
    monkeypatch.chdir(tmp_path)
    with HistoryStore("h.h5") as store:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.map(len, [store])
        assert found == [2]
        copy = pickle.loads(pickle.dumps(store))
        assert np.array_equal(copy[1].obs, store[1].obs)
        copy.close()
        assert store[2].mask.all()
