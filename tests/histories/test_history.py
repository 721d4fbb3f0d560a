"""The recorder tells the truth in every autoreset mode; the store gives back what it was given, or one error."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import Steps
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.histories.store import FIELDS, HistoryStore
from icrl_agents.histories.writer import HistoryWriter
from tests.conftest import one_line

EPISODES = 4


class Count(gymnasium.Env):
    """Shows (episode, step); row r's episode e has 2 + (r + e) % 3 steps, and every other one is cut off."""

    observation_space = gymnasium.spaces.Box(0, 100, (2,), np.int32)
    action_space = gymnasium.spaces.Discrete(5)

    def __init__(self, row: int):
        self.row, self.episode = row, -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.count = self.episode + 1, 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.episode, self.count], np.int32)

    def length(self, episode: int) -> int:
        return 2 + (self.row + episode) % 3

    def step(self, action):
        self.count += 1
        over = self.count >= self.length(self.episode)
        even = self.episode % 2 == 0
        return self.obs(), self.count / 3, over and even, over and not even, {}

    def expert_action(self) -> int:
        return int(self.obs().sum() % 5)

    def truth(self, episodes: int) -> dict[str, np.ndarray]:
        steps = [(e, t, t + 1 == self.length(e)) for e in range(episodes) for t in range(self.length(e))]
        episode, before, over = (np.array(column) for column in zip(*steps, strict=True))
        return {
            "obs": np.stack([episode, before], 1),
            "next_obs": np.stack([episode, before + 1], 1),
            "reward": ((before + 1) / 3).astype(np.float32),
            "first": before == 0,
            "terminated": over & (episode % 2 == 0),
            "truncated": over & (episode % 2 == 1),
            "expert_action": (episode + before) % 5,
        }


def counts(mode: AutoresetMode = AutoresetMode.SAME_STEP, rows: int = 3) -> RecordHistory:
    return RecordHistory(SyncVectorEnv([lambda row=row: Count(row) for row in range(rows)], autoreset_mode=mode))


