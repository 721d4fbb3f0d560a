"""Minari data sets: what a store holds comes back equal, and data of others become lifetimes."""

import json
import os
import sys

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from icrl_agents import HistoryStore, collect, train
from icrl_agents.core.families import find_family
from icrl_agents.histories.exchange import minari as exchange
from icrl_agents.histories.exchange.importing import import_histories
from icrl_agents.histories.exchange.minari import export_minari, read_minari
from icrl_agents.histories.writer import HistoryWriter
from tests.conftest import one_line
from tests.envs.families import POLES, registered

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore:.* set to None", "ignore:env_spec is None")  # of its own examples
ROOM = "icrl/Darkroom3x3-v0"


@pytest.fixture(autouse=True)
def _own_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def episode(obs, action, reward=None, terminated=False, truncated=False, **infos):
    """Buffer of an episode whose last step ends it, if a flag is given."""
    count = len(action)
    last = np.arange(count) == count - 1
    return minari.data_collector.EpisodeBuffer(
        observations=obs,
        actions=action,
        rewards=np.arange(count, dtype=float) if reward is None else reward,
        terminations=last & terminated,
        truncations=last & truncated,
        infos=infos,
    )


def make(dataset_id, episodes, observation_space, action_space, metadata=None, env=None):
    """Data set of other people, as Minari writes it."""
    dataset = minari.create_dataset_from_buffers(
        dataset_id, episodes, env=env, observation_space=observation_space, action_space=action_space
    )
    if metadata:
        dataset.storage.update_episode_metadata(metadata)
    return dataset_id


def numbered(lengths, **flags):
    """Episodes in a Box(1) of steps 0, 1, 2, ... over all of them."""
    first = np.cumsum([0, *(length + 1 for length in lengths)])
    return [
        episode(np.arange(begin, begin + length + 1, dtype=np.float32)[:, None], np.zeros(length, np.int64), **flags)
        for begin, length in zip(first, lengths, strict=False)
    ]


LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(2)


def equal_stores(one, other):
    """Equal steps, apart from the width of the padding."""
    assert one.tasks == other.tasks
    for task in one.tasks:
        ours, theirs = one[task], other[task]
        np.testing.assert_array_equal(ours.mask.sum(1), theirs.mask.sum(1))
        ours = ours.window(0, theirs.mask.shape[1])
        assert ours.extras.keys() == theirs.extras.keys()
        assert ours.static.keys() == theirs.static.keys()
        for name in (*ours.columns, *ours.extras):
            value, same = ({**steps.columns, **steps.extras}[name] for steps in (ours, theirs))
            assert value.dtype == same.dtype, name
            np.testing.assert_array_equal(value, same, err_msg=name)
        for name, value in ours.static.items():
            assert value.dtype == theirs.static[name].dtype
            np.testing.assert_array_equal(value, theirs.static[name])


# ---- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "source"), [(ROOM, "noise"), ("icrl/DarkroomMacro-v0", "noise")])
def test_a_store_comes_back_equal(tmp_path, env_id, source):
    tasks = [0, 1, 3]
    path = collect(env_id, source, tmp_path / "a.h5", tasks=tasks, streams=2, episodes=3)
    folder = export_minari(path, "my/rooms-v0", tmp_path / "sets")
    assert folder == tmp_path / "sets" / "my" / "rooms-v0"
    again = import_histories([folder], tmp_path / "b.h5")
    with HistoryStore(path) as one, HistoryStore(again) as other:
        equal_stores(one, other)
        assert other.info.env_id == env_id
        assert (other.info.streams, other.info.episodes, other.info.source) == (2, 3, "minari")
        assert any(store[0].extras for store in (one, other))


