"""Several files as one data set: which files a name stands for, what they hold together, and what does not fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icrl_agents import HistoryStore, collect
from icrl_agents.core.steps import HIGHEST, LOWEST, TIMESTEP
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.shards import HistoryShards, common_name, find_files, shard_files
from icrl_agents.histories.writer import HistoryWriter
from icrl_agents.training.augment import hide_rewards
from icrl_agents.training.streaming.stream import StreamedWindows
from icrl_agents.training.windows import StoreWindows, WindowSpec
from tests.conftest import one_line

ENV = "icrl/Darkroom3x3-v0"
HOW = {"streams": 2, "episodes": 3, "progress": lambda done, total: None}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The histories of five tasks in one file, whole.h5, and in three shards of the name h.h5."""
    folder = tmp_path_factory.mktemp("source")
    collect(ENV, "posterior", folder / "whole.h5", tasks=[1, 2, 3, 5, 8], **HOW)
    collect(ENV, "posterior", folder / "h.h5", tasks=[1, 2, 3, 5, 8], shard_size=4, **HOW)
    return folder


@pytest.fixture
def shards(source, tmp_path) -> list[Path]:
    """Copies of the shards, alone in their folder."""
    return [Path(shutil.copy(path, tmp_path)) for path in sorted(source.glob("h-*"))]


def rewritten(path: Path, info: HistoryInfo) -> None:
    """Write the histories of a file again, under another header."""
    with HistoryStore(path) as store:
        histories = {task: store[task] for task in store.tasks}
    with HistoryWriter(path, info, sorted(histories), overwrite=True) as writer:
        writer.add(histories)
        writer.finish()


def test_shards_have_the_histories_of_the_one_file(source, shards):
    assert [path.name for path in shards] == [f"h-0000{number}-of-00003.h5" for number in range(3)]
    with HistoryStore(source / "whole.h5") as whole, HistoryShards(source / "h.h5") as found:
        assert found.tasks == whole.tasks
        assert [store.tasks for store in found.stores] == [[1, 2], [3, 5], [8]]
        assert replace(found.info, versions={}) == replace(whole.info, versions={})
        for key in (1, (5, 1), (8, slice(None), slice(3, 7))):
            for name, column in found[key].columns.items():
                np.testing.assert_array_equal(column, getattr(whole[key], name))
        with pytest.raises(IndexError, match=r"task 4 is not in .*h-00000-of-00003\.h5"):
            found[4]


def test_a_name_a_folder_and_a_pattern_stand_for_all_shards(shards, monkeypatch):
    folder = shards[0].parent
    for given in (folder / "h.h5", folder, f"{folder}/*.h5", shards, [str(shards[0]), folder], f"{folder}/h-?????-of*"):
        assert find_files(given) == shards
    assert find_files(shards[1]) == [shards[1]]  # one, on purpose
    assert common_name(shards) == "h.h5"
    assert common_name(shards[:1]) == shards[0].name
    monkeypatch.chdir(folder)
    assert find_files("*.h5") == [Path(path.name) for path in shards]


@pytest.mark.parametrize("missing", [0, 2])
def test_a_missing_shard_is_named(shards, missing):
    shards[missing].unlink()
    rest = [path for path in shards if path.exists()]
    for given in (shards[0].parent, shards[0].with_name("h.h5"), rest):
        one_line(lambda: find_files(given), FileNotFoundError, shards[missing].name, "2 of 3 shards")  # noqa: B023


def test_nothing_is_named(tmp_path):
    one_line(lambda: find_files(tmp_path), FileNotFoundError, "has no *.h5")
    one_line(lambda: find_files(f"{tmp_path}/*.h5"), FileNotFoundError, "*.h5", "icrl-agents collect")
    one_line(lambda: find_files([]), FileNotFoundError, "no files of histories")
    one_line(lambda: HistoryShards(tmp_path / "x.h5"), FileNotFoundError, "x.h5", "icrl-agents collect")