def play(env: RecordHistory, steps: int = 30, note: bool = False) -> list[np.ndarray]:
    """Random actions; what DISABLED leaves to the caller is done here."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    actions = []
    for step in range(steps):
        actions.append(rng.integers(0, 5, env.num_envs))
        if note:
            env.note(clock=step, score=rng.random((env.num_envs, 2)).astype(np.float32))
        _, _, terminated, truncated, _ = env.step(actions[-1])
        over = terminated | truncated
        if env.metadata["autoreset_mode"] == AutoresetMode.DISABLED and over.any():
            env.reset(options={"reset_mask": over})
    return actions


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_record_is_the_truth(mode):
    env = counts(mode)
    play(env)
    steps = env.steps(EPISODES)
    assert not steps.mask.all()
    assert not any(value[~steps.mask].any() for value in (steps.obs, steps.action, steps.reward, steps.truncated))
    for row in range(3):
        truth = Count(row).truth(EPISODES)
        assert steps.mask[row].sum() == len(truth["reward"])
        assert steps.mask[row, : len(truth["reward"])].all()  # left-packed
        for name, value in truth.items():
            column = steps.extras[name] if name in steps.extras else getattr(steps, name)
            np.testing.assert_array_equal(column[row, : len(value)], value, err_msg=name)


def test_actions_previous_values_and_notes_belong_to_their_steps():
    env = counts()
    actions = np.stack(play(env, note=True), 1)
    steps = env.steps()
    assert steps.action.dtype == np.int64
    assert steps.reward.dtype == np.float32
    assert steps.obs.dtype == np.int32
    np.testing.assert_array_equal(steps.action, actions)
    np.testing.assert_array_equal(steps.prev_action[:, 1:], actions[:, :-1])
    np.testing.assert_array_equal(steps.prev_reward[:, 1:], steps.reward[:, :-1])
    assert not steps.prev_action[:, 0].any()
    assert not steps.prev_reward[:, 0].any()
    np.testing.assert_array_equal(steps.extras["clock"], np.tile(np.arange(30), (3, 1)))
    assert steps.extras["score"].shape == (3, 30, 2)
    with pytest.raises(ValueError, match="0 steps"):
        env.steps()  # it was handed over


def test_native_vector_envs_are_recorded_like_sync_ones():
    records = []
    for how in ("vector_entry_point", "sync"):
        vector = {"autoreset_mode": AutoresetMode.SAME_STEP}
        given = {"vector_kwargs": vector} if how == "sync" else vector
        env = RecordHistory(gymnasium.make_vec("icrl/Darkroom-v0", 4, vectorization_mode=how, goal=(2, 7), **given))
        play(env, 50)
        records.append(env.steps())
    for name in (*FIELDS, "first"):
        np.testing.assert_array_equal(getattr(records[0], name), getattr(records[1], name), err_msg=name)
    np.testing.assert_array_equal(records[0].extras["expert_action"], records[1].extras["expert_action"])


def test_an_expert_is_found_behind_wrappers_and_missing_ones_are_not():
    assert RecordHistory(VectorWrapper(gymnasium.make_vec("icrl/Darkroom-v0", 2))).has_expert
    plain = RecordHistory(gymnasium.make_vec("CartPole-v1", 2))
    plain.reset(seed=0)
    plain.step(np.zeros(2, np.int64))
    assert plain.steps().extras == {}
    with pytest.raises(ValueError, match=r"expert_action\(\)"):
        plain.expert_action()


def test_a_reset_in_mid_episode_truncates_it():
    env = counts()
    env.reset()
    env.step(np.zeros(3, int))
    env.reset()
    env.step(np.zeros(3, int))
    steps = env.steps()
    assert steps.truncated[:, 0].all()
    assert steps.first.all()
    assert not steps.terminated.any()


def test_misuse_of_the_recorder_is_one_clear_line():
    with pytest.raises(TypeError, match="make_vec") as error:
        RecordHistory(gymnasium.make("icrl/Darkroom-v0"))
    assert "\n" not in str(error.value)
    env = counts()
    play(env, 5)
    env.note(clock=1)
    with pytest.raises(ValueError, match="'clock' has not one value for each of 5 steps"):
        env.steps()
    for name in ("reward", "mask", "length", "a/b", ""):
        with pytest.raises(ValueError, match="cannot name a column"):
            env.note(**{name: 1})


class Broken(gymnasium.Env):
    """Returns the value `bad` in one place at its second step, which ends the episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, place: str, bad: float):
        self.place, self.bad = place, bad

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(2), {}

    def step(self, action):
        self.count += 1
        bad = self.bad if self.count == 2 else 0.0
        obs, reward = ([0, bad], 0.0) if self.place == "obs" else ([0, 0], bad)
        return np.array(obs, float), reward, self.count == 2, False, {}


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("place", ["obs", "reward"])
def test_what_no_training_can_read_is_not_recorded(place, bad, mode):
    env = RecordHistory(SyncVectorEnv([lambda: Broken(place, bad)], autoreset_mode=mode))
    env.reset()
    env.step(np.array([0]))
    one_line(lambda: env.step(np.array([1])), ValueError, f"{place} holds NaN or infinity: {bad}", "broken value")