@pytest.mark.slow
def test_minari_reads_what_is_exported(tmp_path):
    path = collect(ROOM, "noise", tmp_path / "a.h5", tasks=[2, 5], streams=2, episodes=3)
    export_minari(path, "rooms-v3")
    dataset = minari.load_dataset("rooms-v3")
    with HistoryStore(path) as store:
        assert len(dataset) == 2 * 2 * 3
        assert dataset.spec.observation_space == store.spaces[0]
        first = dataset[0]
        steps = store[2, 0]
        np.testing.assert_array_equal(first.actions, steps.action[0, : len(first)])
        np.testing.assert_array_equal(first.observations[-1], steps.next_obs[0, len(first) - 1])
        np.testing.assert_array_equal(
            first.infos["histories"]["log_prob"][:-1], steps.extras["log_prob"][0, : len(first)]
        )
    metadata = list(dataset.storage.get_episode_metadata(range(12)))
    assert [each["task"] for each in metadata] == [2] * 6 + [5] * 6
    assert [each["lifetime"] for each in metadata] == 2 * [0, 0, 0, 1, 1, 1]
    assert dataset.recover_environment().spec.id == ROOM


def test_pixels_are_not_compressed(tmp_path):
    """Minari would store images of this size as JPEG, which changes them."""
    images = spaces.Box(0, 255, (32, 32), np.uint8), spaces.Discrete(2)
    obs = np.random.default_rng(0).integers(0, 256, (4, 32, 32)).astype(np.uint8)
    minari.create_dataset_from_buffers(
        "pixels-v0",
        [episode(obs, np.zeros(3, np.int64), terminated=True)],
        observation_space=images[0],
        action_space=images[1],
        jpeg_encoding=False,
    )
    import_histories(["pixels-v0"], tmp_path / "a.h5", env_id="my/Pixels-v0")
    export_minari(tmp_path / "a.h5", "pixels-v1")
    assert read_minari("pixels-v1").episodes[0].obs.dtype == np.uint8
    with HistoryStore(tmp_path / "a.h5") as store:
        np.testing.assert_array_equal(store[0].obs[0], obs[:-1])
    np.testing.assert_array_equal(read_minari("pixels-v1").episodes[0].obs, obs)


@pytest.mark.slow
def test_an_export_that_fails_leaves_nothing(tmp_path):
    path = collect(ROOM, "noise", tmp_path / "a.h5", tasks=[0], streams=1, episodes=1)
    one_line(lambda: export_minari(path, "rooms", tmp_path), ValueError, "'rooms'", "my/darkroom-v0")
    export_minari(path, "rooms-v0", tmp_path)
    one_line(lambda: export_minari(path, "rooms-v0", tmp_path), FileExistsError, "rooms-v0", "next version")
    with HistoryStore(path) as store:  # a step whose next_obs is another step's
        broken = store[0]
    broken.next_obs[0, 0] += 1
    wrong = tmp_path / "wrong.h5"
    import_histories([tmp_path / "rooms-v0"], wrong)
    with h5py.File(wrong, "r+") as file:
        file["0/next_obs"][0, 0] = broken.next_obs[0, 0]
    one_line(lambda: export_minari(wrong, "rooms-v1", tmp_path), ValueError, "next_obs")
    with HistoryWriter(tmp_path / "empty.h5", store.info, [0]) as writer:
        writer.add({0: broken._replace(mask=np.zeros_like(broken.mask))})
        writer.finish()
    one_line(lambda: export_minari(tmp_path / "empty.h5", "rooms-v1", tmp_path), ValueError, "empty.h5 has no steps")
    assert not (tmp_path / "rooms-v1").exists()
    assert not list(tmp_path.glob(".rooms*"))


def test_two_exports_at_once_do_not_touch_each_other(tmp_path, monkeypatch):
    path = collect(ROOM, "noise", tmp_path / "a.h5", tasks=[0], streams=1, episodes=1)

    def both(*given):
        monkeypatch.undo()
        one_line(
            lambda: export_minari(path, "rooms-v0", tmp_path / "sets"),
            BlockingIOError,
            f"process {os.getpid()} is exporting in",
        )
        return exchange.episodes_of(*given)

    (left := tmp_path / "sets/.rooms-v0.exporting/rooms-v0/data").mkdir(parents=True)  # by an export that was killed
    (left / "metadata.json").write_text("{")
    monkeypatch.setattr(exchange, "episodes_of", both)
    folder = export_minari(path, "rooms-v0", tmp_path / "sets")
    assert len(read_minari(folder).episodes) == 1
    assert list((tmp_path / "sets").iterdir()) == [folder]