@pytest.mark.parametrize("change", [{"env_id": "icrl/Darkroom-v0"}, {"action_space": {}}], ids=str)
def test_a_file_of_another_environment_is_named(shards, change):
    (name,) = change
    with HistoryStore(shards[1]) as store:
        info = store.info
    rewritten(shards[1], replace(info, **change))
    one_line(lambda: HistoryShards(shards[0].parent), ValueError, shards[1].name, shards[0].name, name)


def test_the_same_histories_are_not_used_twice(source, shards):
    shutil.copy(source / "whole.h5", shards[0].parent)
    words = "both have task 1 of seed 0", "whole.h5", shards[0].name
    one_line(lambda: HistoryShards(shards[0].parent), ValueError, *words)


def test_histories_of_several_seeds_serve_together(source, tmp_path):
    other = collect(ENV, "posterior", tmp_path / "seed1.h5", tasks=[2, 3], seed=1, **HOW)
    with HistoryShards(source / "whole.h5", other) as both:
        assert [(part.task, part.store.info.seed) for part in both.index([2, 3, 8])] == [
            (2, 0), (2, 1), (3, 0), (3, 1), (8, 0),
        ]  # fmt: skip
        assert len(StoreWindows(both, [2, 3, 8], WindowSpec(9, 4, 0)).places) == 10
        with pytest.raises(IndexError, match=r"task 2 is in .*whole\.h5 and in .*seed1\.h5: open one of them"):
            both[2]


def test_histories_of_several_sources_serve_together_with_the_columns_that_they_share(source, tmp_path):
    other = collect(ENV, "psrl", tmp_path / "psrl.h5", tasks=[1, 2], **HOW)
    with HistoryStore(other) as store:
        store.annotate("latent", lambda steps: steps.reward)
    with HistoryShards(source / "h.h5", other) as both:
        assert [[store.info.source for store in stores] for stores in both.collections] == [["posterior"] * 3, ["psrl"]]
        windows = StoreWindows(both, [1, 2, 3], WindowSpec(9, 4, 0))
        assert [(part.task, part.store.info.source) for part in both.index([1, 2, 3])] == [
            (1, "posterior"), (1, "psrl"), (2, "posterior"), (2, "psrl"), (3, "posterior"),
        ]  # fmt: skip
        (alone,) = HistoryShards(other).index([1])
        columns = {*both.index([1, 2, 3])[0].layout.columns}
        assert "latent" in alone.layout.columns
        assert "latent" not in columns
        told = {LOWEST, HIGHEST, TIMESTEP}
        assert {name for history in windows.histories for name in history.extras} <= {*columns, *told}


def test_actions_stand_in_for_intended_actions_that_only_some_sources_record(source, tmp_path):
    slipped = collect(ENV, "posterior", tmp_path / "slipped.h5", tasks=[1, 2], settings={"slips": 0.8}, seed=1, **HOW)
    with HistoryStore(slipped) as store:
        meant = {task: store[task].extras["intended_action"] for task in (1, 2)}
        assert (meant[1] != store[1].action).any()
    for given in ([source / "whole.h5", slipped], [slipped, source / "whole.h5"]):
        with HistoryShards(*given) as both:
            for part in both.index([1, 2, 3]):
                steps = both.read(part)
                target = meant[part.task] if part.store.path == slipped else steps.action
                np.testing.assert_array_equal(steps.extras["intended_action"], target)
        with HistoryShards(*given) as both:
            windows = StreamedWindows(both, [1, 2, 3], WindowSpec(9, 40, 0), None, pool=1).batch(0)
            assert (windows.extras["intended_action"] != windows.action).any()


