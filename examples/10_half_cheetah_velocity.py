"""The half-cheetah at a hidden velocity: one SAC that observes the target is the expert of all tasks.

The agent does not observe it. Its histories act for some steps as the expert of one target, then of another (source
wrong-goal), and hold the actions of the right expert as labels. (Needs the extras train and mujoco.)
"""

from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
from icrl_envs import find_family
from safetensors.torch import load_file, save_file
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from icrl_agents import collect, evaluate, train

ENV_ID, FOLDER = "icrl/HalfCheetahVel-v0", Path("runs/half-cheetah")
SEED, TASKS, HELD_OUT = 0, None, None  # ids of tasks to train on and to measure; None: those of the split
EXPERT_STEPS = (25_000, 100_000)  # training of the SAC; it is kept after each of them, the last is the expert
STREAMS, EPISODES = 4, 3  # histories of each task, and their episodes
SOURCE = {"hold": 25, "right_end": 0.3}
SETTINGS = {"window": 600, "slide": 100, "width": 64, "inner": 128, "batch_size": 16, "updates": 1500}
SETTINGS |= {"seed": SEED, "eval_every": 0, "threads": 1}  # validation would take longer than the training


class ManyTargets(gymnasium.Wrapper):
    """For the training of the expert: another training target in every episode, and in the observation."""

    def __init__(self):
        super().__init__(gymnasium.make("icrl/HalfCheetahVelGoal-v0"))
        self.tasks, self.rng = list(find_family(ENV_ID).tasks.split()[0]), np.random.default_rng(SEED)

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options={"task": self.tasks[self.rng.integers(len(self.tasks))]})


def make_expert(steps=None):
    """What SAC has learned after so many steps, a function of observations and tasks; it is trained once."""
    files = {number: FOLDER / f"expert-{number}.safetensors" for number in EXPERT_STEPS}
    model = SAC("MlpPolicy", make_vec_env(ManyTargets, 1, seed=SEED), learning_starts=1000, seed=SEED, device="cpu")
    if not files[EXPERT_STEPS[-1]].exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        for number, file in files.items():
            model.learn(number - model.num_timesteps, reset_num_timesteps=False)
            save_file(model.policy.state_dict(), file)
    model.policy.load_state_dict(load_file(files[steps or EXPERT_STEPS[-1]]))

    def expert(obs, tasks):  # (B, 17) or, with the target, (B, 18)
        told = np.hstack([obs[:, :17], [[task["velocity"]] for task in tasks]])
        return model.predict(told.astype(np.float32), deterministic=True)[0]

    return expert


def main():
    expert, envs = make_expert(), []
    how = {"tasks": TASKS, "streams": STREAMS, "episodes": EPISODES, "seed": SEED, "settings": SOURCE, "expert": expert}
    histories = collect(ENV_ID, "wrong-goal", FOLDER / "histories.h5", overwrite=True, **how)
    agent = train("dpt", ENV_ID, FOLDER / "agent", histories=histories, settings=SETTINGS, overwrite=True)
    informed = SimpleNamespace(  # the expert, which reads the targets of the environments
        reset=lambda env, seed: envs.extend([env.unwrapped.envs]),
        act=lambda obs: expert(obs, [{"velocity": row.unwrapped.velocity} for row in envs[-1]]),
        observe=lambda *result: None,
    )
    how = {"tasks": HELD_OUT, "episodes": EPISODES, "num_seeds": 1}
    curves = [evaluate(agent, ENV_ID, **how), evaluate(informed, ENV_ID, name="expert", **how)]
    for curve in curves:
        print(f"{curve.name}: episode 1 {curve.at(1)}, last {curve.at(EPISODES)}, random {curve.random.mean()}")
    return curves


if __name__ == "__main__":
    main()
