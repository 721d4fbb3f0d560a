"""D4RL files: where an episode ends, what its final observation is, and what is refused."""

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from icrl_envs import FAMILIES, register_family, unregister_family

from icrl_agents import HistoryStore
from icrl_agents.core.families import find_family
from icrl_agents.core.process.caution import Caution
from icrl_agents.histories.exchange.d4rl import read_d4rl
from icrl_agents.histories.exchange.importing import import_histories
from icrl_agents.histories.shards import HistoryShards
from tests.conftest import one_line
from tests.envs.families import SPRING, registered


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def transitions(terminals, timeouts=None, following=False):
    """Columns of as many steps as there are flags; observation t is (t, t) / 100, a reset jumps by 1."""
    terminals = np.array(terminals, bool)
    count = len(terminals)
    ended = terminals | (np.zeros(count, bool) if timeouts is None else np.array(timeouts, bool))
    obs = np.repeat((np.arange(count) / 100 + np.cumsum(np.roll(ended, 1) & (np.arange(count) > 0)))[:, None], 2, 1)
    columns = {
        "observations": obs.astype(np.float32),
        "actions": np.full((count, 2), 0.5, np.float32),
        "rewards": np.arange(count, dtype=np.float64),
        "terminals": terminals,
    }
    if timeouts is not None:
        columns["timeouts"] = np.array(timeouts, bool)
    if following:
        columns["next_observations"] = (obs + 0.01).astype(np.float32)
        columns["next_observations"][:-1][~ended[:-1]] = columns["observations"][1:][~ended[:-1]]
    return columns


def write(path, columns):
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            file.create_dataset(name, data=value, compression="gzip")
    return path


def read(path, columns):
    return read_d4rl(write(path / "data.hdf5", columns), SPRING).episodes


def test_with_next_observations_nothing_is_lost(tmp_path):
    columns = transitions([0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], following=True)
    episodes = read(tmp_path, columns)
    assert [len(each.reward) for each in episodes] == [2, 2, 2]
    for each, begin in zip(episodes, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(each.obs[:-1], columns["observations"][begin : begin + 2])
        np.testing.assert_array_equal(each.obs[-1], columns["next_observations"][begin + 1])
    assert [each.terminated.tolist() for each in episodes] == [[False, True], [False, False], [False, False]]
    assert [each.truncated.tolist() for each in episodes] == [[False, False], [False, True], [False, True]]


def test_without_next_observations_a_truncated_episode_loses_its_last_step(tmp_path):
    columns = transitions([0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0])
    terminated, timed_out, cut = read(tmp_path, columns)
    obs = columns["observations"]
    assert terminated.reward.tolist() == [0, 1]  # the reward of the end is kept
    np.testing.assert_array_equal(terminated.obs, obs[[0, 1, 1]])
    assert terminated.terminated.tolist() == [False, True]
    assert timed_out.reward.tolist() == [2, 3]
    np.testing.assert_array_equal(timed_out.obs, obs[2:5])  # never the observation after the reset
    assert timed_out.truncated.tolist() == [False, True]
    assert cut.reward.tolist() == [5]
    np.testing.assert_array_equal(cut.obs, obs[5:7])
    assert cut.truncated.tolist() == [True]


def test_without_timeouts_a_jump_ends_an_episode(tmp_path):
    columns = transitions([0, 0, 0, 0], [0, 1, 0, 0], following=True)
    del columns["timeouts"]
    assert [each.truncated.tolist() for each in read(tmp_path, columns)] == [[False, True], [False, True]]


def test_transitions_out_of_order_are_refused(tmp_path):
    columns = transitions([0] * 6, [0] * 6, following=True)
    shuffled = {name: value[[3, 1, 4, 0, 5, 2]] for name, value in columns.items()}
    one_line(lambda: read(tmp_path, shuffled), ValueError, "next_observations 0", "not in order")


def test_columns_of_one_number_may_have_an_axis_more(tmp_path):
    columns = transitions([0, 0, 1])
    columns["rewards"], columns["terminals"] = columns["rewards"][:, None], columns["terminals"][:, None]
    assert read(tmp_path, columns)[0].reward.tolist() == [0, 1, 2]


def test_a_store_of_it(tmp_path):
    write(tmp_path / "one.hdf5", transitions([0, 1, 0, 1, 0, 0, 1]))
    write(tmp_path / "two.hdf5", transitions([0, 0, 1]))
    files = [tmp_path / "one.hdf5", tmp_path / "two.hdf5"]
    import_histories(files, tmp_path / "a.h5", env_id=SPRING, tasks=[4, 9], episodes_per_lifetime=2)
    with HistoryStore(tmp_path / "a.h5") as store:
        assert {task: store[task].mask.sum(1).tolist() for task in store} == {4: [4, 3], 9: [3]}
        assert (store.info.source, store.info.settings["data"]) == ("d4rl", ["one.hdf5", "two.hdf5"])
        assert store[4].reward.dtype == np.float32


def test_transposed_columns_are_refused(tmp_path):
    """They have as many numbers as the others."""
    columns = transitions([0, 0, 1])
    turned = {**columns, "actions": columns["actions"].T}
    one_line(lambda: read(tmp_path, turned), ValueError, "actions", "(2, 3)", "(3, 2)")


@pytest.mark.parametrize("task", [-1, True, 1.0, "1"])
def test_tasks_are_whole_numbers_from_0(tmp_path, task):
    path = write(tmp_path / "data.hdf5", transitions([0, 0, 1]))
    one_line(lambda: import_histories([path], tmp_path / "a.h5", env_id=SPRING, tasks=[task]), ValueError, "tasks=")
    assert list(tmp_path.iterdir()) == [path]


def test_spaces_that_no_agent_can_learn_from_are_told(tmp_path, monkeypatch):
    path = write(tmp_path / "data.hdf5", {**transitions([0, 1]), "actions": np.array([[5000, 1], [2, 3]])})
    monkeypatch.setattr(find_family(SPRING), "action_space", spaces.Box(0, 9999, (2,), np.int64))
    with pytest.warns(Caution, match="no codec for Box"):
        import_histories([path], tmp_path / "a.h5", env_id=SPRING)


def test_two_files_of_one_name_are_two_collections(tmp_path):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number) / "data.hdf5", transitions([0] * (3 + number) + [1]))
        import_histories([tmp_path / str(number) / "data.hdf5"], tmp_path / f"{number}.h5", env_id=SPRING)
    assert len(HistoryShards(tmp_path / "0.h5", tmp_path / "1.h5").collections) == 2
    (tmp_path / "2.h5").write_bytes((tmp_path / "0.h5").read_bytes())
    one_line(lambda: HistoryShards(tmp_path / "0.h5", tmp_path / "2.h5"), ValueError, "both have task 0")


