"""PPO and SAC: trainings of Stable-Baselines3, recorded with true final observations. Axis letter: B rows."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn
from icrl_agents.core.spaces import box_range
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.nn.numerics import own_settings, threads
from icrl_agents.sources.source import Source, SourceSettings


@dataclass(frozen=True)
class PPOSettings(SourceSettings):
    """Defaults are the published values for the dark room; `PPO_PRESETS` overrides them for other environments."""

    n_steps: int = 20  # steps of each row between two updates
    batch_size: int = 50  # steps in a gradient step
    n_epochs: int = 20  # passes over the collected steps in an update
    learning_rate: float = 3e-4  # learning rate of Adam
    gamma: float = 0.99  # discount of later rewards
    gae_lambda: float = 0.95  # lambda of generalised advantage estimation
    clip_range: float = 0.2  # maximum change of the probability ratio
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # max gradient norm
    bootstrap: bool = False  # whether truncated episodes bootstrap from their final observation; published: no

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "n_steps": (2, 1_000_000),
        "batch_size": (2, 1_000_000),
        "n_epochs": (1, 10_000),
        "max_grad_norm": (0.0, 1e6),
    }


@dataclass(frozen=True)
class SACSettings(SourceSettings):
    """Defaults are those of Stable-Baselines3, with a smaller buffer and a gradient step for each step of a row."""

    learning_rate: float = 3e-4  # learning rate of Adam
    buffer_size: int = 200_000  # steps of all rows in the replay buffer
    learning_starts: int = 100  # random steps of all rows before the first update
    batch_size: int = 256  # steps in a gradient step
    tau: float = 0.005  # rate at which the target network follows
    gamma: float = 0.99  # discount of later rewards
    train_freq: int = 1  # steps of each row between two training rounds
    gradient_steps: int = -1  # gradient steps in a training round; -1: one for each step of a row, as published
    bootstrap: bool = True  # whether truncated episodes bootstrap from their final observation

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "buffer_size": (1, 100_000_000),
        "learning_starts": (0, 1_000_000),
        "batch_size": (2, 1_000_000),
        "train_freq": (1, 1_000_000),
        "gradient_steps": (-1, 10_000),
    }


Presets = dict[str, dict[str, Any]]  # settings of environments by a pattern of their ids, the first that fits

PPO_PRESETS: Presets = {
    "icrl/DarkroomPermuted-v0": {"n_steps": 50},
    "icrl/DarkKeyToDoor-v0": {"n_steps": 50, "batch_size": 100, "n_epochs": 10},
    "icrl/Darkroom17x17-v0": {"n_steps": 50},
    "icrl/Darkroom10x10-v0": {"n_steps": 100},
    "icrl/MetaWorld*": {"n_steps": 100, "batch_size": 200, "bootstrap": True},
}
SAC_PRESETS: Presets = {  # the public code; the table of its paper has train_freq=10 and gradient_steps=1
    "icrl/MetaWorld*": {"buffer_size": 1_000_000, "batch_size": 128, "gradient_steps": 10},
}


class SB3Source(Source):
    """One learner of Stable-Baselines3 shared by all rows, which are streams of one task."""

    assumes = "nothing but the spaces; it takes hundreds of episodes, shared by all streams of a task."
    algorithm: ClassVar[type[BaseAlgorithm]]
    presets: ClassVar[Presets]
    one_task = True
    packages = ("stable-baselines3", "torch")

    @classmethod
    def preset(cls, env_id: str) -> Mapping[str, Any]:
        return next((found for pattern, found in cls.presets.items() if fnmatchcase(env_id, pattern)), {})

    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        knobs = asdict(self.settings)
        del knobs["changes"], knobs["late"]  # the environment's
        adapter = Adapter(env, seed, options, bootstrap=knobs.pop("bootstrap"))
        with own_settings(), threads(1), _global_generators():  # one thread: the same result on any machine
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)  # see PPOSource
                model = self.algorithm("MlpPolicy", adapter, seed=seed, device="cpu", **knobs)
            model.learn(sys.maxsize, callback=Recorder(env, adapter, episodes))


class PPOSource(SB3Source):
    """PPO (Schulman et al. 2017): one learner shared by all rows, which are streams of one task, as published.

    History columns: `update`, the number of policy updates before the action, and `log_prob` of the action before
    it is clipped to a Box.
    """

    Settings = PPOSettings
    algorithm = PPO
    presets = PPO_PRESETS

    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        steps, batch, rows = self.settings.n_steps, self.settings.batch_size, env.num_envs
        if rest := steps * rows % batch:
            warn(
                f"batch_size={batch} does not divide n_steps={steps} * {rows} streams = {steps * rows}: the last "
                f"gradient step of each pass has {rest} steps; give a batch_size, n_steps or streams that fit"
            )
        super().run(env, episodes, seed, options)


class SACSource(SB3Source):
    """SAC (Haarnoja et al. 2018, arXiv 1812.05905) for bounded Box actions: one learner shared by all rows.

    History column: `update`, the number of training rounds before the action. Its first `learning_starts` actions are
    uniformly random.
    """

    Settings = SACSettings
    algorithm = SAC
    presets = SAC_PRESETS

    def run(self, env: RecordHistory, episodes: int, seed: int, options: dict[str, Any] | None = None) -> None:
        box = box_range(env.single_action_space)
        if box is None or not np.isfinite([box.low, box.high]).all():
            space = printable(env.single_action_space)
            raise ValueError(f"source 'sac' needs a bounded Box of float actions, the env has {space}: use 'ppo'")
        super().run(env, episodes, seed, options)


@contextmanager
def _global_generators() -> Iterator[None]:
    """Restore the process-wide generators, which SB3 seeds."""
    numpy_random = np.random.mtrand._rand  # the generator behind np.random.seed
    states = random.getstate(), numpy_random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy_random.set_state(states[1])
        torch.set_rng_state(states[2])


class Recorder(BaseCallback):
    """Records `update` and, of PPO, `log_prob` of each step; stops once every row has finished its lifetime."""

    def __init__(self, env: RecordHistory, adapter: Adapter, episodes: int):
        super().__init__()
        self.history, self.adapter, self.episodes = env, adapter, episodes
        self.update = 0

    def _on_rollout_start(self) -> None:
        # SB3 trains after each rollout, off-policy learners once they have enough steps
        self.update += self.num_timesteps > getattr(self.model, "learning_starts", 0)

    def _on_step(self) -> bool:
        known = {"log_prob": self.locals["log_probs"].numpy()} if "log_probs" in self.locals else {}
        self.history.note(update=self.update, **known)
        return bool(self.adapter.episode.min() < self.episodes)


class Adapter(VecEnv):
    """Gymnasium vector env (SAME_STEP) with SB3's interface: final observations are in `terminal_observation`."""

    def __init__(self, env: RecordHistory, seed: int, options: dict[str, Any] | None, bootstrap: bool):
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"sources 'ppo' and 'sac' need autoreset_mode SAME_STEP, not {env.metadata.get('autoreset_mode')}"
            )
        self.env, self.bootstrap = env, bootstrap
        self.first_reset: dict[str, Any] = {"seed": seed, "options": options}
        self.episode = np.zeros(env.num_envs, np.int64)  # (B,) finished episodes
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        return self.env.reset(**self.first_reset)[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        obs, reward, terminated, truncated, info = self.env.step(self.actions)
        done = terminated | truncated
        self.episode += done
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(done):
            infos[row]["terminal_observation"] = info["final_obs"][row]
            infos[row]["TimeLimit.truncated"] = self.bootstrap and bool(truncated[row] and not terminated[row])
        return obs, np.array(reward, np.float32), done, infos

    def close(self) -> None:
        """The environment belongs to the caller."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"cannot set {attr_name!r}: the rows of a vector env have no attributes of their own")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(f"cannot call {method_name!r}: the rows of a vector env have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(self._indices(indices))

    def _indices(self, indices: Any) -> Sequence[int]:
        return list(self._get_indices(indices))
