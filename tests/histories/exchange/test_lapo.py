"""LAPO's chunks: where an episode ends, what is kept of it, that one chunk is read at a time, and what is refused."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from icrl_agents import HistoryStore
from icrl_agents.core.families import find_family
from icrl_agents.histories.exchange.importing import import_histories
from icrl_agents.histories.exchange.lapo import read_lapo, survey
from icrl_agents.histories.shards import HistoryShards
from tests.conftest import one_line

GAME = "icrl/Procgen-bigfish-v0"
FAMILY = find_family(GAME)
SPACES = FAMILY.observation_space, FAMILY.action_space


def chunk(lengths, cut=0):
    """Arrays of episodes of these lengths, and `cut` steps of one more; an image is its episode's shade plus the step.

    A new episode changes all pixels by much, a step by 1.
    """
    number = np.repeat(np.arange(len(lengths) + 1), [*lengths, cut])
    step = np.concatenate([np.arange(length) for length in [*lengths, cut]])
    shade = (37 * (number % 5) + step).astype(np.uint8)
    count = len(number)
    done = np.zeros(count, bool)
    done[np.cumsum(lengths) - 1] = True
    return {
        "obs": np.broadcast_to(shade[:, None, None, None], (count, 64, 64, 3)),
        "ta": np.arange(count) % 15,
        "done": done,
        "rewards": np.arange(count, dtype=np.float32),
        "ep_returns": np.zeros(count, np.float32),
        "values": np.zeros(count, np.float32),
        "logprobs": np.zeros(count, np.float32),
    }


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **columns)
    return path


def read(path, columns):
    return read_lapo(write(path / "0.npz", columns), GAME, SPACES).episodes


def test_done_ends_an_episode(tmp_path):
    columns = chunk([3, 2], cut=4)
    first, second, cut = read(tmp_path, columns)
    obs = columns["obs"]
    np.testing.assert_array_equal(first.obs, obs[[0, 1, 2, 2]])  # the last image stands for the final one
    np.testing.assert_array_equal(second.obs, obs[[3, 4, 4]])
    assert first.reward.tolist() == [0, 1, 2]  # the reward of the end is kept
    assert second.action.tolist() == [3, 4]
    assert [each.terminated.tolist() for each in (first, second)] == [[False, False, True], [False, True]]
    assert not any(each.truncated.any() for each in (first, second))
    np.testing.assert_array_equal(cut.obs, obs[5:9])  # the step after its last image is not in the file
    assert cut.reward.tolist() == [5, 6, 7]
    assert cut.truncated.tolist() == [False, False, True]
    assert not cut.terminated.any()
    assert survey(tmp_path / "0.npz").episodes == 3


def test_done_may_mark_the_first_step_of_the_next_episode(tmp_path):
    columns = chunk([3, 2, 4], cut=3)
    columns["done"] = np.roll(columns["done"], 1)
    episodes = read(tmp_path, columns)
    assert [each.reward.tolist() for each in episodes] == [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9, 10]]
    assert [each.terminated[-1] for each in episodes] == [True, True, True, False]


def test_a_single_step_that_is_cut_off_is_dropped(tmp_path):
    assert [each.reward.tolist() for each in read(tmp_path, chunk([2], cut=1))] == [[0, 1]]
    one_line(lambda: read(tmp_path, chunk([1], cut=0) | {"done": np.zeros(1)}), ValueError, "no whole episode")


def test_chunks_are_tasks_whose_level_is_unknown(tmp_path):
    folder = tmp_path / "bigfish" / "train"
    for number, lengths in {0: [3, 2], 2: [4], 10: [1, 1, 1]}.items():
        write(folder / f"{number}.npz", chunk(lengths))
    import_histories([folder], tmp_path / "a.h5", env_id=GAME)
    unknown = FAMILY.sets["any_level"].start
    with HistoryStore(tmp_path / "a.h5") as store:
        assert store.tasks == [unknown, unknown + 1, unknown + 2]
        assert [store[task].mask.sum(1).tolist() for task in store] == [[5], [4], [3]]  # by number, not by name
        steps = store[unknown]
        assert (steps.obs.dtype, steps.obs.shape) == (np.uint8, (1, 5, 64, 64, 3))
        assert steps.first[0].tolist() == [True, False, False, True, False]
        assert (store.info.source, store.info.settings["data"]) == ("lapo", ["0.npz", "2.npz", "10.npz"])
        assert (store.info.streams, store.info.episodes, store.info.env_id) == (1, 3, GAME)
    files = [folder / "0.npz", folder / "10.npz"]
    import_histories(files, tmp_path / "b.h5", env_id=GAME, tasks=[7, 3], episodes_per_lifetime=1)
    with HistoryStore(tmp_path / "b.h5") as store:
        assert {task: store[task].mask.sum(1).tolist() for task in store} == {3: [1, 1, 1], 7: [3, 2]}


def test_one_chunk_is_in_memory_at_a_time(tmp_path):
    columns = chunk([20] * 8)
    for number in range(6):
        write(tmp_path / "train" / f"{number}.npz", columns)
    size = columns["obs"].nbytes
    tracemalloc.start()
    import_histories([tmp_path / "train"], tmp_path / "a.h5", env_id=GAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 2 * size < peak < 8 * size  # obs and next_obs with the copies that join episodes; all chunks are 12 of them


def damage_images(path):
    """Overwrite some bytes of the images; the flags stay whole."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("obs.npy").header_offset + 60
    path.write_bytes(content[:place] + bytes(99) + content[place + 99 :])


