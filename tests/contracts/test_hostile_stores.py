"""Stores made to harm, or damaged: each is refused in one clear line before a training starts, and never costs much."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icrl_agents import HistoryStore, collect, train
from icrl_agents.cli.settings import read_toml
from icrl_agents.histories.columns import CHECKSUMS, check_expansion
from icrl_agents.histories.store import write_column
from icrl_agents.training.windows import StoreWindows, WindowSpec
from tests.conftest import one_line
from tests.fuzz import judge, use_store
from tests.mutations import copy_of, mutate_store

ENV = "icrl/Darkroom3x3-v0"
Change = Callable[[h5py.File], Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "original.h5"
    return collect(ENV, "noise", path, tasks=[1, 2, 5], streams=2, episodes=3, seed=0)


@pytest.fixture
def path(original, tmp_path) -> Path:
    return copy_of(original, tmp_path / "h.h5")


def edited(path: Path, change: Change) -> Path:
    """The store after a change by its owner: its header has no checksum that would show it."""
    with h5py.File(path, "r+", libver="v110") as file:
        file.attrs.pop("checksum", None)
        change(file)
    return path


def begin(path: Path, tasks: tuple[int, ...] = (1, 2, 5)) -> StoreWindows:
    """What a training does with a store before its first update."""
    with HistoryStore(path) as store:
        return StoreWindows(store, tasks, WindowSpec(8, 4, 0))


def rewritten(task: str, name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Put other values into a column, stored as ours are."""

    def change(file: h5py.File) -> None:
        value = make(file[task]["reward" if name not in file[task] else name][()])
        write_column(file[task], name, value)

    return change


def stored(task: str, name: str, value: Any, **how: Any) -> Change:
    """Put any HDF5 dataset in the place of a column."""

    def change(file: h5py.File) -> None:
        del file[task][name]
        file[task].create_dataset(name, data=value, **how)

    return change


