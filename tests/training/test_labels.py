"""Batches in which the actions of a few steps are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from icrl_agents import collect, train
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.histories.shards import HistoryShards
from icrl_agents.methods.base.trainable import LABELLED
from icrl_agents.studies.sweep import Grid, sweep
from icrl_agents.training.labels import LabelledSteps, LabelledWindows, known_rows, reweighted
from icrl_agents.training.windows import StoreWindows, WindowSpec
from tests.conftest import one_line

ENV = "icrl/Darkroom3x3-v0"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> HistoryShards:
    path = collect(ENV, "noise", tmp_path_factory.mktemp("h") / "h.h5", tasks=[1, 2, 3], streams=2, episodes=5)
    return HistoryShards(path)


def drawn(shards: HistoryShards, labels: int, seed: int = 0, tasks: list[int] | None = None) -> LabelledSteps:
    return LabelledSteps(shards, tasks or [1, 2, 3], labels, WindowSpec(4, 8, seed), shards.spaces)


def keys(steps) -> set:
    """What identifies a step here: the number of its log-probability and expert."""
    return {
        (*obs, action, *after)
        for obs, action, after in zip(
            steps.obs.reshape(-1, 2).tolist(),
            steps.action.ravel().tolist(),
            steps.next_obs.reshape(-1, 2).tolist(),
            strict=True,
        )
    }


def test_known_steps_are_those_of_the_histories(shards):
    total = sum(int(shards[task].mask.sum()) for task in (1, 2, 3))
    every = drawn(shards, total).steps
    assert every.mask.shape == (total, 1)
    whole = np.concatenate([shards[task].reward[shards[task].mask] for task in (1, 2, 3)])
    assert np.array_equal(every.reward[:, 0], whole)
    assert every.first.all()
    assert every.start.all()
    one_line(lambda: drawn(shards, total + 1), ValueError, f"labels={total + 1} steps", f"has {total}", "lower it")
    assert keys(drawn(shards, 20, tasks=[2]).steps) <= keys(shards[2])


def test_weights_are_those_of_what_a_cut_leaves(shards):
    spec = WindowSpec(30, 6, 0)
    windows = LabelledWindows(StoreWindows(shards, [1, 2, 3], spec), drawn(shards, 9), 8, 30)
    batch = windows.batch(0)
    for cut in (batch, batch.window(0, 4)):
        steps = reweighted(cut)
        weight = steps.extras[LABELLED] * steps.mask
        assert weight.sum() / steps.mask.sum() == pytest.approx(1)
        known = weight[weight > 0]
        assert known.min() == pytest.approx(known.max())
    plain = batch._replace(extras={})
    assert reweighted(plain) is plain


def test_known_steps_of_tasks_with_other_legal_actions_are_refused(tmp_path):
    env_id = "icrl/BernoulliBandit-v0"
    path = collect(env_id, "uniform", tmp_path / "h.h5", tasks=[0, 1], streams=1, episodes=1)
    shards = HistoryShards(path)
    why = ("labels=5", "legal actions")
    one_line(lambda: LabelledSteps(shards, [0, 1], 5, WindowSpec(4, 8, 0), shards.spaces), ValueError, *why)


@pytest.mark.parametrize("slipped", ["known", "unknown"])
def test_known_steps_keep_what_they_intended_beside_histories_that_do_not_say_it(shards, tmp_path, slipped):
    settings = {"slips": 0.8}
    path = collect(ENV, "posterior", tmp_path / "h.h5", tasks=[1, 2, 3], streams=2, episodes=5, settings=settings)
    known, unknown = (HistoryShards(path), shards) if slipped == "known" else (shards, HistoryShards(path))
    windows = LabelledWindows(StoreWindows(unknown, [1, 2, 3], WindowSpec(30, 4, 0)), drawn(known, 60), 12, 30)
    batch = windows.batch(0)
    rows = batch.extras[LABELLED].any(1) == (slipped == "known")
    differ = batch.extras["intended_action"] != batch.action
    assert differ[rows].any()
    assert not differ[~rows].any()


def test_the_seed_chooses_the_known_steps_once(shards):
    few = drawn(shards, 7)
    assert few.steps.mask.shape == (7, 1)
    assert np.array_equal(few.steps.obs, drawn(shards, 7).steps.obs)
    assert not np.array_equal(few.steps.obs, drawn(shards, 7, seed=1).steps.obs)
    seen = [few.rows(update, 5, 4) for update in range(20)]
    assert set.union(*map(keys, seen)) == keys(few.steps)
    assert np.array_equal(seen[3].obs, few.rows(3, 5, 4).obs)
    assert seen[0].obs.shape == (5, 4, 2)


def test_a_share_of_the_batch_is_known(shards):
    windows = StoreWindows(shards, [1, 2, 3], WindowSpec(4, 6, 0))
    batches, few = LabelledWindows(windows, drawn(shards, 7), 8, 4), keys(drawn(shards, 7).steps)
    for update in range(5):
        batch = batches.batch(update)
        assert batch.mask.shape == (8, 4)
        weight = batch.extras[LABELLED]
        assert (weight[:6] == 0).all()
        assert keys(batch.rows(slice(6, 8))) <= few
        assert (weight * batch.mask).sum() == pytest.approx(batch.mask.sum())  # a mean over the known steps
        assert np.array_equal(batch.obs[:6], windows.batch(update).obs)
    assert LabelledWindows(None, drawn(shards, 7), 8, 4).batch(0).mask.shape == (8, 4)
    batches.close()


@pytest.mark.parametrize(("share", "size", "rows"), [(1.0, 8, 8), (0.25, 8, 2), (0.25, 2, 1), (0.25, 3, 1)])
def test_rows_of_known_steps(share, size, rows):
    assert known_rows(share, size) == rows


def test_no_room_for_unknown_steps():
    one_line(lambda: known_rows(0.25, 1), ValueError, "batch_size=1", "at least 2")


def test_known_steps_of_another_file_are_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for name, seed in (("h.h5", 0), ("known.h5", 1)):
        collect("icrl/Darkroom-v0", "noise", name, tasks=training(), streams=1, episodes=1, seed=seed)
    settings = {"labels": 3, "labelled": "known.h5", "updates": 2, "batch_size": 2, "eval_every": 0, "window": 2}
    train("bc", "icrl/Darkroom-v0", tmp_path / "bc", histories="h.h5", settings=settings, device="cpu", quiet=True)
    noted = json.loads((tmp_path / "bc" / "train.json").read_text())["train"]["labelled"]
    assert noted == str(tmp_path / "a" / "known.h5")


@pytest.mark.parametrize("name", ["known.h5", "~/known.h5"])
def test_the_same_words_continue_a_finished_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    collect("icrl/Darkroom-v0", "noise", "known.h5", tasks=training(), streams=1, episodes=1)
    settings = {"labels": 3, "labelled": name, "updates": 1, "batch_size": 2, "eval_every": 0, "window": 2}
    given = {"histories": "known.h5", "settings": settings, "device": "cpu", "quiet": True}
    train("bc", "icrl/Darkroom-v0", tmp_path / "bc", **given)
    assert train("bc", "icrl/Darkroom-v0", tmp_path / "bc", resume=True, **given).method.config.window == 2
    study = {"spec": EvalSpec("validation", 1, 1)}
    grid = Grid("bc", "icrl/Darkroom-v0", {**settings, "threads": 1}, {}, (0,), "known.h5")
    first = sweep(grid, tmp_path / "sweep", **study)
    assert sweep(grid, tmp_path / "sweep", **study)[0].last() == first[0].last()


def training() -> list[int]:
    return split_tasks("icrl/Darkroom-v0").train.ids[:4].tolist()
