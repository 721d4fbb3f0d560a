"""The command annotate, and what train says about a model that does not act."""

import pytest

from icrl_agents import HistoryStore, collect
from tests.cli.test_exchange import ROOM, run

SHOWN = "icrl/PixelGridGoal-v0"
SETTINGS = ["--set", "updates=2", "--set", "batch_size=4", "--set", "width=8", "--threads", "1", "--device", "cpu"]


@pytest.mark.slow
def test_train_and_annotate_shards(tmp_path):
    collect(SHOWN, "noise", tmp_path / "v.h5", tasks=range(4), streams=2, episodes=1, shard_size=4)
    files = sorted(tmp_path.glob("v-*.h5"))
    assert len(files) == 2
    said = run("train", "lam", "--env", SHOWN, "--histories", tmp_path, "-o", tmp_path / "lam", *SETTINGS)
    assert f"icrl-agents annotate FILE.h5 --model {tmp_path / 'lam'}" in said
    with HistoryStore(files[0]) as store:
        store.annotate("own", lambda steps: steps.reward)
    said = run("annotate", files[0], "--model", tmp_path / "lam")
    assert "latent_action, latent_action_raw, latent_action_code" in said
    assert "reconstruction" in said
    again = run("annotate", tmp_path / "v.h5", "-m", tmp_path / "lam")  # by the name given to collect
    assert f"{files[0]}: labelled already" in again
    assert f"{files[1]}: latent_action" in again
    probed = run("annotate", tmp_path, "--model", tmp_path / "lam", "--probe")
    assert "labelled already" in probed
    assert "dead_codes" in probed
    assert [line.split()[1] for line in probed.splitlines() if line.split()[:1] == ["latent_action"]] == ["32"]
    for file in files:
        with HistoryStore(file) as store:
            assert store[store.tasks[0]].extras["latent_action_code"].shape[-1] == 1
            assert ("own" in store[store.tasks[0]].extras) == (file == files[0])


@pytest.mark.slow
def test_only_latent_actions_are_probed(tmp_path):
    histories = collect(SHOWN, "noise", tmp_path / "v.h5", tasks=[0], streams=1, episodes=1)
    run("train", "vpt", "--env", SHOWN, "--histories", histories, "-o", tmp_path / "vpt", *SETTINGS)
    said = run("annotate", histories, "--model", tmp_path / "vpt", "--probe", code=2)
    assert "--probe is for latent actions" in said
    assert "finds vpt_action: leave it out" in said


def test_mistakes_are_one_line(tmp_path):
    histories = collect(ROOM, "noise", tmp_path / "a.h5", tasks=[0], streams=1, episodes=1)
    assert "is an agent" in run("annotate", histories, "--model", "icrl/ad-darkroom", code=2)
    assert "--report is for agents" in run("train", "lam", "--env", SHOWN, "-o", tmp_path / "x", "--report", code=2)
    study = ("research", "seeds", "lam", "--env", SHOWN, "-o", tmp_path / "x")
    assert "lam does not act" in run(*study, code=2)
    assert "lam does not act" in run("research", "sweep", *study[2:], code=2)
    assert "images and other Boxes" in run(
        "train", "lam", "--env", "icrl/BernoulliBandit-v0", "-o", tmp_path / "x", *SETTINGS, code=2
    )
    assert not (tmp_path / "x").exists()
