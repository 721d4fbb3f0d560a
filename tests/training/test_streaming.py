"""A stream of windows: what it draws, that it can be recomputed at any place, and what it refuses."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file

from icrl_agents import HistoryStore, collect, train
from icrl_agents.core.process.memory import memory_limit
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import Steps
from icrl_agents.histories.shards import HistoryShards, shard_files
from icrl_agents.histories.writer import HistoryWriter
from icrl_agents.training.streaming.choice import recorded_windows
from icrl_agents.training.streaming.order import Order
from icrl_agents.training.streaming.stream import StreamedWindows
from icrl_agents.training.windows import StoreWindows, WindowSpec
from tests.conftest import one_line
from tests.fakes import SPACES, lifetimes
from tests.training.test_run_folder import at_update
from tests.training.test_training import FAST, ID, RECORDED, same
from tests.training.test_windows import cut

TASKS, STREAMS, STEPS, WINDOW = 12, 18, 90, 30
VISITS = 3  # windows that cover a lifetime
SPEC = WindowSpec(WINDOW, 24, 0)
MANY = TASKS * STREAMS * VISITS  # windows in a pass


def numbered(task: int) -> Steps:
    """Lifetimes whose rewards are their numbers, counted over all tasks, and the steps: 17.025 is step 25 of 17."""
    steps = lifetimes(rows=STREAMS, count=STEPS, seed=task)
    number = task * STREAMS + np.arange(STREAMS)[:, None]
    return steps._replace(reward=(number + np.arange(STEPS) / 1000).astype(np.float32))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The same lifetimes in one file and in shards."""
    folder = tmp_path_factory.mktemp("numbered")
    with HistoryStore(collect(ID, "posterior", folder / "x.h5", tasks=[0], streams=1, episodes=1)) as store:
        info = store.info
    obs, action = map(space_to_json, SPACES["grid"])
    info = replace(info, observation_space=obs, action_space=action)
    histories = {task: numbered(task) for task in range(TASKS)}
    for name, size in (("one.h5", None), ("many.h5", 3)):
        with HistoryWriter(folder / name, info, sorted(histories), shard_tasks=size) as writer:
            writer.add(histories)
            writer.finish()
    return {"one": folder / "one.h5", "many": folder / "many.h5"}


def stream(path: Path, spec: WindowSpec = SPEC, tasks: range = range(TASKS)) -> StreamedWindows:
    return StreamedWindows(HistoryShards(path), tasks, spec, None, pool=1)


@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 61), (2, 60), (3, 1000), (4, 10**6), (5, 1)])
def test_each_pass_takes_every_block_once_in_groups_of_bounded_size(seed, most):
    counts = np.random.default_rng(seed).integers(1, 31, 70)
    order, place = Order(counts, most, seed), 0
    for turn in range(3):
        groups = [order.group(turn * order.groups + number) for number in range(order.groups)]
        assert sorted(np.concatenate([group.blocks for group in groups])) == list(range(70))
        for group in groups:
            assert (group.turn, group.first) == (turn, place)
            assert 0 < group.size <= max(most, 2 * counts.max())
            for window in (group.first, group.first + group.size - 1):
                assert order.group_at(window).number == group.number
            assert sorted(order.mixed(group)) == list(range(group.size))
            place += group.size
    assert not np.array_equal(order.group(0).blocks, order.group(order.groups).blocks)  # passes differ


