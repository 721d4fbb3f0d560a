"""PSRL on tables: it solves small mazes of holes soon, in every autoreset mode, and knows its limits."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.sources import make_source

MAPS = [
    ["SFFF", "FHFH", "FFFH", "HFFG"],
    ["SFFF", "FFHF", "FHFF", "FFFG"],
    ["SHFF", "FFFH", "FHFF", "FFHG"],
    ["SFHF", "HFFF", "HHHF", "GFFF"],
]


def success(name: str, episodes: int, mode=AutoresetMode.SAME_STEP, slippery=False, rows=32, **settings) -> np.ndarray:
    """Mean return (E,) of each episode."""
    makers = [
        lambda number=number: gymnasium.make("FrozenLake-v1", desc=MAPS[number % 4], is_slippery=slippery)
        for number in range(rows)
    ]
    env = RecordHistory(SyncVectorEnv(makers, autoreset_mode=mode))
    make_source(name, "FrozenLake-v1", settings).run(env, episodes, 0)
    steps = env.steps(episodes)
    ended = (steps.terminated | steps.truncated) & steps.mask
    return np.mean([steps.reward[row][ended[row]] for row in range(rows)], 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_it_solves_lakes_in_a_few_episodes(mode):
    curve = success("psrl", 16, mode)
    assert curve[:2].mean() < 0.3
    assert curve[9:].mean() > 0.85
    assert curve[-3:].mean() > 0.95


@pytest.mark.slow
def test_it_is_ahead_of_q_learning():
    psrl, other = (success(name, 12)[7:].mean() for name in ("psrl", "q-learning"))
    assert psrl > other + 0.15


def test_what_is_seen_is_in_the_tables():
    env = RecordHistory(gymnasium.make_vec("icrl/Darkroom3x3-v0", 2))
    learner = make_source("psrl", "icrl/Darkroom3x3-v0", {"doubt": 0.5})
    learner.run(env, 2, 0, {"task": np.array([4, 0])})
    steps = env.steps(2)
    assert learner.counts[..., :-1].sum((1, 2, 3)).tolist() == [12, 12]
    np.testing.assert_array_equal(learner.counts[..., -1], 0.5)
    assert learner.paid.sum((1, 2)).tolist() == steps.reward.sum(1).tolist()
    place = learner.index(steps.obs[0, :1])[0], steps.action[0, 0]
    assert learner.counts[0, *place, learner.index(steps.next_obs[0, :1])[0]] >= 1


def test_large_tables_are_refused():
    env_id = "icrl/Darkroom17x17-v0"
    with pytest.raises(ValueError, match=r"'psrl' is for small tables, the env has 289 observations and 5 actions"):
        make_source("psrl", env_id).run(RecordHistory(gymnasium.make_vec(env_id, 2)), 1, 0)
