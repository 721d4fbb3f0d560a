"""What a change of structure must not change: `record FILE` before it, `compare FILE` after it.

Six things, all through the public API and the command line: the weights of every method at seed 0, the actions of
every released agent with and without a planner, trainings of five updates, a collected store, the help of every
command, and the public names. `tests/equalities.json` holds the values of version 0.1.0 on PyTorch 2.13.0 (CPU,
x86-64); another build of PyTorch rounds differently, so record there before comparing there.

    python -m tests.equalities record before.json
    python -m tests.equalities compare before.json
"""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import torch
from gymnasium import spaces

import icrl_agents
from icrl_agents import METHODS, ICAgent, list_pretrained

COMMANDS = ("play", "envs", "agents", "collect", "marks", "train", "runs", "evaluate", "probe", "sets", "study")
COMMANDS += ("windows", "compare", "push", "annotate", "import", "export", "doctor")
SPACES = {
    "grid": (spaces.Box(0, 8, (2,), np.int32), spaces.Discrete(5)),
    "vector": (spaces.Box(-2.0, 2.0, (3,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)),
    "multi": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 3])),
}
TIMES = ("seconds", "tokens_per_s")
SHORT = ("--set", "updates=5", "--set", "batch_size=4", "--set", "rewards=fixed")  # of a training
TRAININGS = {
    "ad": (),
    "ad-dynamics": ("--set", "dynamics=true"),
    "dpt": (),
    "idt": (),
    "idt-dynamics": ("--set", "dynamics=true"),
    "cad": ("--set", "window=24", "--set", "slide=10", "--set", "latents=4", "--set", "folds=3"),
    "marked-ad": ("--source", "q-learning"),
    "marked-ad-inserted": ("--source", "q-learning", "--set", "layout=inserted"),
    "headless-ad": (),
}


def digest(named: dict[str, np.ndarray]) -> str:
    """A hash of names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name, value in sorted(named.items()):
        array = np.ascontiguousarray(value)
        total.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def initial_weights() -> dict[str, str]:
    """(a) The weights of every method at seed 0, with and without dynamics."""
    found = {}
    for method, cls in METHODS.items():
        for kind, (obs_space, action_space) in SPACES.items():
            for dynamics in (False, True):
                torch.manual_seed(0)
                try:
                    model = cls(
                        obs_space, action_space, cls.Config(dynamics=dynamics, head="gaussian", rewards="fixed")
                    )
                except ValueError:  # a method without dynamics, or without such actions
                    continue
                found[f"{method} {kind} dynamics={dynamics}"] = digest(weights(model))
    return found


def released_actions() -> dict[str, str]:
    """(b) What every released agent does in two seeded episodes, with and without a planner."""
    found = {}
    for name in list_pretrained():
        for plan in (None, "lookahead", "beam"):
            agent = ICAgent.from_pretrained(name, device="cpu")
            if plan is not None:
                try:
                    agent.use_plan(plan)
                except ValueError:  # weights without dynamics
                    continue
            found[f"{name} plan={plan}"] = digest(two_episodes(agent))
    return found


def two_episodes(agent: ICAgent) -> dict[str, np.ndarray]:
    env = gymnasium.make(agent.facts["env_id"])
    obs, _ = env.reset(seed=3)
    agent.reset(env, seed=4)
    actions, rewards = [], []
    for _ in range(2):
        over = False
        while not over:
            actions.append(agent.act(obs))
            obs, reward, terminated, truncated, info = env.step(actions[-1])
            agent.observe(obs, reward, terminated, truncated, info)
            rewards.append(reward)
            over = terminated or truncated
        obs, _ = env.reset()
    return {"actions": np.array(actions), "rewards": np.array(rewards)}


def run(*words: str) -> str:
    """The output of a command, which has to succeed."""
    settings = {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "icrl_agents", *words], capture_output=True, text=True, env=settings, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def trainings(folder: Path) -> dict[str, str]:
    """(c) Five updates of each method: metrics, without times, and weights."""
    found = {}
    for name, settings in TRAININGS.items():
        method, out = re.sub("-(dynamics|inserted)$", "", name), folder / name
        run("train", method, "--env", "icrl/Darkroom-v0", "-o", str(out), *SHORT, *settings, "--device", "cpu")
        lines = (out / "metrics.jsonl").read_text().splitlines()
        found[f"{name} metrics"] = [
            {key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines
        ]
        found[f"{name} weights"] = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()[:16]
        config = json.loads((out / "config.json").read_text())
        found[f"{name} config"] = sorted(config), sorted(config["facts"])
    return json.loads(json.dumps(found))


def stores(folder: Path) -> dict[str, object]:
    """(d) Collected stores: the names and values of all data sets and attributes, without times and versions."""
    found = {}
    for env, source in (("icrl/Darkroom3x3-v0", "q-learning"), ("icrl/BernoulliBandit-v0", "thompson")):
        path = folder / f"{source}.h5"
        run("collect", "--env", env, "--source", source, "-o", str(path), "--streams", "2", "--episodes", "2", *TASKS)
        with h5py.File(path) as store:
            arrays: dict[str, np.ndarray] = {}
            store.visititems(
                lambda name, item, arrays=arrays: arrays.update({name: item[()]} if hasattr(item, "dtype") else {})
            )
            found[f"{source} columns"] = sorted(f"{name} {value.dtype} {value.shape}" for name, value in arrays.items())
            found[f"{source} values"] = digest({n: v for n, v in arrays.items() if v.dtype.kind in "biuf"})
            found[f"{source} attributes"] = sorted(store.attrs)
    return found


TASKS = ("--split", "test")


def helps() -> dict[str, str]:
    """(e) The help of every command."""
    return {name: re.sub(r"\s+", " ", run(name, "--help")) for name in COMMANDS}


def names() -> dict[str, object]:
    """(f) The public names."""
    return {"__all__": sorted(icrl_agents.__all__)}


def record() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(name)
        return {
            "weights": initial_weights(),
            "actions": released_actions(),
            "trainings": trainings(folder),
            "stores": stores(folder),
            "help": helps(),
            "names": names(),
        }


def differences(before: dict, after: dict) -> list[str]:
    """One line for each value that is not as it was."""
    return [
        f"{part}: {name}"
        for part in before
        for name in sorted(before[part].keys() | after[part].keys())
        if before[part].get(name) != after[part].get(name)
    ]


def main(what: str, path: str) -> None:
    if what == "record":
        Path(path).write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n")
        return
    before = json.loads(Path(path).read_text())
    after = json.loads(json.dumps(record()))
    found = differences(before, after)
    print("\n".join(found) or f"equal: {', '.join(f'{len(values)} {part}' for part, values in before.items())}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
