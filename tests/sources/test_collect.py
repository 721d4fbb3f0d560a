"""Collections are the same whatever happens to them: kill -9, other processes, other numbers of processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs import FAMILIES

from icrl_agents.core.families import find_family
from icrl_agents.core.process.caution import Caution
from icrl_agents.core.splits import split_tasks
from icrl_agents.histories import store as history
from icrl_agents.histories import writer as history_writer
from icrl_agents.histories.shards import HistoryShards, shards_of
from icrl_agents.histories.store import HistoryStore
from icrl_agents.sources import collection, make_source
from icrl_agents.sources.collection import collect, collect_command, lifetimes
from tests.cli.test_cli import done

ENV = "icrl/Darkroom3x3-v0"
SMALL = {"tasks": [1, 2, 3, 5, 8], "streams": 2, "episodes": 3, "progress": lambda done, total: None}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Two tasks at once, so that there are three blocks."""
    monkeypatch.setattr(collection, "ROWS", 4)


def make(path: Path, **changes) -> Path:
    return collect(ENV, **{"source": "posterior", "path": path, **SMALL, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "ROWS", 4)
        return make(tmp_path_factory.mktemp("undisturbed") / "h.h5")


def assert_same_histories(one: Path, two: Path, tasks: list[int] | None = None) -> None:
    with HistoryStore(one) as a, HistoryStore(two) as b:
        assert a.info == b.info
        if tasks is None:
            assert a.tasks == b.tasks
        for task in a.tasks if tasks is None else tasks:
            columns, others = ({**steps._asdict(), **steps.extras} for steps in (a[task], b[task]))
            assert columns.pop("extras").keys() == others.pop("extras").keys()
            for name, column in columns.items():
                np.testing.assert_array_equal(column, others[name], err_msg=f"{task} {name}")


def test_a_store_says_what_it_is(undisturbed):
    with HistoryStore(undisturbed) as store:
        assert store.tasks == SMALL["tasks"]
        assert store[5].obs.shape == (2, 18, 2)
        info = store.info
        assert (info.env_id, info.source, info.seed, info.streams, info.episodes) == (ENV, "posterior", 0, 2, 3)
        assert info.settings == {
            "changes": 0.0,
            "late": 0.0,
            "sharpness": 1.0,
            "systematic": 0.0,
            "noise": 0.0,
            "slips": 0.0,
            "walks": 0.0,
        }
        assert "rules" in info.assumes
        assert info.env_kwargs["size"] == 3
        assert "numpy" in info.versions
        rules = FAMILIES[ENV].rules
        assert store.spaces == (rules.observation_space, rules.action_space)
        for task in store.tasks:  # the rewards are those of this task
            np.testing.assert_array_equal(store[task].reward, store[task].next_obs @ [3, 1] == task)
        assert not np.array_equal(store[1].action[0], store[1].action[1])  # streams differ


def _killed_at(path: Path, instant: int, changes: dict) -> None:
    """Collect, but die at the file system call of this number."""
    calls = itertools.count()

    def deadly(call):
        def wrapped(*args, **kwargs):
            if next(calls) == instant:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for module, name in (
        (os, "fsync"),
        (Path, "replace"),
        (Path, "unlink"),
        (os, "rmdir"),
        (h5py.File, "create_group"),
    ):
        setattr(module, name, deadly(getattr(module, name)))
    make(path, **changes)


def kill_at(path: Path, instant: int, **changes) -> bool:
    """Whether the collection lived long enough to be killed."""
    child = multiprocessing.get_context("fork").Process(target=_killed_at, args=(path, instant, changes))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


@pytest.mark.slow
def test_killed_at_any_instant_it_opens_resumes_and_ends_the_same(tmp_path, undisturbed, monkeypatch):
    finished_at = []
    ran = []
    run = collection.run_block
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what is slow here; a killed process loses no cache
    monkeypatch.setattr(collection, "run_block", lambda block: ran.append(block.tasks) or run(block))
    for instant in itertools.count():
        path = tmp_path / f"{instant}.h5"
        if not kill_at(path, instant):
            break
        try:
            with HistoryStore(path) as store:
                kept = store.tasks
        except FileNotFoundError:
            kept = []
            assert instant < 3  # nothing was begun yet
        finished_at.append(len(kept))
        if kept:
            assert_same_histories(path, undisturbed, kept)
        ran.clear()
        make(path)
        assert sorted(itertools.chain([t for block in ran for t in block], kept)) == SMALL["tasks"]  # only the rest
        assert_same_histories(path, undisturbed)
        assert [item for item in tmp_path.iterdir() if item.name.startswith(f"{instant}.")] == [path]
    assert instant > 20
    assert sorted(finished_at) == finished_at
    assert {0, 2, 4, 5} == set(finished_at)


def in_shards(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in shards_of(path)}


@pytest.mark.slow
def test_shards_are_the_same_bytes_from_any_number_of_processes_and_after_any_kill(tmp_path, undisturbed, monkeypatch):
    """Shards of two tasks, of which one lies in another block than the other."""
    wanted = in_shards(make(tmp_path / "w" / "h.h5", shard_size=4, tasks=[1, 2, 3, 5]))
    assert len(wanted) == 2
    assert in_shards(make(tmp_path / "p" / "h.h5", shard_size=5, tasks=[1, 2, 3, 5], processes=2)) == wanted
    with HistoryShards(tmp_path / "w" / "h.h5") as shards, HistoryStore(undisturbed) as whole:
        for task in (1, 2, 3, 5):
            np.testing.assert_array_equal(shards[task].action, whole[task].action)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    seen = set()
    for instant in itertools.count(12):  # once the parts are there
        path = tmp_path / f"k{instant}" / "h.h5"
        path.parent.mkdir()
        if not kill_at(path, instant, shard_size=4, tasks=[1, 2, 3, 5]):
            break
        seen.add(len(in_shards(path)))
        make(path, shard_size=4, tasks=[1, 2, 3, 5])
        assert in_shards(path) == wanted
        assert len(list(path.parent.iterdir())) == 2
    assert seen == {0, 1, 2}


def test_finished_shards_are_replaced_only_when_asked_and_all_of_them(tmp_path):
    path = tmp_path / "h.h5"
    make(path, shard_size=2)
    assert len(before := in_shards(path)) == 5
    for changes in ({"seed": 1, "shard_size": 2}, {"shard_size": 4}, {}):
        with pytest.raises(FileExistsError, match=r"h-00000-of-00005\.h5 exists"):
            make(path, **changes)
    assert in_shards(path) == before
    make(path, shard_size=4, overwrite=True)
    assert list(in_shards(path)) == [f"h-0000{number}-of-00003.h5" for number in range(3)]
    make(path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match=r"h\.h5 exists"):
        make(path, shard_size=4)
    with pytest.raises(ValueError, match=r"shard_size=0 is outside 1"):
        make(path, shard_size=0)


SLOW = """
import sys, time
import icrl_agents.sources.collection as collection
if __name__ == "__main__":
    def wait(done, total):
        if done:
            open({path!r} + ".begun", "w").close()
        time.sleep(0.3)

    collection.ROWS = 4
    how = dict(streams=2, episodes=3, processes=2, progress=wait)
    collection.collect({env!r}, "posterior", {path!r}, tasks=[1, 2, 3, 5, 8], **how)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_workers_and_no_lock(tmp_path, undisturbed):
    path, script = tmp_path / "h.h5", tmp_path / "slow.py"
    script.write_text(SLOW.format(env=ENV, path=str(path)))
    process = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while not path.with_name("h.h5.begun").exists():  # the first task is written
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(BlockingIOError, match=str(process.pid)):
        make(path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.kill()
    process.wait()
    with HistoryStore(path) as store:
        assert store.partial
        assert set(store.tasks) <= set(SMALL["tasks"])
        assert len(store) >= 2  # all of the first task
        with pytest.raises(ValueError, match="not finished"):
            store.annotate("latent", lambda steps: steps.reward)
    make(path)
    assert_same_histories(path, undisturbed)
    until = time.monotonic() + 20
    while any(Path(f"/proc/{worker}/status").exists() for worker in workers):
        assert time.monotonic() < until, "workers outlived their parent"
        time.sleep(0.05)


def test_a_second_collector_is_refused_and_a_dead_ones_lock_is_not_in_the_way(tmp_path, undisturbed):
    path = tmp_path / "h.h5"
    partial = history.partial_folder(path)
    partial.mkdir()
    (partial / "lock").write_text("99999999")  # nobody's
    with HistoryStore(undisturbed) as store:
        info = store.info
    refused = pytest.raises(BlockingIOError, match=f"process {os.getpid()} is collecting")
    with history_writer.HistoryWriter(path, info, SMALL["tasks"]), refused:
        make(path)
    make(path)
    assert_same_histories(path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"episodes": 4},
        {"streams": 3},
        {"tasks": [1, 2]},
        {"source": "noise"},
        {"settings": {"noise": 0.1}},
    ],
    ids=str,
)
def test_another_collection_does_not_mix_with_one_that_was_begun(tmp_path, undisturbed, changes):
    path = tmp_path / "h.h5"
    with HistoryStore(undisturbed) as store, history_writer.HistoryWriter(path, store.info, SMALL["tasks"]) as writer:
        writer.add({2: store[2]})
    with pytest.raises(FileExistsError, match=r"was begun with \w+") as error:
        make(path, **changes)
    assert "\n" not in str(error.value)
    with HistoryStore(path) as store:
        assert store.tasks == [2]  # nothing lost
    with pytest.raises(FileExistsError, match="was interrupted: --resume continues that"):
        make(path, resume=False)
    make(path, overwrite=True, **changes)
    with HistoryStore(path) as store:
        assert len(store) == len(changes.get("tasks", SMALL["tasks"]))


def test_a_finished_store_is_replaced_only_when_asked_and_only_at_the_end(tmp_path, undisturbed, monkeypatch):
    path = tmp_path / "h.h5"
    make(path)
    with pytest.raises(FileExistsError, match="overwrite"):
        make(path, seed=1)
    assert not history.partial_folder(path).exists()

    def interrupted(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(path, seed=1, overwrite=True, progress=interrupted)
    assert_same_histories(path, undisturbed)
    make(path, seed=1, overwrite=True)  # the same command goes on
    with HistoryStore(path) as store:
        assert store.info.seed == 1
        assert store.tasks == SMALL["tasks"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shard_size", [None, 4])
def test_replacing_goes_on_after_an_interruption(tmp_path, seed, shard_size):
    """`--resume`, which the message of the interruption names, does not take the old store for the new one."""

    def interrupted(done, total):
        if done:
            raise KeyboardInterrupt

    path, found = tmp_path / "h.h5", []
    make(path, shard_size=shard_size)
    os.utime(old := next(tmp_path.iterdir()), (0, 0))
    with pytest.raises(KeyboardInterrupt, match="--resume continues with 2 of 5 tasks done"):
        make(path, seed=seed, shard_size=shard_size, overwrite=True, progress=interrupted)
    with pytest.raises(FileExistsError, match="exists: choose another path, or overwrite it"):
        make(path, seed=seed + 1, shard_size=shard_size)
    make(path, seed=seed, shard_size=shard_size, progress=lambda done, total: found.append(done))
    assert found[0] == 2 * SMALL["streams"]
    assert old.stat().st_mtime
    with HistoryShards(path) as shards:
        assert (shards.info.seed, shards.tasks) == (seed, SMALL["tasks"])
    assert not history.partial_folder(path).exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"source": "q-lerning"}, "did you mean 'q-learning'"),
        ({"settings": {"sharpnes": 2}}, "did you mean 'sharpness'"),
        ({"settings": {"noise": 2.0}}, r"noise=2.0 is outside 0.0..1.0"),
        ({"settings": {"noise": "much"}}, "noise='much' is not a float"),
        ({"tasks": [9]}, "tasks has 9, .* within 0..8"),
        ({"tasks": [-1]}, "tasks has -1, .* within 0..8"),
        ({"tasks": [True]}, "tasks='.True.' are not task ids"),
        ({"tasks": [2.0]}, "tasks='.2.0.' are not task ids"),
        ({"tasks": 3}, "tasks='3' are not task ids"),
        ({"tasks": {3: 4}}, "tasks='{3: 4}' are not task ids"),
        ({"tasks": [1, 1]}, "once"),
        ({"tasks": []}, r"tasks='\[\]' are not task ids"),
        ({"streams": 0}, "streams=0"),
        ({"episodes": 1.5}, "episodes='1.5'"),
        ({"processes": -1}, "processes=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed='True'"),
        ({"seed": 2**63}, "outside"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_one_clear_line_and_begins_nothing(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match) as error:
        make(tmp_path / "h.h5", **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_histories_that_no_agent_can_learn_from_are_told_before_they_are_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "run_block", None)
    monkeypatch.setattr(find_family(ENV), "observation_space", spaces.Box(0, 9999, (2,), np.int64))
    said = r"no agent learns from these histories: no codec for Box\(0, 9999"
    with pytest.warns(Caution, match=said), pytest.raises(TypeError):
        make(tmp_path / "h.h5")


def test_whole_numbers_of_any_type_collect_the_same(tmp_path, undisturbed):
    numbers = {"seed": np.int64(0), "streams": np.int32(2), "episodes": np.uint8(3), "processes": np.int64(1)}
    assert_same_histories(make(tmp_path / "h.h5", **numbers), undisturbed)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_refused_before_anything_is_collected(tmp_path, monkeypatch, overwrite):
    monkeypatch.setattr(collection, "run_block", lambda block: pytest.fail("collected"))
    (tmp_path / "results").mkdir()
    with pytest.raises(IsADirectoryError, match=r"results is a folder: name a file") as error:
        make(tmp_path / "results", overwrite=overwrite)
    assert "\n" not in str(error.value)
    assert list(tmp_path.rglob("*")) == [tmp_path / "results"]


def test_ppo_lives_rows_of_one_task_only():
    ppo = make_source("ppo", ENV, {"n_steps": 6, "batch_size": 6, "n_epochs": 1})
    with pytest.raises(ValueError, match=r"source 'ppo' learns one task at a time: .* then train with --histories"):
        lifetimes(ENV, ppo, np.array([1, 2]), 1, seed=0)
    assert lifetimes(ENV, ppo, np.array([2, 2]), 1, seed=0).mask.all()


@pytest.mark.slow
def test_the_example_runs_twice(tmp_path):
    path = Path(__file__).parents[2] / "examples" / "02_record_histories.py"
    example = SimpleNamespace(**runpy.run_path(str(path)))
    small = {"PATH": tmp_path / "h.h5", "STREAMS": 2, "EPISODES": 10, "TASKS": [31]}
    example.main.__globals__.update(small)
    np.testing.assert_array_equal(example.main(), example.main())


def test_an_unknown_environment_suggests_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'icrl/Darkroom-v0'"):
        collect("icrl/Darkrom-v0", "posterior", tmp_path / "h.h5")


def test_tasks_default_to_those_that_agents_train_on(tmp_path):
    reports = []
    path = make(tmp_path / "h.h5", tasks=None, progress=lambda *counts: reports.append(counts))
    with HistoryStore(path) as store:
        assert store.tasks == sorted(split_tasks(ENV).train.ids)
    assert reports[0] == (0, 14)
    assert reports[-1] == (14, 14)


@pytest.mark.slow
def test_ppo_is_the_same_in_one_process_and_in_two(tmp_path):
    settings = {"n_steps": 6, "batch_size": 6, "n_epochs": 1}
    paths = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for processes, path in enumerate(paths, 1):
        make(path, source="ppo", settings=settings, tasks=[1, 2], processes=processes)
    assert_same_histories(*paths)


def test_fresh_lifetimes_have_whole_episodes_on_their_own_tasks():
    tasks = np.array([3, 0, 8, 3])
    steps = lifetimes(ENV, make_source("posterior", ENV), tasks, 5, seed=1)
    assert steps.reward.shape == (4, 5 * 6)
    assert steps.mask.all()
    assert steps.first.sum() == 4 * 5
    np.testing.assert_array_equal(steps.reward, steps.next_obs @ [3, 1] == tasks[:, None])


@pytest.mark.slow
def test_the_command_that_makes_a_store_anew(tmp_path):
    with HistoryStore(collect(ENV, "noise", tmp_path / "a b.h5", streams=3, episodes=2, seed=4)) as store:
        info, tasks = store.info, store.tasks
    words = shlex.split(collect_command(info, tasks, "a b.h5"))
    assert words[:4] == ["icrl-agents", "collect", "--env", ENV]
    done(*words[1:-1], tmp_path / "again.h5")
    with HistoryStore(tmp_path / "again.h5") as store:
        assert store.info == info
    told = collect_command(replace(info, settings={**info.settings, "start": 0.25}), tasks, "h.h5")
    assert "--set start=0.25 -o h.h5" in told
    assert collect_command(replace(info, source="mine"), tasks, "h.h5") is None
    assert collect_command(info, tasks[1:], "h.h5") is None
    others = split_tasks(ENV).test.ids.tolist()
    assert "--split test -o h.h5" in collect_command(info, others, "h.h5")
    arms = replace(info, env_id="icrl/BernoulliBandit-v0")
    assert "--split train_40" in collect_command(arms, FAMILIES[arms.env_id].named("train_40").ids.tolist(), "h.h5")


@pytest.mark.parametrize(("rows", "said"), [(2, ""), (3, "the last gradient step of each pass has 6"), (1, "has 6")])
def test_sizes_of_ppo_that_leave_a_short_gradient_step_are_one_line(rows, said):
    """Stable-Baselines3 says so on four lines that name neither setting."""
    ppo = make_source("ppo", ENV, {"n_steps": 6, "batch_size": 12, "n_epochs": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lifetimes(ENV, ppo, np.full(rows, 2), 1, seed=0)
    found = [str(one.message) for one in caught]
    assert len(found) == bool(said)
    for line in found:
        assert said in line
        assert f"batch_size=12 does not divide n_steps=6 * {rows} streams" in line
        assert "\n" not in line