def test_histories_without_updates_are_of_one_policy_beside_some_with_updates(source, tmp_path):
    learned = collect(ENV, "psrl", tmp_path / "learned.h5", tasks=[1, 2], **HOW)
    with HistoryStore(learned) as store:
        store.annotate("update", lambda steps: np.cumsum(steps.first, 1).astype(np.int32))
    with HistoryShards(source / "whole.h5", learned) as both:
        for part in both.index([1, 2, 3]):
            update = both.read(part).extras["update"]
            assert update.dtype == np.int32
            assert (update.max() == 3) == (part.store.path == learned)
        assert StoreWindows(both, [1, 2, 3], WindowSpec(9, 40, 0)).batch(0).extras["update"].any()


def test_tasks_that_change_are_told_beside_lifetimes_whose_task_stays(source, tmp_path):
    moving = collect(ENV, "posterior", tmp_path / "moving.h5", tasks=[1, 2], settings={"changes": 1.0}, seed=1, **HOW)
    with HistoryShards(source / "whole.h5", moving) as both:
        for part in both.index([1, 2, 3]):
            assert both.read(part).extras["task_changed"].any() == (part.store.path == moving)
        windows = StoreWindows(both, [1, 2, 3], WindowSpec(9, 40, 0)).batch(0)
        changed = windows.extras["task_changed"].any(1)
        assert changed.any()
        hidden = hide_rewards(windows, np.random.default_rng(0), 1.0, 1)
        assert np.array_equal(hidden.reward[changed], windows.reward[changed])


def test_a_shard_with_other_columns_is_named_beside_another_collection(shards, source, tmp_path):
    other = collect(ENV, "psrl", tmp_path / "other" / "psrl.h5", tasks=[1, 2], **HOW)
    with HistoryStore(shards[1]) as store:
        store.annotate("latent", lambda steps: steps.reward)
    with HistoryShards(shards[0].parent, other) as found:
        words = f"{shards[1]}: only one of the tasks 1", "has 'latent'", "in the same way"
        one_line(lambda: StoreWindows(found, [1, 2, 3, 5, 8], WindowSpec(9, 4, 0)), ValueError, *words)


@pytest.mark.parametrize("cut", [0, 100, 3000, -1])
def test_a_shard_that_is_cut_off_is_named(shards, cut):
    shards[1].write_bytes(shards[1].read_bytes()[:cut])

    def use() -> None:
        StoreWindows(HistoryShards(shards[0].parent), [1, 2, 3, 5, 8], WindowSpec(9, 4, 0))

    one_line(use, ValueError, shards[1].name, "is damaged")


def test_a_shard_with_other_columns_is_named(shards):
    with HistoryStore(shards[1]) as store:
        store.annotate("latent", lambda steps: steps.reward)
    with HistoryShards(shards[0].parent) as found:
        words = f"{shards[1]}: only one of the tasks 1", "3 has 'latent'", "in the same way"
        one_line(lambda: StoreWindows(found, [1, 2, 3, 5, 8], WindowSpec(9, 4, 0)), ValueError, *words)


@pytest.mark.slow
def test_more_files_than_may_be_open_at_once_are_read(tmp_path, source):
    resource = pytest.importorskip("resource")
    with HistoryStore(source / "whole.h5") as store:
        info, steps = store.info, store[1]
    with HistoryWriter(tmp_path / "h.h5", info, range(60), shard_tasks=1) as writer:
        writer.add(dict.fromkeys(range(60), steps))
        writer.finish()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, hard))
    try:
        with HistoryShards(tmp_path) as found:
            assert len(StoreWindows(found, range(60), WindowSpec(9, 4, 0)).histories) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_names_of_shards(tmp_path):
    assert shard_files(tmp_path / "a.b.h5", [1, 2, 4], 2) == {
        tmp_path / "a.b-00000-of-00002.h5": [1, 2],
        tmp_path / "a.b-00001-of-00002.h5": [4],
    }
    assert shard_files(tmp_path / "h.h5", [1, 2], None) == {tmp_path / "h.h5": [1, 2]}
