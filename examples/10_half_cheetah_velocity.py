"""The half-cheetah at a hidden velocity: one SAC that observes the target is the expert of all tasks.

The agent does not observe it. Its histories act for some steps as the expert of one target, then of another (source
wrong-goal), and hold the actions of the right expert as labels. What SAC does is recorded too, for
example 15, with the target in the observation. (Needs the extras train and mujoco.)
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
from icrl_envs import find_family
from safetensors.torch import load_file, save_file
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from icrl_agents import collect, evaluate, train

ENV_ID, GOAL_ID, FOLDER = "icrl/HalfCheetahVel-v0", "icrl/HalfCheetahVelGoal-v0", Path("runs/half-cheetah")
SEED, TASKS, HELD_OUT = 0, None, None  # ids of tasks to train on and to measure; None: those of the split
EXPERT_STEPS = {"medium": 25_000, "expert": 100_000}  # training of the SAC, which is kept after each of them
STREAMS, EPISODES = 4, 3  # histories of each task, and their episodes
SOURCE, NOISE = {"hold": 25, "right_end": 0.3}, {"start": 0.3, "end": 0.3, "spread": 0.0}  # NOISE: of the recordings
SETTINGS = {"window": 600, "slide": 100, "width": 64, "inner": 128, "batch_size": 16, "updates": 1500}
SETTINGS |= {"seed": SEED, "eval_every": 0, "threads": 1}  # validation would take longer than the training


class ManyTargets(gymnasium.Wrapper):
    """For the training of the expert: another training target in every episode."""

    def __init__(self):
        super().__init__(gymnasium.make(GOAL_ID))
        self.tasks, self.rng = list(find_family(ENV_ID).tasks.split()[0]), np.random.default_rng(SEED)

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options={"task": self.tasks[self.rng.integers(len(self.tasks))]})


def make_expert(name="expert"):
    """What SAC has learned after so many steps, a function of observations and tasks; it is trained once."""
    files = {name: FOLDER / f"{name}.safetensors" for name in EXPERT_STEPS}
    model = SAC("MlpPolicy", make_vec_env(ManyTargets, 1, seed=SEED), learning_starts=1000, seed=SEED, device="cpu")
    if not files["expert"].exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        for stage, steps in EXPERT_STEPS.items():
            model.learn(steps - model.num_timesteps, reset_num_timesteps=False)
            save_file(model.policy.state_dict(), files[stage])
    model.policy.load_state_dict(load_file(files[name]))

    def expert(obs, tasks):  # (B, 17) or, with the target, (B, 18)
        told = np.hstack([obs[:, :17], [[task["velocity"]] for task in tasks]])
        return model.predict(told.astype(np.float32), deterministic=True)[0]

    return expert


def main():
    expert, tasks = make_expert(), TASKS or find_family(ENV_ID).tasks.split()[0].ids
    for name in EXPERT_STEPS:
        collection = {"tasks": tasks, "streams": 1, "episodes": 2, "seed": SEED, "settings": NOISE}
        collect(GOAL_ID, "noise", FOLDER / f"{name}.h5", expert=make_expert(name), overwrite=True, **collection)
    collection = {"tasks": TASKS, "streams": STREAMS, "episodes": EPISODES, "seed": SEED, "settings": SOURCE}
    histories = collect(ENV_ID, "wrong-goal", FOLDER / "histories.h5", expert=expert, overwrite=True, **collection)
    agent = train("dpt", ENV_ID, FOLDER / "agent", histories=histories, settings=SETTINGS, overwrite=True)
    protocol, nothing = {"tasks": HELD_OUT, "episodes": EPISODES, "num_seeds": 1}, lambda *result, **more: None
    curves = [evaluate(agent, ENV_ID, **protocol)]
    for name, told in (("expert", lambda row: row[17]), ("expert of 1.5 m/s", lambda row: 1.5)):
        act = partial(lambda obs, told: expert(obs, [{"velocity": told(row)} for row in obs]), told=told)
        other = SimpleNamespace(reset=nothing, act=act, observe=nothing)
        curves.append(evaluate(other, GOAL_ID, name=name, **protocol))
    for curve in curves:
        print(f"{curve.name}: episode 1 {curve.at(1)}, last {curve.at(EPISODES)}, random {curve.random.mean()}")
    return curves


if __name__ == "__main__":
    main()