def test_an_interrupted_import_can_be_called_again(tmp_path, monkeypatch):
    path = collect(ROOM, "noise", tmp_path / "a.h5", tasks=[0, 1], streams=1, episodes=1)
    folder, add = export_minari(path, "rooms-v0", tmp_path), HistoryWriter.add

    def killed(writer, histories):
        add(writer, histories)
        raise KeyboardInterrupt

    monkeypatch.setattr(HistoryWriter, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        import_histories([folder], tmp_path / "b.h5")
    monkeypatch.undo()
    with HistoryStore(path) as one, HistoryStore(import_histories([folder], tmp_path / "b.h5")) as other:
        equal_stores(one, other)


# ---- data of others ---------------------------------------------------------------------------------------------


def test_all_episodes_of_a_data_set_are_one_lifetime(tmp_path):
    make("line-v0", numbered([2, 3], terminated=True), *LINE)
    import_histories(["line-v0"], tmp_path / "a.h5", env_id="my/Line-v0")
    with HistoryStore(tmp_path / "a.h5") as store:
        steps = store[0]
    assert store.tasks == [0]
    assert steps.obs[0, :, 0].tolist() == [0, 1, 3, 4, 5]
    assert steps.next_obs[0, :, 0].tolist() == [1, 2, 4, 5, 6]  # final observations, not those of the next episode
    assert steps.first[0].tolist() == [True, False, True, False, False]
    assert steps.terminated[0].tolist() == [False, True, False, False, True]
    assert steps.reward.dtype == np.float32


def test_an_episode_without_an_end_ends_where_the_next_one_begins(tmp_path):
    make("line-v0", numbered([2, 3]), *LINE)
    import_histories(["line-v0"], tmp_path / "a.h5", env_id="my/Line-v0")
    with HistoryStore(tmp_path / "a.h5") as store:
        assert store[0].truncated[0].tolist() == [False, True, False, False, False]
        assert not store[0].terminated.any()


def test_lifetimes_of_a_number_of_episodes(tmp_path):
    make("line-v0", numbered([2, 1, 3, 1, 2], terminated=True), *LINE)
    import_histories(["line-v0"], tmp_path / "a.h5", env_id="my/Line-v0", episodes_per_lifetime=2)
    with HistoryStore(tmp_path / "a.h5") as store:
        assert store[0].mask.sum(1).tolist() == [3, 4, 2]
        assert (store.info.streams, store.info.episodes) == (3, 2)
        assert store[0].obs[2, 2, 0] == 0  # padding


@pytest.mark.parametrize(
    ("tasks", "expected"), [(None, {0: [5], 1: [4]}), ([7, 4], {4: [4], 7: [5]}), ([3, 3], {3: [5, 4]})]
)
def test_each_data_set_has_a_task(tmp_path, tasks, expected):
    make("line-v0", numbered([2, 3], terminated=True), *LINE)
    make("line-v1", numbered([4], terminated=True), *LINE)
    import_histories(["line-v0", "line-v1"], tmp_path / "a.h5", env_id="my/Line-v0", tasks=tasks)
    with HistoryStore(tmp_path / "a.h5") as store:
        assert {task: store[task].mask.sum(1).tolist() for task in store} == expected


def test_metadata_name_the_task_and_the_lifetime(tmp_path):
    metadata = [
        {"task": 5, "lifetime": 1},
        {"task": 2, "lifetime": 0},
        {"task": 5, "lifetime": 0},
        {"task": 5, "lifetime": 1},
    ]
    make("line-v0", numbered([1, 2, 3, 4], terminated=True), *LINE, metadata)
    import_histories(["line-v0"], tmp_path / "a.h5", env_id="my/Line-v0")
    with HistoryStore(tmp_path / "a.h5") as store:
        assert {task: store[task].mask.sum(1).tolist() for task in store} == {2: [2], 5: [5, 3]}


def test_what_histories_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    named = spaces.Dict({"x": LINE[0]})
    make("dict-v0", [episode({"x": np.zeros((3, 1), np.float32)}, np.zeros(2, np.int64))], named, LINE[1])
    one_line(lambda: import_histories(["dict-v0"], path, env_id="my/Line-v0"), ValueError, "Dict", "Box")
    make("line-v0", numbered([2]), *LINE)
    one_line(lambda: import_histories(["line-v0"], path), ValueError, "--env")
    one_line(lambda: import_histories(["line-v9"], path), FileNotFoundError, "line-v9", "minari download")
    one_line(lambda: import_histories(["line-v0"], path, env_id=ROOM), ValueError, ROOM, "line-v0")
    one_line(lambda: import_histories(["line-v0"], path, env_id="my/Line-v0", tasks=[0, 1]), ValueError, "2 tasks")
    make("named-v0", numbered([2]), *LINE, [{"task": "push"}])
    one_line(lambda: import_histories(["named-v0"], path, env_id="my/Line-v0"), ValueError, "'push'", "from 0")
    make("outside-v0", [episode(np.zeros((3, 1), np.float32), np.array([0, 2]))], *LINE)
    one_line(
        lambda: import_histories(["outside-v0"], path, env_id="my/Line-v0"), ValueError, "episode 0", "2", "Discrete"
    )
    assert not path.exists()
    assert not path.with_name("a.h5.partial").exists()


def test_no_environment_is_made_from_metadata(tmp_path):
    """To see the spaces Minari would make the environment of the metadata, and so import a module of their choice."""
    make("line-v0", numbered([2]), *LINE)
    file = tmp_path / "minari" / "line-v0" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["observation_space"]
    metadata["env_spec"] = gymnasium.spec("CartPole-v1").to_json()
    file.write_text(json.dumps(metadata))
    one_line(lambda: read_minari("line-v0"), ValueError, "observation_space")


# ---- training ---------------------------------------------------------------------------------------------------


def pole_episodes(env, count):
    """Episodes of a policy that alternates between two pushes each way."""
    for seed in range(count):
        obs, done, seen, actions = env.reset(seed=seed)[0], False, [], []
        while not done:
            seen.append(obs)
            actions.append(len(actions) // 2 % 2)
            obs, _, terminated, truncated, _ = env.step(actions[-1])
            done = terminated or truncated
        flags = {"terminated": terminated, "truncated": truncated}
        yield episode(np.stack([*seen, obs]), np.array(actions), np.ones(len(actions)), **flags)


@pytest.mark.slow
def test_agents_train_on_data_sets_of_a_registered_family(tmp_path):
    settings = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "window": 8, "slide": 4, "updates": 2}
    options = {"settings": {**settings, "batch_size": 4, "eval_every": 0}, "quiet": True, "track": []}
    with registered():
        family = find_family(POLES)
        tasks = family.tasks.split()[0].ids[:2].tolist()
        for task in tasks:
            env = gymnasium.make(POLES, **family.task_kwargs(task))
            make(f"poles-v{task}", list(pole_episodes(env, 3)), family.observation_space, family.action_space)
        path = import_histories([f"poles-v{task}" for task in tasks], tmp_path / "a.h5", env_id=POLES, tasks=tasks)
        agent = train("ad", POLES, tmp_path / "ad", histories=path, **options)
        assert agent.facts["source"] == "minari"
        one_line(lambda: train("dpt", POLES, tmp_path / "dpt", histories=path, **options), ValueError, "expert_action")
        HistoryStore(path).annotate("expert_action", lambda steps: steps.action)
        assert train("dpt", POLES, tmp_path / "dpt", histories=path, **options).facts["source"] == "minari"


@pytest.mark.parametrize("damage", ["truncated", "episodes", "metadata"])
def test_damage_is_one_line(tmp_path, damage):
    make("line-v0", numbered([2]), *LINE)
    folder = tmp_path / "minari" / "line-v0" / "data"
    if damage == "truncated":
        file = folder / "main_data.hdf5"
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "metadata":
        (folder / "metadata.json").write_text("{")
    else:
        metadata = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": 5}))
    one_line(lambda: read_minari("line-v0"), ValueError, "line-v0", "Minari cannot read it")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    for call in (lambda: read_minari("line-v0"), lambda: export_minari(tmp_path / "a.h5", "a-v0")):
        one_line(call, ImportError, "minari", 'pip install "icrl-agents[minari]"')
