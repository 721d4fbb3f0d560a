"""Gymnasium's CartPole with hidden physics: gravity, the length of the pole, and the side that a push goes to.

The expert is a PPO that observes the physics. The agent does not: it learns from the expert's labels to infer them.
The rival is a PPO without the physics, trained for about as long as expert and agent together.

    python examples/08_cartpole_hidden_physics.py
"""

import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
from icrl_envs import find_family, register_family
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from icrl_agents import evaluate, train

ENV_ID, TASKS, FOLDER = "CartPole-v1", Path(__file__).with_suffix(".toml"), Path("runs/cartpole")
SEED, LIVES = 0, 2  # seed of everything; lifetimes on each held-out task
EXPERT_STEPS, RIVAL_STEPS = 200_000, 500_000
SETTINGS = {"source": "noise", "source.start": 0.5, "source.spread": 0.1, "episodes": 5, "updates": 300, "lr": 3e-3,
            "width": 32, "inner": 64, "layers": 3, "window": 200, "slide": 60, "batch_size": 16, "eval_every": 0,
            "threads": 1}  # fmt: skip


def tell(obs, tasks):
    """Observations (B, 4) and what is hidden (B, 3), side by side."""
    physics = [(task["gravity"] / 10, 5 * task["length"], np.sign(task["force_mag"])) for task in tasks]
    return np.hstack([obs, np.array(physics, np.float32)])


class ManyTasks(gymnasium.ObservationWrapper):
    """Another training task in every episode, which a policy sees if it is `told`."""

    def __init__(self, told):
        family = find_family(ENV_ID)
        super().__init__(gymnasium.make(ENV_ID, max_episode_steps=family.horizon))
        self.told, self.tasks = told, [family.task_kwargs(task) for task in family.tasks.split()[0].ids]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (7 if told else 4,))

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self.task = self.tasks[self.np_random.integers(len(self.tasks))]
        for name in self.task.keys() - {"max_episode_steps"}:
            setattr(self.unwrapped, name, self.task[name])
        return self.observation(obs), info

    def observation(self, obs):
        return tell(obs[None], [self.task])[0] if self.told else obs


def train_ppo(told, steps):
    """PPO's most probable actions, as a function of what it observes."""
    rows, sizes = make_vec_env(lambda: ManyTasks(told), 16, seed=SEED), {"n_steps": 64, "batch_size": 256}
    model = PPO("MlpPolicy", rows, 1e-3, **sizes, gamma=0.98, gae_lambda=0.9, seed=SEED, device="cpu").learn(steps)
    return lambda obs: model.predict(obs, deterministic=True)[0]


def main():
    began = time.time()
    register_family(ENV_ID, **tomllib.loads(TASKS.read_text()))
    acting = {"reset": lambda env, seed: None, "observe": lambda *result: None}  # without a memory
    rival = SimpleNamespace(act=train_ppo(told=False, steps=RIVAL_STEPS), **acting)
    expert = train_ppo(told=True, steps=EXPERT_STEPS)
    settings = {**SETTINGS, "seed": SEED, "source.expert": lambda obs, tasks: expert(tell(obs, tasks))}
    agent = train("dpt", ENV_ID, FOLDER, settings=settings, device="cpu", overwrite=True)
    curves = [evaluate(agent, ENV_ID, num_seeds=LIVES), evaluate(rival, ENV_ID, num_seeds=LIVES, name="PPO, not told")]
    for curve in curves:  # with 95% intervals over the held-out tasks
        print(f"{curve.name:14} episode 1: {curve.at(1)}  2: {curve.at(2)}  5: {curve.at(5)}")
    print(f"{(time.time() - began) / 60:.1f} minutes")
    return curves


if __name__ == "__main__":
    main()
