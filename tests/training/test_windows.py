"""Windows of a store: where they begin, what pads them, and what is refused before training begins."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents import HistoryStore, collect
from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import Steps
from icrl_agents.histories.info import HistoryInfo
from icrl_agents.histories.store import write_column
from icrl_agents.histories.writer import HistoryWriter
from icrl_agents.methods import METHODS
from icrl_agents.sources import make_source
from icrl_agents.training.windows import FreshWindows, StoreWindows, WindowSpec, cut_windows
from tests.fakes import SMALL, SPACES, lifetimes

ENV = "icrl/Darkroom3x3-v0"


@pytest.fixture
def path(tmp_path) -> Path:
    return collect(ENV, "posterior", tmp_path / "h.h5", tasks=[1, 2, 3], streams=2, episodes=5, seed=0)


def store_of(path: Path, histories: dict[int, Steps], kind: str = "grid") -> Path:
    """A store of arbitrary lifetimes."""
    with HistoryStore(collect(ENV, "posterior", path.with_name("x.h5"), tasks=[0], streams=1, episodes=1)) as store:
        fields = store.info.__dict__
    obs, action = map(space_to_json, SPACES[kind])
    info = HistoryInfo(**{**fields, "observation_space": obs, "action_space": action})
    with HistoryWriter(path, info, sorted(histories)) as writer:
        writer.add(histories)
        writer.finish()
    return path


def cut(steps: Steps, lengths: list[int]) -> Steps:
    """The steps as the recorder packs histories of these lengths: zeros behind the last."""
    live = np.arange(steps.reward.shape[1]) < np.array(lengths)[:, None]
    return steps.map(lambda value: (value.T * live.T).T.astype(value.dtype))._replace(mask=live)


def test_the_draws_of_fresh_windows_are_those_of_the_released_agents():
    steps = lifetimes(rows=6, count=30)
    place = np.broadcast_to(np.arange(30), (6, 30))
    windows = cut_windows(steps._replace(reward=place), 10, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    wanted = np.where(rng.random(6) < 0.5, 0, rng.integers(0, 21, 6))
    np.testing.assert_array_equal(windows.reward[:, 0], wanted)


@pytest.mark.parametrize("aligned", [False, True])
def test_fresh_windows_of_short_lifetimes_hold_their_steps_and_no_zeros(aligned):
    lengths = [30, 4, 11, 30, 1, 19]
    steps = cut(lifetimes(rows=6, count=30, ends=0.2), lengths)
    steps = steps._replace(reward=np.where(steps.mask, np.arange(30) + 1.0, 0))  # the number of each step
    for seed in range(40):
        windows = cut_windows(steps, 10, np.random.default_rng(seed), aligned)
        assert windows.mask[:, 0].all()
        assert (windows.reward > 0).all()  # padding repeats the last step
        assert (windows.mask.sum(1) == np.minimum(lengths, 10)).all() or aligned
        assert (windows.reward.max(1) <= lengths).all()


@pytest.mark.parametrize(("episode", "count", "window"), [(20, 3, 24), (50, 8, 120), (7, 9, 20)])
def test_windows_that_begin_with_episodes_see_the_end_of_lifetimes_too(episode, count, window):
    total = episode * count
    steps = lifetimes(rows=8, count=total, ends=0)
    first = np.tile(np.arange(total) % episode == 0, (8, 1))
    steps = steps._replace(first=first, reward=np.tile(np.arange(total), (8, 1)))
    seen = set()
    for seed in range(60):
        windows = cut_windows(steps, window, np.random.default_rng(seed), aligned=True)
        assert (windows.first[:, 0]).all()
        seen |= set(windows.reward[windows.mask].astype(int).tolist())
    assert seen == set(range(total))


def test_half_of_a_stores_windows_are_beginnings_and_the_rest_lie_anywhere(tmp_path):
    steps = lifetimes(rows=2, count=30)
    steps = steps._replace(reward=np.broadcast_to(np.arange(30, dtype=np.float32), (2, 30)))
    with HistoryStore(store_of(tmp_path / "h.h5", {1: steps})) as store:
        batch = StoreWindows(store, [1], WindowSpec(10, 600, 0)).batch(0)
    starts = batch.reward[:, 0]
    assert 0.45 < (starts == 0).mean() < 0.6
    assert set(starts) == set(range(21))
    np.testing.assert_array_equal(batch.reward, starts[:, None] + np.arange(10))
    assert batch.mask.all()


@pytest.mark.parametrize("aligned", [False, True])
def test_windows_tell_the_timesteps_that_their_steps_have_in_an_episode(path, aligned: bool):
    """And the task, to those who ask for it."""
    spec = WindowSpec(8, 40, 0, aligned, with_tasks=True)
    tasks = np.array([1, 2, 3])
    with HistoryStore(path) as store:
        recorded = StoreWindows(store, tasks, spec)
    for windows in (FreshWindows(ENV, make_source("posterior", ENV), tasks, 5, spec), recorded):
        batch, begins = windows.batch(1), set()
        for first, timestep, real in zip(batch.first, batch.extras["timestep"], batch.mask, strict=True):
            assert (timestep[first & real] == 0).all()
            assert (np.diff(timestep)[~first[1:] & real[1:]] == 1).all()
            begins.add(int(timestep[0]))
        assert begins == ({0} if aligned else set(range(6)))
        assert set(batch.static["task"]) == {1, 2, 3}
    plain = spec._replace(with_tasks=False)
    assert "task" not in FreshWindows(ENV, make_source("posterior", ENV), tasks, 5, plain).batch(0).static


def test_the_task_is_that_of_the_row(tmp_path):
    histories = {task: lifetimes(rows=2, count=12, seed=task) for task in (3, 5)}
    for task, steps in histories.items():
        steps.reward[:] = task
    with HistoryStore(store_of(tmp_path / "h.h5", histories)) as store:
        batch = StoreWindows(store, [3, 5], WindowSpec(6, 30, 0, with_tasks=True)).batch(0)
    np.testing.assert_array_equal(batch.static["task"], batch.reward[:, 0])


def test_histories_of_all_lengths_serve_padded_with_their_last_step(tmp_path):
    """Also where zeros, which the recorder pads with, are outside the space."""
    histories = {
        1: cut(lifetimes("discrete", rows=3, count=20), [20, 3, 12]),
        2: cut(lifetimes("discrete", rows=3, count=4, seed=1), [4, 0, 1]),
    }
    with HistoryStore(store_of(tmp_path / "h.h5", histories, "discrete")) as store:
        windows = StoreWindows(store, [1, 2], WindowSpec(9, 200, 0), SPACES["discrete"])
        batch = windows.batch(0)
    assert batch.reward.shape == (200, 9)
    assert set(batch.mask.sum(1)) == {1, 3, 4, 9}  # all but the empty one
    for row in np.flatnonzero(~batch.mask.all(1)):
        length = batch.mask[row].sum()
        assert batch.mask[row, :length].all()
        for name, column in batch.columns.items():
            assert name == "mask" or (column[row, length:] == column[row, length - 1]).all()
    assert batch.action.min() == 1
    agent = ICAgent(METHODS["ad"](*SPACES["discrete"], METHODS["ad"].Config(**SMALL)))
    assert all(torch.isfinite(term) for term in agent.method.loss(agent.method.tensors(batch)).values())


def test_a_store_without_any_step_is_refused(tmp_path):
    path = store_of(tmp_path / "h.h5", {1: cut(lifetimes(count=4), [0, 0, 0])})
    with HistoryStore(path) as store, pytest.raises(ValueError, match=r"h\.h5 have no steps"):
        StoreWindows(store, [1], WindowSpec(9, 4, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("action", 7, "task 2: action 7 is outside 0..4;"),
        ("obs", 9, r"task 2: obs \[9, 9\] is outside \[0, 0\]..\[2, 2\];"),
        ("next_obs", -1, r"task 2: next_obs \[-1, -1\] is outside"),
        ("reward", np.nan, "task 2: reward holds NaN or infinity;"),
    ],
)
def test_a_value_outside_the_spaces_is_named_before_training(path, field, value, message):
    with h5py.File(path, "r+") as file:
        file["2"][field][1, 4] = value
    with HistoryStore(path) as store:
        with pytest.raises(ValueError, match=message) as error:
            StoreWindows(store, [1, 2, 3], WindowSpec(12, 4, 0))
        StoreWindows(store, [1, 3], WindowSpec(12, 4, 0))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_column_of_another_shape_or_type_is_named(path):
    with h5py.File(path, "r+") as file:
        for task, value in (("1", np.zeros((2, 30, 3), np.int32)), ("2", np.zeros((2, 30, 2)))):
            write_column(file[task], "obs", value)
    with HistoryStore(path) as store:
        with pytest.raises(ValueError, match=r"task 1: obs has shape \(3,\), expected \(2,\)"):
            StoreWindows(store, [1], WindowSpec(12, 4, 0))
        with pytest.raises(ValueError, match="task 2: obs has dtype float64, expected"):
            StoreWindows(store, [2], WindowSpec(12, 4, 0))


@pytest.mark.parametrize(("place", "name"), [(0, "observation"), (1, "action")])
def test_a_store_of_other_spaces_is_refused(path, place, name):
    with HistoryStore(path) as store:
        wanted = list(store.spaces)
        assert StoreWindows(store, [1], WindowSpec(12, 4, 0), tuple(wanted)).batch(0).reward.shape == (4, 12)
        wanted[place] = spaces.Discrete(77)
        with pytest.raises(ValueError, match=rf"h\.h5 has the {name} space .*, the environment Discrete\(77\)"):
            StoreWindows(store, [1], WindowSpec(12, 4, 0), tuple(wanted))


def test_checking_leaves_the_draw_of_an_agents_weights_alone(path):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    with HistoryStore(path) as store:
        StoreWindows(store, [1], WindowSpec(12, 4, 0))
    assert torch.equal(torch.rand(4), wanted)


def test_ppo_makes_no_fresh_windows_of_several_tasks():
    ppo = make_source("ppo", ENV)
    with pytest.raises(ValueError, match="source 'ppo' learns one task at a time: collect its histories first"):
        FreshWindows(ENV, ppo, [1, 2], episodes=1, spec=WindowSpec(6, 4, 0))
    FreshWindows(ENV, ppo, [2], episodes=1, spec=WindowSpec(6, 4, 0))