class Outside(gymnasium.Env):
    """Shows or advises a value beyond its space at its second step, which ends the episode."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, place: str):
        self.place = place

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.full(2, 1 + 1e-7, np.float32), {}  # a rounding error

    def step(self, action):
        self.count += 1
        obs = np.array([0, 1.5 if self.place == "obs" and self.count == 2 else 0], np.float32)
        return obs, 0.0, self.count == 2, False, {}

    def expert_action(self) -> int:
        return 2 if self.place == "expert_action" and self.count == 1 else 0


ROOM, CHOICES = "Box(0.0, 1.0, (2,), float32)", "Discrete(2)"
OUTSIDE = {"obs": (1, "[0.0, 1.5]", ROOM), "expert_action": (1, "2", CHOICES), "actions": (-1, "-1", CHOICES)}


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("place", OUTSIDE)
def test_what_lies_outside_the_spaces_is_not_recorded(place, mode):
    action, held, space = OUTSIDE[place]
    env = RecordHistory(SyncVectorEnv([lambda: Outside("nothing"), lambda: Outside(place)], autoreset_mode=mode))
    env.reset()
    env.step(np.array([0, 0]))
    told = f"{place} of row 1 is {held}, outside {space}"
    one_line(lambda: env.step(np.array([0, action])), ValueError, told, "declare the space")


def test_observations_without_entries_are_recorded():
    empty = gymnasium.spaces.Box(-1, 1, (0,), np.float32)
    row = gymnasium.wrappers.TransformObservation(Count(0), lambda obs: np.zeros(0, np.float32), empty)
    env = RecordHistory(SyncVectorEnv([lambda: row]))
    env.reset()
    env.step(np.array([0]))
    assert env.steps().obs.shape == (1, 1, 0)


def test_spaces_of_other_values_than_numbers_are_refused():
    nested = gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2))
    rows = SyncVectorEnv([lambda: gymnasium.wrappers.TransformObservation(Count(0), lambda obs: {"a": 0}, nested)])
    one_line(lambda: RecordHistory(rows), ValueError, "Dict('a': Discrete(2))", "flat_env(env)")


# ---- the store ------------------------------------------------------------------------------------------------------


def info(**changes) -> HistoryInfo:
    facts = {
        "env_id": "icrl/Darkroom-v0",
        "env_kwargs": {"size": 9, "start": (4, 4)},
        "observation_space": space_to_json(Count.observation_space),
        "action_space": space_to_json(Count.action_space),
        "source": "posterior",
        "settings": {"noise": 0.0},
        "assumes": "everything.",
        "seed": 0,
        "streams": 3,
        "episodes": EPISODES,
        "versions": {"numpy": np.__version__},
    }
    return HistoryInfo(**{**facts, **changes})


def ragged() -> Steps:
    env = counts()
    play(env, note=True)
    return env.steps(EPISODES)


def write(path: Path) -> dict[int, Steps]:
    whole = ragged()
    histories = {5: whole, 40: whole.rows([2, 1, 0]), 7: whole.window(0, 6)}
    with HistoryWriter(path, info(), [5, 7, 40]) as writer:
        writer.add({5: histories[5], 40: histories[40]})
        writer.add({7: histories[7]})
        writer.finish()
    return histories


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, dict[int, Steps]]:
    path = tmp_path_factory.mktemp("store") / "histories.h5"
    return path, write(path)


def assert_same(one: Steps, two: Steps) -> None:
    for name, a in one.columns.items():
        b = two.columns[name]
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    for mine, theirs in ((one.extras, two.extras), (one.static, two.static)):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_round_trip_is_exact(stored):
    path, histories = stored
    with HistoryStore(path) as store:
        assert store.tasks == [5, 7, 40] == list(store)
        assert len(store) == 3
        assert not store.partial
        assert store.info.env_kwargs == {"size": 9, "start": [4, 4]}
        assert store.info.settings == {"noise": 0.0}
        assert store.info == info(env_kwargs={"size": 9, "start": [4, 4]})
        assert store.spaces == (Count.observation_space, Count.action_space)
        for task, steps in histories.items():
            assert_same(store[task], steps)
    assert [item.name for item in path.parent.iterdir()] == [path.name]  # nothing left beside it


@pytest.mark.parametrize(("a", "b"), [(0, 5), (1, 4), (3, None), (-4, -1), (6, 6), (9, 3), (0, 999)])
def test_a_window_is_the_slice_of_the_whole(stored, a, b):
    path, histories = stored
    store = HistoryStore(path)
    whole = histories[40]
    assert_same(store[40, :, a:b], whole.window(a, b))
    assert_same(store[40, 1, a:b], whole.rows(slice(1, 2)).window(a, b))
    assert_same(store[40, -2:, a:b], whole.rows(slice(1, 3)).window(a, b))


@pytest.mark.parametrize("key", [6, "5", (5, 3), (5, -4), (5, 0, 1.5), (5, slice(0, 3, 2)), (5, [0, 1])])
def test_what_is_not_there_is_one_clear_line(stored, key):
    with pytest.raises(IndexError) as error:
        HistoryStore(stored[0])[key]
    assert "\n" not in str(error.value)


def test_annotate_adds_a_column_and_replaces_it(tmp_path):
    path = tmp_path / "h.h5"
    histories = write(path)
    store = HistoryStore(path)
    for factor in (2, 3):
        store.annotate("latent", lambda steps, factor=factor: steps.obs[..., :1] * factor)
        np.testing.assert_array_equal(store[40].extras["latent"], histories[40].obs[..., :1] * factor)
    assert_same(HistoryStore(path)[7]._replace(extras=histories[7].extras), histories[7])
    assert list(tmp_path.iterdir()) == [path]


def _explode(steps: Steps) -> np.ndarray:
    if len(steps.reward[0]) == 6:  # the second task
        raise RuntimeError("boom")
    return steps.reward


@pytest.mark.parametrize(
    ("field", "fn", "match"),
    [
        ("reward", lambda steps: steps.reward, "cannot name a column"),
        ("latent", lambda steps: steps.reward[:, 1:], "shape"),
        ("latent", lambda steps: steps.reward.astype(object), "object"),
        ("latent", _explode, "boom"),
    ],
)
def test_a_failed_annotation_changes_nothing(stored, field, fn, match):
    path, _ = stored
    before = path.read_bytes()
    with pytest.raises((ValueError, RuntimeError), match=match):
        HistoryStore(path).annotate(field, fn)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_histories_without_steps_are_neither_written_nor_annotated(tmp_path):
    for empty in (ragged().window(0, 0), ragged().rows([])):
        with HistoryWriter(tmp_path / "h.h5", info(), [5]) as writer:
            one_line(partial(writer.add, {5: empty}), ValueError, "task 5 has no steps")
    with HistoryWriter(tmp_path / "none.h5", info(), []) as writer:
        writer.finish()
    store = HistoryStore(tmp_path / "none.h5")
    annotate = partial(store.annotate, "latent", lambda steps: steps.reward, identity="a model")
    one_line(annotate, ValueError, "none.h5 has no histories")


def test_two_annotations_at_once_are_refused(tmp_path):
    path = tmp_path / "h.h5"
    write(path)

    def second(steps):
        with pytest.raises(BlockingIOError, match=r"is annotating in .*h\.h5"):
            HistoryStore(path).annotate("two", lambda steps: steps.reward)
        return steps.reward

    HistoryStore(path).annotate("one", second)
    store = HistoryStore(path)
    assert {"one"} <= set(store[5].extras)
    assert "two" not in store[5].extras
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_annotation_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "h.h5"
    histories = write(path)
    before = path.read_bytes()

    def killed():
        HistoryStore(path).annotate("latent", lambda steps: os.kill(os.getpid(), signal.SIGKILL))

    child = multiprocessing.get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert path.read_bytes() == before
    store = HistoryStore(path)
    store.annotate("latent", lambda steps: steps.reward)
    assert_same(store[5]._replace(extras=histories[5].extras), histories[5])
    assert list(tmp_path.iterdir()) == [path]


# ---- bad files ------------------------------------------------------------------------------------------------------


def _edit(change):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def _column(file, name: str, **how) -> None:
    del file["5"][name]
    file["5"].create_dataset(name, **how)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("episode,return\n1,2\n" * 1000),
    "pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "foreign": _edit(lambda f: f.attrs.pop("format")),
    "newer": _edit(lambda f: f.attrs.__setitem__("format_version", 99)),
    "no version": _edit(lambda f: f.attrs.pop("format_version")),
    "text version": _edit(lambda f: f.attrs.__setitem__("format_version", "one")),
    "no seed": _edit(lambda f: f.attrs.pop("seed")),
    "no json": _edit(lambda f: f.attrs.__setitem__("settings", "{'a'")),
    "list settings": _edit(lambda f: f.attrs.__setitem__("settings", "[1]")),
    "no reward": _edit(lambda f: f["5"].pop("reward")),
    "task is data": _edit(lambda f: (f.pop("5"), f.create_dataset("5", data=[1]))),
    "objects": _edit(lambda f: _column(f, "obs", data=["a", "b"])),
    "wrong shape": _edit(lambda f: _column(f, "obs", data=np.zeros((3, 2, 2)))),
    "floats for flags": _edit(lambda f: _column(f, "terminated", data=np.zeros(f["5/reward"].shape))),
    "bomb": _edit(lambda f: [_column(f, n, shape=(10**6, 10**6), chunks=(1, 10**6), dtype="f8") for n in FIELDS]),
    "elsewhere": _edit(lambda f: (f["5"].pop("obs"), f["5"].__setitem__("obs", h5py.ExternalLink("o.h5", "/5/obs")))),
    "raw elsewhere": _edit(lambda f: _column(f, "length", shape=(3,), dtype="i8", external=[("/etc/passwd", 0, 24)])),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_bad_files_are_one_clear_error(stored, tmp_path, name):
    path = tmp_path / "h.h5"
    path.write_bytes(stored[0].read_bytes())
    DAMAGE[name](path)
    with pytest.raises(ValueError, match=r"h\.h5") as error:
        HistoryStore(path)[5]
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5.*collect"):
        HistoryStore(tmp_path / "nothing.h5")


@pytest.mark.slow
def test_flipped_bytes_are_noticed_or_harmless(stored, tmp_path):
    """Checksums cover the data; what a flip does elsewhere is an error, unless it hit a byte that means nothing."""
    original, path = stored[0].read_bytes(), tmp_path / "h.h5"
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(100):
        data = bytearray(original)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            with HistoryStore(path) as store:
                found = {task: store[task] for task in store.tasks}
        except ValueError as error:
            refused.append(str(error))
            continue
        for task in set(found) & set(stored[1]):
            np.testing.assert_array_equal(found[task].obs, stored[1][task].obs)
            np.testing.assert_array_equal(found[task].action, stored[1][task].action)
    assert len(refused) > 20
    assert all("h.h5" in message for message in refused)