@pytest.mark.slow
def test_a_pass_uses_every_lifetime_equally_often_and_mixes_them(files):
    windows = stream(files["one"])
    assert windows.order.groups > 2
    batches = [windows.batch(update) for update in range(2 * MANY // 24)]
    windows.close()
    for turn in range(2):  # of two passes, each with every lifetime
        rewards = np.concatenate([batch.reward for batch in batches])[turn * MANY : (turn + 1) * MANY]
        number, start = np.divmod(np.round(rewards * 1000).astype(int), 1000)
        assert np.bincount(number[:, 0]).tolist() == [VISITS] * TASKS * STREAMS
        np.testing.assert_array_equal(number, np.broadcast_to(number[:, :1], number.shape))
        np.testing.assert_array_equal(start, start[:, :1] + np.arange(WINDOW))
        assert 0.45 < (start[:, 0] == 0).mean() < 0.6
        assert start[:, 0].max() == STEPS - WINDOW
    for batch in batches:
        assert len({int(reward) for reward in batch.reward[:, 0]}) >= 15  # lifetimes among 24 windows
        assert len({int(reward) // STREAMS for reward in batch.reward[:, 0]}) >= 5  # tasks


@pytest.mark.slow
def test_batches_are_those_of_their_number_whatever_was_read_before_and_however_files_are_cut(files):
    whole, parts = stream(files["one"]), stream(files["many"])
    wanted = {update: whole.batch(update) for update in (0, 3, 9, 10, 26, 27, 28)}
    for update in (28, 3, 10, 9, 27):  # across groups, and across passes of 27 batches
        found = parts.batch(update)
        for name, column in {**wanted[update].columns, **wanted[update].extras}.items():
            np.testing.assert_array_equal({**found.columns, **found.extras}[name], column, err_msg=name)
    other = stream(files["one"], SPEC._replace(seed=1))
    assert not np.array_equal(other.batch(0).reward, wanted[0].reward)
    for windows in (whole, parts, other):
        windows.close()


def test_batches_in_memory_are_the_same_from_one_file_and_from_shards(files):
    one, many = (StoreWindows(HistoryShards(files[name]), range(TASKS), SPEC) for name in ("one", "many"))
    for update in (0, 5):
        np.testing.assert_array_equal(one.batch(update).reward, many.batch(update).reward)


def test_windows_are_the_steps_of_the_store(files):
    """With every column that reading derives: those before the window, and the extremes of earlier rewards."""
    windows = stream(files["many"])
    batch = windows.batch(7)
    windows.close()
    with HistoryStore(files["one"]) as store:
        for row in range(0, 24, 5):
            number, start = divmod(round(float(batch.reward[row, 0]) * 1000), 1000)
            steps = store[number // STREAMS, number % STREAMS]
            for name, column in steps.window(start, start + WINDOW).columns.items():
                np.testing.assert_array_equal(getattr(batch, name)[row], column[0], err_msg=name)
            if start:
                assert batch.extras["reward_high"][row, 0] == steps.reward[0, start - 1]


def test_windows_start_with_episodes_and_tell_the_task_where_the_method_needs_it(files):
    windows = stream(files["one"], SPEC._replace(episode_aligned=True, with_tasks=True))
    batch = windows.batch(3)
    assert batch.first[:, 0].all()
    assert (batch.extras["timestep"][:, 0] == 0).all()
    np.testing.assert_array_equal(batch.static["task"], batch.reward[:, 0].astype(int) // STREAMS)
    windows.close()


def test_short_and_empty_histories_serve_padded(files, tmp_path):
    with HistoryStore(files["one"]) as store:
        info = store.info
    histories = {task: cut(numbered(task), [90, 0, 45, 7, 1, 90, 90, 33, 0] * 2) for task in range(2)}
    with HistoryWriter(tmp_path / "h.h5", info, [0, 1]) as writer:
        writer.add(histories)
        writer.finish()
    windows = stream(tmp_path / "h.h5", tasks=range(2))
    batch = windows.batch(0)
    windows.close()
    lengths = batch.mask.sum(1)
    assert set(lengths) <= {30, 7, 1}
    for row in np.flatnonzero(lengths < WINDOW):
        assert (batch.reward[row, lengths[row] :] == batch.reward[row, lengths[row] - 1]).all()


def test_histories_stream_if_they_take_more_than_half_of_the_memory(files, monkeypatch):
    def choice(memory: float, pool: int = 0) -> StoreWindows | StreamedWindows:
        shards = HistoryShards(files["many"])
        windows = recorded_windows(shards, range(TASKS), SPEC, shards.spaces, pool, memory)
        windows.close()
        return windows

    nbytes = sum(part.nbytes for part in HistoryShards(files["one"]).index(range(TASKS)))
    assert choice(2 * nbytes).pool == 0
    assert isinstance(choice(2 * nbytes), StoreWindows)
    assert choice(2 * nbytes - 1).pool == 1
    assert choice(1 << 40, pool=3).pool == 3
    assert memory_limit() > 1 << 26


# ---- what is refused ----------------------------------------------------------------------------------------------


def test_a_pool_that_holds_no_two_blocks_is_refused(tmp_path, files):
    with HistoryStore(files["one"]) as store:
        info = store.info
    with HistoryWriter(tmp_path / "h.h5", info, [0]) as writer:
        writer.add({0: numbered(0).rows(slice(1)).map(lambda value: np.repeat(value, 100, 1))})
        writer.finish()
    spec = SPEC._replace(window=9000)
    one_line(lambda: stream(tmp_path / "h.h5", spec, range(1)), ValueError, "pool=1 MB is too small", "at least 2")


def test_a_value_outside_the_spaces_is_named_when_it_is_read(files, tmp_path):
    shards = {path.name: path.read_bytes() for path in files["many"].parent.glob("many-*")}
    for name, content in shards.items():
        (tmp_path / name).write_bytes(content)
    with h5py.File(tmp_path / "many-00002-of-00004.h5", "r+") as file:
        file["7"]["action"][2, 3] = 99
    windows = stream(tmp_path / "many.h5")
    try:
        words = "many-00002-of-00004.h5, task 7", "action 99 is outside 0..4"
        one_line(lambda: [windows.batch(update) for update in range(MANY // 24)], ValueError, *words)
    finally:
        windows.close()


def test_a_file_that_is_cut_off_during_training_is_named(files, tmp_path):
    for path in files["many"].parent.glob("many-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    windows = stream(tmp_path / "many.h5")
    damaged = tmp_path / "many-00002-of-00004.h5"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    try:
        one_line(
            lambda: [windows.batch(update) for update in range(MANY // 24)], ValueError, damaged.name, "is damaged"
        )
    finally:
        windows.close()


@pytest.mark.parametrize("method", ["ad", "la-bc"])
def test_histories_without_all_of_their_tasks_are_refused(tmp_path, method):
    """A run on them could not be resumed to the same agent: the next reading would find more."""
    with HistoryStore(collect(ID, "noise", tmp_path / "one.h5", tasks=[1], streams=1, episodes=1)) as store:
        info, steps = store.info, store[1]
    settings = {"updates": 1, "batch_size": 2, "eval_every": 0}
    path, given = tmp_path / "h.h5", {"settings": settings, "device": "cpu", "quiet": True}
    with HistoryWriter(path, info, [1, 2]) as writer:
        writer.add({1: steps})
        one_line(
            lambda: train(method, ID, tmp_path / "run", histories=path, **given), ValueError, "h.h5 is not finished"
        )
    with HistoryWriter(tmp_path / "none.h5", info, []) as writer:
        writer.finish()
    none = {"histories": tmp_path / "none.h5", **given}
    one_line(lambda: train(method, ID, tmp_path / "run", **none), ValueError, "none of the", "training tasks")
    assert not (tmp_path / "run").exists()


def test_a_pool_of_fresh_lifetimes_is_refused(tmp_path):
    def run() -> None:
        train("ad", ID, tmp_path / "run", settings={**FAST, "pool": 3}, device="cpu", quiet=True, track=[])

    one_line(run, ValueError, "pool=3 streams recorded histories", "--histories")
    assert not list(tmp_path.glob("run/*.json"))


# ---- trainings ------------------------------------------------------------------------------------------------------


def learn(out: Path, histories: Path, **more):
    settings = {**RECORDED, "updates": 6, "checkpoint_every": 4, "pool": 1, "window": 20, "slide": 4}
    return train("ad", ID, out, histories=histories, settings=settings, device="cpu", quiet=True, track=[], **more)


@pytest.mark.slow
def test_a_resumed_stream_is_the_uninterrupted_one(tmp_path, monkeypatch):
    path = collect(ID, "posterior", tmp_path / "data" / "h.h5", streams=40, episodes=10, shard_size=80)
    agent = learn(tmp_path / "whole", path)
    assert agent.facts["data"]["histories"] == "h.h5"
    assert agent.facts["data"]["files"] == 4
    assert " -o h.h5" in agent.facts["collect"]
    with monkeypatch.context() as patch:
        at_update(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "run", path)
    note = json.loads((tmp_path / "run" / "train.json").read_text())
    assert [Path(file).name for file in note["histories"]] == [file.name for file in shard_files(path, range(7), 2)]
    learn(tmp_path / "run", path.parent, resume=True)
    assert same(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run")))


@pytest.mark.slow
def test_a_run_remembers_the_pool_that_the_memory_of_the_machine_gave_it(tmp_path, monkeypatch):
    path = collect(ID, "posterior", tmp_path / "h.h5", streams=4, episodes=4)
    monkeypatch.setattr("icrl_agents.training.processes.memory_limit", lambda: 10_000.0)
    settings = {**RECORDED, "updates": 1}
    train("ad", ID, tmp_path / "run", histories=path, settings=settings, device="cpu", quiet=True, track=[])
    assert json.loads((tmp_path / "run" / "train.json").read_text())["train"]["pool"] == 1
