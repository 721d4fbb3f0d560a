"""The environments with Gymnasium's own tools, as docs/gymnasium.md says: ids, workers, wrappers, limits, windows."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import vector as wrappers

ID = "icrl/Darkroom-v0"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "gymnasium.md").read_text()

ALONE = """
import sys
import gymnasium
from gymnasium.vector import AsyncVectorEnv

def make():
    return gymnasium.make("icrl_envs:icrl/Darkroom-v0", goal=(5, 4))

if __name__ == "__main__":
    assert "icrl_envs" not in sys.modules
    workers = AsyncVectorEnv([make] * 2, context="spawn")
    obs, infos = workers.reset(seed=0)
    assert infos["optimal_return"].shape == (2,), infos
    workers.close()
    obs, info = gymnasium.make("icrl_envs:icrl/Darkroom-v0").reset(seed=0)
    assert gymnasium.make("icrl/Darkroom-v0").reset(seed=0)[1]["task"] == info["task"]
"""


@pytest.mark.slow
def test_an_id_with_its_module_needs_no_import_even_in_spawned_workers(tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "icrl_envs:icrl/" in DOCUMENT


WRAPPERS = {
    "FlattenObservation": {},
    "NormalizeObservation": {},
    "RescaleObservation": {"min_obs": 0.0, "max_obs": 1.0},
    "DtypeObservation": {"dtype": np.float32},
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_observation_wrappers_need_next_step(name):
    wrap = getattr(wrappers, name)
    env = wrap(gymnasium.make_vec(ID, 2, autoreset_mode="NextStep"), **WRAPPERS[name])
    env.reset(seed=0)
    for _ in range(25):
        obs, *_ = env.step(np.array([0, 4]))
    assert obs.shape == (2, 2)
    with pytest.raises(ValueError, match="NEXT_STEP or DISABLED"):  # Gymnasium's own words
        wrap(gymnasium.make_vec(ID, 2), **WRAPPERS[name])
    assert "NextStep" in DOCUMENT


def play(env: gymnasium.Env, steps: int) -> list[str]:
    """The warnings of two episodes, each of at most `steps` steps."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            env.reset(seed=0)
            for _ in range(steps):
                if env.step(4)[3]:
                    break
        env.reset()
    return [str(warning.message) for warning in said]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, None),
        ({"horizon": 100}, ("horizon=100", "max_episode_steps=20")),
        ({"horizon": 5}, ("horizon=5", "max_episode_steps=20")),
        ({"horizon": 100, "max_episode_steps": 100}, None),
        ({"horizon": 5, "max_episode_steps": 5}, None),
        ({"max_episode_steps": -1}, None),
    ],
    ids=str,
)
def test_a_horizon_that_the_time_limit_contradicts_is_warned_of(options, numbers):
    said = play(gymnasium.make(ID, **options), 120)
    assert bool(said) == bool(numbers)
    assert all(word in text for text in said for word in numbers or ())
    with warnings.catch_warnings(record=True) as vector:
        warnings.simplefilter("always")
        gymnasium.make_vec(ID, 2, **options)
    assert len(vector) == bool(numbers)


def test_a_window_for_a_vector_env_says_what_to_do():
    with pytest.raises(ValueError, match=r"render_mode='human'.*gymnasium.make\(id, render_mode='human'\).*pygame"):
        gymnasium.make_vec(ID, 2, render_mode="human")


def test_a_seed_in_every_episode_draws_a_task_in_every_episode():
    env = gymnasium.make(ID)
    seeded = [env.reset(seed=seed)[1]["task"] for seed in range(5)]
    held = [env.reset()[1]["task"] for _ in range(5)]
    assert len(set(seeded)) > 1
    assert set(held) == {seeded[-1]}
    assert "reset(seed=" in DOCUMENT


def test_a_task_of_an_option_lasts_until_a_seed_draws_another():
    env = gymnasium.make(ID)
    for how in ({}, {"seed": 3}):
        assert env.reset(options={"task": {"goal": (0, 1)}}, **how)[1]["task"] == env.reset()[1]["task"] == 1
    assert {env.reset(seed=seed)[1]["task"] for seed in range(5)} != {1}
    fixed = gymnasium.make(ID, goal=(5, 4))
    assert {fixed.reset(seed=seed)[1]["task"] for seed in range(5)} == {49}
    assert "it lasts until a `reset(seed=k)` without this option" in DOCUMENT