OURS = {"compression": 1, "shuffle": True, "fletcher32": True}
MASK = "given.action_mask"
UNFIT: dict[str, tuple[Change, list[str]]] = {
    "a column that not all tasks have": (lambda f: f["5"].pop("log_prob"), ["log_prob", "only one of the tasks"]),
    "a column of another dtype": (rewritten("5", "log_prob", lambda v: v.astype("f8")), ["log_prob", "task 5"]),
    "a longdouble reward": (stored("2", "reward", np.zeros((2, 18), "g"), chunks=(2, 18), **OURS), ["reward", "dtype"]),
    "a longdouble log_prob": (stored("2", "log_prob", np.zeros((2, 18), "g"), chunks=(2, 18), **OURS), ["log_prob"]),
    "log_prob of rank 3": (rewritten("2", "log_prob", lambda v: v[..., None]), ["log_prob", "a number"]),
    "log_prob that is NaN": (rewritten("2", "log_prob", lambda v: v * np.nan), ["log_prob"]),
    "an expert that does what cannot be done": (
        rewritten("2", "expert_action", lambda v: v * 0 + 99),
        ["expert_action 99", "outside 0..4"],
    ),
    "an intention that does not exist": (
        lambda f: [rewritten(t, "intended_action", lambda v: v.astype("i8") * 0 - 1)(f) for t in f],
        ["intended_action -1"],
    ),
    "actions that are flags": (rewritten("2", "action", lambda v: v > 0), ["action has dtype bool"]),
    "int8 masks": (rewritten("2", MASK, lambda v: np.ones((2, 5), "i1")), ["action_mask is int8"]),
    "float masks": (rewritten("2", MASK, lambda v: np.ones((2, 5))), ["action_mask is float64"]),
    "masks of rank 1": (rewritten("2", MASK, lambda v: np.ones(2, bool)), ["action_mask is bool (2,)"]),
    "masks of another width": (rewritten("2", MASK, lambda v: np.ones((2, 3), bool)), ["bool (2, 3)", "(2, 5)"]),
    "a mask without a legal action": (rewritten("2", MASK, lambda v: np.zeros((2, 5), bool)), ["a legal action"]),
    "an action that is not legal": (rewritten("2", MASK, lambda v: np.eye(5, dtype=bool)[:2]), ["source that keeps"]),
    "other things given of other widths": (
        lambda f: [rewritten(t, "given.x", lambda v, t=t: np.ones((2, int(t))))(f) for t in f],
        ["given.x"],
    ),
    "length of shape (B, 1)": (stored("2", "length", np.ones((2, 1), int), chunks=(2, 1), **OURS), ["length", "shape"]),
    "a length that is longer": (rewritten("2", "length", lambda v: v + 1), ["length", "outside 0..18"]),
    "a negative length": (rewritten("2", "length", lambda v: -v), ["length"]),
    "lengths that are no integers": (rewritten("2", "length", lambda v: v.astype("f8")), ["length", "float64"]),
    "terminated of rank 3": (rewritten("2", "terminated", lambda v: v[..., None]), ["terminated", "shape"]),
    "no streams": (
        lambda f: [
            stored("2", n, f["2"][n][:0], chunks=(1, *f["2"][n].shape[1:]), maxshape=(None,) * f["2"][n].ndim, **OURS)(
                f
            )
            for n in list(f["2"])
        ],
        ["reward", "(0, 18)"],
    ),
    "seed of infinity": (lambda f: f.attrs.__setitem__("seed", np.inf), ["seed"]),
    "format_version of infinity": (lambda f: f.attrs.__setitem__("format_version", np.inf), ["format_version"]),
    "format of a compound type": (lambda f: f.attrs.__setitem__("format", np.zeros((), [("a", "i4")])), ["format"]),
    "format that is an array": (lambda f: f.attrs.__setitem__("format", ["a", "b"]), ["format"]),
    "source of a megabyte": (lambda f: f.attrs.__setitem__("source", "x" * 50_000), ["source", "4096 bytes"]),
    "settings of infinity": (lambda f: f.attrs.__setitem__("settings", '{"a": Infinity}'), ["Infinity"]),
    "settings nested deep": (lambda f: f.attrs.__setitem__("settings", '{"a":' * 20 + "1" + "}" * 20), ["nested"]),
    "two names of a task": (lambda f: f.__setitem__("7", f["5"]), ["4 names stand for 3 objects"]),
    "two names of a column": (lambda f: f["5"].__setitem__("twice", f["5"]["obs"]), ["names stand for"]),
    "a column of two tasks": (lambda f: (f["5"].pop("obs"), f["5"].__setitem__("obs", f["2"]["obs"])), ["2 names"]),
    "a column without checksum": (stored("2", "reward", np.zeros((2, 18), "f4")), ["reward", "checksums"]),
    "a length without checksum": (stored("2", "length", np.full(2, 18)), ["length", "checksums"]),
    "deflate twice": (
        lambda f: stored("2", "reward", np.zeros((2, 18), "f4"), chunks=(2, 18), compression=1, fletcher32=True)(f),
        ["reward", "checksums"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNFIT)
def test_histories_that_do_not_fit_are_refused_before_a_training(path, name):
    change, words = UNFIT[name]
    edited(path, change)
    one_line(lambda: begin(path), ValueError, "h.h5", *words)


def test_an_old_run_outlives_histories_that_are_refused(path, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "train.json").write_text("{}")
    edited(path, UNFIT["int8 masks"][0])
    one_line(lambda: train("ad", ENV, run, histories=path, overwrite=True, quiet=True), ValueError, "action_mask")
    assert (run / "train.json").read_text() == "{}"


def test_all_that_is_shown_of_a_file_is_printable_and_short(path, tmp_path):
    """Whatever a file says in the place of an environment, a column or a space."""
    for text in ("a\nb", "\x1b[2Jx", "\u202eevil", "x" * 4000):
        edited(path, lambda f, text=text: f.attrs.__setitem__("env_id", text))
        with pytest.raises(ValueError) as error:
            train("ad", ENV, tmp_path / "run", histories=path, quiet=True)
        assert str(error.value).isprintable()
        assert len(str(error.value)) <= 400
    edited(path, lambda f: (f.attrs.__setitem__("env_id", ENV), f["5"].move("log_prob", "a\nb" + "y" * 5000)))
    with pytest.raises(ValueError, match=r"a\\nb") as error:
        begin(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 400


# ---- checksums ------------------------------------------------------------------------------------------------------


def as_before(file: h5py.File) -> None:
    """A store as version 0.1.0 wrote it: `length` is contiguous, without checksum."""
    for group in file.values():
        length = group["length"][()]
        del group["length"], group.attrs[CHECKSUMS]
        group["length"] = length


def test_older_stores_are_read_and_their_length_is_compared_with_the_steps(original, path):
    edited(path, as_before)
    with HistoryStore(path) as new, HistoryStore(original) as wanted:
        for task in wanted:
            np.testing.assert_array_equal(new[task].mask, wanted[task].mask)
            np.testing.assert_array_equal(new[task, 1, 3:9].obs, wanted[task, 1, 3:9].obs)
    for wrong in (0, 1, 12, 17):
        edited(path, lambda f, wrong=wrong: f["2"]["length"].__setitem__(1, wrong))
        one_line(lambda: begin(path), ValueError, f"length of stream 1 is {wrong}, its steps are 18")


def test_a_changed_header_is_noticed(path):
    data = path.read_bytes()
    assert data.count(b"icrl/Darkroom3x3-v0") == 1
    path.write_bytes(data.replace(b"icrl/Darkroom3x3-v0", b"icrl/Darkroom3x3-v1"))
    one_line(lambda: begin(path), ValueError, "h.h5", "its header", "checksum")


def test_every_flipped_bit_of_length_is_noticed(path):
    good = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file["2/length"].id.get_chunk_info(0)
    for place in range(chunk.byte_offset, chunk.byte_offset + chunk.size):
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with HistoryStore(path) as store:
            one_line(lambda store=store: store[2], ValueError, "h.h5", "task 2")


# ---- what it costs --------------------------------------------------------------------------------------------------


def huge(file: h5py.File) -> None:
    """A task of gigabytes, of which the file has nothing."""
    for name, column in list(file["2"].items()):
        shape = (10**4,) if name == "length" else (10**4, 10**4, *column.shape[2:])
        stored("2", name, None, shape=shape, dtype=column.dtype, chunks=(100, 1000, 2)[: len(shape)], **OURS)(file)


def test_a_bomb_is_refused_before_it_is_read(path):
    edited(path, huge)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_line(lambda: begin(path), ValueError, "h.h5", "task 2", "would expand")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_column_that_is_not_there_is_refused(path):
    edited(path, stored("2", "obs", None, shape=(2, 18, 2), dtype="i4", chunks=(2, 18, 2), **OURS))
    one_line(lambda: begin(path), ValueError, "h.h5", "obs", "chunks that are missing")


@pytest.mark.parametrize(
    ("nbytes", "stored", "most"), [((1 << 26) + 501, 1, 1 << 40), (10**9, 10**6, 1 << 40), (1025, 10**9, 1024)]
)
def test_what_is_read_is_bounded_by_the_file_and_absolutely(nbytes, stored, most):
    with pytest.raises(ValueError, match=str(nbytes)):
        check_expansion(nbytes, stored, most)
    check_expansion(min(nbytes - 1, 500 * stored, most), stored, most)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_file_is_refused_and_not_opened(tmp_path, name):
    path = tmp_path / "h.toml"
    SPECIAL[name](path)
    calls: list[Callable[[], Any]] = [
        lambda: HistoryStore(path),
        lambda: train("ad", ENV, tmp_path / "run", histories=path, quiet=True),
        lambda: read_toml(path),
    ]
    for call in calls:
        one_line(call, ValueError, "h.toml", "no regular file")


# ---- at random ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_damage_is_harmless_or_one_clear_line(original, tmp_path_factory, seed):
    with HistoryStore(original) as store:
        spaces = store.spaces
    path = copy_of(original, tmp_path_factory.getbasetemp() / "damaged.h5")
    did = mutate_store(path, np.random.default_rng(seed))
    outcome = judge(path, did, lambda: use_store(path, "marked-ad", spaces))
    assert outcome.kind in ("valid", "refused"), outcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(name=st.sampled_from(["observation_space", "action_space", "settings"]), key=st.text(max_size=9), value=JSON)
def test_any_header_is_harmless_or_one_clear_line(original, tmp_path_factory, name, key, value):
    path = copy_of(original, tmp_path_factory.getbasetemp() / "damaged.h5")

    def change(file: h5py.File) -> None:
        data = json.loads(file.attrs[name])
        file.attrs[name] = json.dumps(
            {**data, key if name == "settings" else sorted(data)[len(key) % len(data)]: value}
        )

    edited(path, change)
    outcome = judge(path, name, lambda: begin(path))
    assert outcome.kind in ("valid", "refused"), outcome