def test_what_is_no_such_file_is_refused(tmp_path):
    columns = transitions([0, 0, 1])
    path = tmp_path / "data.hdf5"
    one_line(lambda: read(tmp_path, {**columns, "actions": np.zeros((3, 3))}), ValueError, "actions", "--env")
    one_line(lambda: read(tmp_path, {**columns, "actions": columns["actions"] * 9}), ValueError, "actions", "4.5")
    one_line(lambda: read(tmp_path, {**columns, "rewards": np.full(3, np.nan)}), ValueError, "finite")
    one_line(lambda: read(tmp_path, {"observations": columns["observations"]}), ValueError, "no actions")
    one_line(lambda: read(tmp_path, {**columns, "rewards": np.array([b"1"] * 3)}), ValueError, "numbers")
    one_line(lambda: import_histories([path], tmp_path / "a.h5"), ValueError, "--env")
    one_line(lambda: import_histories([path], tmp_path / "a.h5", env_id="test/None-v0"), ValueError, "test/None-v0")
    one_line(lambda: read(tmp_path, transitions([0])), ValueError, "no whole episode")
    write(path, transitions([0, 0, 1]))
    one_line(
        lambda: import_histories([path], tmp_path / "a.h5", env_id=SPRING, tasks=[99]), ValueError, "task 99", "0..11"
    )
    path.write_bytes(b"no HDF5")
    one_line(lambda: read_d4rl(path, SPRING), ValueError, "data.hdf5")
    with h5py.File(path, "w") as file:  # a link to another file
        for name, value in columns.items():
            file[name] = value
        del file["rewards"]
        file["rewards"] = h5py.ExternalLink("/etc/passwd", "/x")
    one_line(lambda: read_d4rl(path, SPRING), ValueError, "rewards")
    with h5py.File(path, "r+") as file:
        del file["rewards"], file["observations"]
        file["rewards"], file["observations"] = columns["rewards"], np.float32(1)
    one_line(lambda: read_d4rl(path, SPRING), ValueError, "a single one")


CHEETAH = "test/HalfCheetah-v0"


class Cheetah(gymnasium.Env):
    """The spaces of Gymnasium's HalfCheetah-v5, without MuJoCo."""

    observation_space = spaces.Box(-np.inf, np.inf, (17,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)

    def __init__(self, weight=1.0):
        self.weight = weight


def test_files_of_the_half_cheetah(tmp_path):
    """As in D4RL's second version: episodes of 1000 steps that only time ends, and groups of other arrays."""
    gymnasium.register(CHEETAH, Cheetah, max_episode_steps=1000)
    try:
        register_family(CHEETAH, [{"weight": 1.0}, {"weight": 2.0}], split=(0.5, 0))
        rng, count = np.random.default_rng(0), 2500
        obs = rng.normal(size=(count + 1, 17)).astype(np.float32)
        timeouts = np.arange(1, count + 1) % 1000 == 0
        columns = {
            "observations": obs[:-1],
            "next_observations": np.where(timeouts[:, None], obs[1:] + 1, obs[1:]),  # a reset follows
            "actions": np.tanh(rng.normal(size=(count, 6))).astype(np.float32),
            "rewards": rng.normal(size=count).astype(np.float32),
            "terminals": np.zeros(count, bool),
            "timeouts": timeouts,
            "infos/qpos": np.zeros((count, 9)),
            "infos/qvel": np.zeros((count, 9)),
            "infos/action_log_probs": np.zeros(count),
            "metadata/algorithm": np.bytes_("SAC"),
        }
        with h5py.File(tmp_path / "expert.hdf5", "w") as file:
            for name, value in columns.items():
                file[name] = value
        import_histories([tmp_path / "expert.hdf5"], tmp_path / "a.h5", env_id=CHEETAH, episodes_per_lifetime=1)
    finally:
        if CHEETAH in FAMILIES:
            unregister_family(CHEETAH)
        del gymnasium.registry[CHEETAH]
    with HistoryStore(tmp_path / "a.h5") as store:
        steps = store[0]
    assert steps.mask.sum(1).tolist() == [1000, 1000, 500]
    assert steps.truncated.sum(1).tolist() == [1, 1, 1]
    assert not steps.terminated.any()
    assert steps.obs.dtype == np.float64
    np.testing.assert_array_equal(steps.next_obs[0, -1], obs[1000] + 1)
    np.testing.assert_array_equal(steps.action[1], columns["actions"][1000:2000])