def test_an_interrupted_import_goes_on(tmp_path):
    chunks = [write(tmp_path / "train" / f"{number}.npz", chunk([2 + number])) for number in range(3)]
    good = chunks[1].read_bytes()
    damage_images(chunks[1])
    one_line(lambda: import_histories(chunks, tmp_path / "a.h5", env_id=GAME), ValueError, "1.npz is damaged")
    with HistoryStore(tmp_path / "a.h5") as store:
        assert len(store) == 1
    chunks[1].write_bytes(good)
    damage_images(chunks[0])  # which is not read again
    import_histories(chunks, tmp_path / "a.h5", env_id=GAME)
    with HistoryStore(tmp_path / "a.h5") as store:
        assert [store[task].mask.sum() for task in store] == [2, 3, 4]


def test_an_interrupted_import_does_not_go_on_with_other_data_of_the_same_names(tmp_path):
    """Chunks are named 0.npz, 1.npz, ... in every folder of LAPO's."""
    train = [write(tmp_path / "train" / f"{number}.npz", chunk([2])) for number in range(2)]
    test = [write(tmp_path / "test" / f"{number}.npz", chunk([3])) for number in range(2)]
    damage_images(train[1])
    one_line(lambda: import_histories(train, tmp_path / "a.h5", env_id=GAME), ValueError, "1.npz is damaged")
    one_line(lambda: import_histories(test, tmp_path / "a.h5", env_id=GAME), FileExistsError, "was begun with settings")
    one_line(
        lambda: import_histories(train, tmp_path / "a.h5", env_id=GAME, tasks=[301, 300]), FileExistsError, "checksum"
    )
    import_histories(test, tmp_path / "a.h5", env_id=GAME, overwrite=True)
    import_histories(train[:1], tmp_path / "b.h5", env_id=GAME)
    with HistoryStore(tmp_path / "a.h5") as store:
        assert [store[task].mask.sum() for task in store] == [3, 3]
    assert len(HistoryShards(tmp_path / "a.h5", tmp_path / "b.h5")) == 2  # not the same histories twice


BAD = {
    "another action": ({"ta": np.full(5, 15)}, "actions hold 15"),
    "fewer actions": ({"ta": np.zeros(4, np.int64)}, "5 flags done"),
    "other images": ({"obs": np.zeros((5, 32, 32, 3), np.uint8)}, "observations have shape"),
    "images of reals": ({"obs": np.zeros((5, 64, 64, 3), np.float32)}, "observations"),
    "no rewards": ({"rewards": None}, "no rewards"),
    "endless reward": ({"rewards": np.full(5, np.inf)}, "finite"),
    "counts": ({"done": np.arange(5)}, "one flag for each step"),
    "text": ({"rewards": np.array(["1"] * 5)}, "rewards is"),
    "columns first": ({"rewards": np.asfortranarray(np.zeros((5, 2)))}, "rewards is"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_chunk_is_refused(tmp_path, name):
    wrong, words = BAD[name]
    columns = {name: value for name, value in {**chunk([3, 2]), **wrong}.items() if value is not None}
    one_line(lambda: read(tmp_path, columns), ValueError, "0.npz", words)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "opened"), "w")

    path = write(tmp_path / "0.npz", chunk([3]) | {"rewards": np.array([Trap()], object)})
    one_line(lambda: read_lapo(path, GAME, SPACES), ValueError, "rewards is object")
    assert not (tmp_path / "opened").exists()


def header(shape):
    """An array file whose header claims a shape, with one number."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0"


@pytest.mark.parametrize("damage", ["truncated", "empty", "no zip", "a false shape", "zeros", "a long header"])
def test_damaged_and_hostile_files_are_one_line(tmp_path, damage):
    path = write(tmp_path / "0.npz", chunk([3, 2]))
    content = path.read_bytes()
    if damage in ("truncated", "empty", "no zip"):
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "no zip": b"PK" * 99}[damage])
    else:
        flags = {
            "a false shape": header("(99999999999999,)"),
            "zeros": bytes(1 << 28),
            "a long header": header("9" * 10**4),
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("done.npy", flags[damage])
    for call in (lambda: read_lapo(path, GAME, SPACES), lambda: survey(path)):
        one_line(call, ValueError, "0.npz is damaged, or no chunk of LAPO's data")


def test_what_the_files_do_not_say_is_asked_for(tmp_path):
    path, out = write(tmp_path / "train" / "0.npz", chunk([3])), tmp_path / "a.h5"
    one_line(lambda: import_histories([path], out), ValueError, "names no environment", "--env")
    one_line(lambda: import_histories([path], out, env_id="icrl/Procgen-bigfsh-v0"), ValueError, "bigfish")
    one_line(lambda: import_histories([path, path], out, env_id=GAME, tasks=[1, 1]), ValueError, "2 chunks and 1")
    one_line(lambda: import_histories([path], out, env_id=GAME, tasks=[10**6]), ValueError, "task 1000000")
    one_line(lambda: import_histories([path, "other"], out, env_id=GAME), ValueError, "two stores")
    one_line(lambda: import_histories([path], out, env_id="icrl/Darkroom-v0"), ValueError, "observations")
    assert not out.exists()
