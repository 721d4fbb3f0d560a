"""Many damaged checkpoints and stores, each loaded and used: `python -m tests.fuzz checkpoints 10000 --seed 0`.

A case is valid (it works), refused (one printable line of ValueError or OSError that names the file), or a fault:
another error, a worse message, a hang, a crash, or memory beyond `MEMORY`. Faults are listed with their number, and
`--only NUMBER` shows one with its traceback.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from icrl_agents import HistoryStore, ICAgent, collect, train
from icrl_agents.core.files.bundled import bundled
from icrl_agents.hub.cards import make_card
from icrl_agents.methods import METHODS
from icrl_agents.training.windows import StoreWindows, WindowSpec
from tests.fakes import OWN, SMALL
from tests.mutations import copy_of, mutate_checkpoint, mutate_store, pick

MEMORY = 2 << 30  # bytes beyond those of the process before
SECONDS = 30
MAX_MESSAGE = 400
WHOLE = 40  # every so many stores, `train` runs from its checks to its card


class Outcome(NamedTuple):
    """What became of a case: "valid", "refused" or a fault."""

    kind: str
    did: str
    text: str = ""


# ---- what is damaged, and how it is used ----------------------------------------------------------------------------


class Checkpoints:
    """Bundled agents and a tiny one of each method."""

    def __init__(self, home: Path):
        self.home, self.sources = home, sorted(path for path in bundled("model_cards").iterdir() if path.is_dir())

    def case(self, number: int, rng: np.random.Generator) -> tuple[str, Path, Callable[[], None]]:
        folder = copy_of(pick(rng, self.sources), self.home / "agent")
        did = mutate_checkpoint(folder, rng)
        return did, folder, lambda: use_checkpoint(folder)


def use_checkpoint(folder: Path) -> None:
    """Load, act as one and as two, write the card."""
    agent = ICAgent.from_pretrained(folder, device="cpu")
    for rows in (None, 2):
        agent.reset(num_envs=rows, seed=0)
        for _ in range(2):
            obs = [agent.observation_space.sample() for _ in range(rows or 1)]
            action = agent.act(np.stack(obs) if rows else obs[0])
            ended = np.zeros(rows, bool) if rows else False
            agent.observe(np.stack(obs) if rows else obs[0], np.full(rows, 0.5) if rows else 0.5, ended, ended, {})
            assert agent.action_space.contains(action[0] if rows else action), action
    make_card(folder, METHODS)


STORES = {
    "rooms": ("icrl/Darkroom3x3-v0", "posterior", ("ad", "dpt", "cad", "idt", "headless-ad")),
    "sets": ("icrl/DarkroomMacro-v0", "noise", ("ad", "headless-ad", "marked-ad", "dpt")),
    "learner": ("icrl/Darkroom3x3-v0", "q-learning", ("ad", "marked-ad", "cad")),
    "vectors": ("icrl/DarkKeyToDoor-v0", "noise", ("ad", "idt")),
}


class Stores:
    """Small stores of several environments and sources."""

    def __init__(self, home: Path):
        self.home = home
        for name, (env_id, source, _) in STORES.items():
            path = home / f"{name}.base"
            if not path.exists():  # made by an earlier worker
                collect(env_id, source, path, tasks=[1, 2, 5], streams=2, episodes=3, seed=0)

    def case(self, number: int, rng: np.random.Generator) -> tuple[str, Path, Callable[[], None]]:
        name = pick(rng, list(STORES))
        env_id, _, methods = STORES[name]
        method, original = pick(rng, methods), self.home / f"{name}.base"
        path = copy_of(original, self.home / "histories.h5")
        with HistoryStore(original) as store:
            spaces = store.spaces
        did = mutate_store(path, rng)
        if number % WHOLE == 0:
            return f"train {did}", path, lambda: use_whole(path, env_id, method, self.home / "run")
        return f"{method} {did}", path, lambda: use_store(path, method, spaces)


def use_store(path: Path, method: str, spaces: Any) -> None:
    """Read all, begin with a history, compute the gradients of some batches."""
    torch.manual_seed(0)
    agent = ICAgent(METHODS[method](*spaces, METHODS[method].Config(**SMALL, **OWN.get(method, {}))))
    with HistoryStore(path) as store:
        tasks = store.tasks
        windows = StoreWindows(store, tasks, WindowSpec(agent.config.span, 8, 0, agent.method.episode_aligned), spaces)
        history = store[tasks[0], 0]
    rng = np.random.default_rng(0)
    for update in range(2):
        batch = agent.method.prepare_batch(windows.batch(update), rng)
        sum(agent.method.loss(agent.method.tensors(batch)).values()).backward()
    agent.eval().reset(history=history, seed=0)
    agent.act(history.obs[0, -1])


def use_whole(path: Path, env_id: str, method: str, out: Path) -> None:
    sizes = {**SMALL, **OWN.get(method, {}), "updates": 1, "batch_size": 4, "eval_every": 0, "checkpoint_every": 0}
    shutil.rmtree(out, ignore_errors=True)
    train(method, env_id, out, histories=path, settings=sizes, quiet=True)


# ---- running ---------------------------------------------------------------------------------------------------------


def judge(path: Path, did: str, use: Callable[[], None]) -> Outcome:
    try:
        use()
    except (ValueError, OSError) as error:
        text = str(error)
        names = path.name in text or text.startswith("the model's output")  # acting knows no file
        clear = text.isprintable() and 20 < len(text) <= MAX_MESSAGE and names
        return Outcome("refused" if clear else "bad message", did, f"{type(error).__name__}: {text[:600]}")
    except Exception as error:
        return Outcome(type(error).__name__, did, f"{str(error)[:300]}\n{traceback.format_exc()[-1500:]}")
    return Outcome("valid", did)


def run(cases: Any, number: int, seed: int) -> Outcome:
    did, path, use = cases.case(number, np.random.default_rng([seed, number]))
    return judge(path, did, use)


def _work(kind: type, home: Path, seed: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    cases = kind(home)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    pipe.send(None)
    while (number := pipe.recv()) is not None:
        faulthandler.dump_traceback_later(0.8 * SECONDS)  # tells where it hangs
        pipe.send(run(cases, number, seed))
        faulthandler.cancel_dump_traceback_later()
    os._exit(0)


class Worker:
    """A process of its own, which may hang or crash."""

    def __init__(self, kind: type, home: Path, seed: int):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=_work, args=(kind, home, seed, theirs))
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def ask(self, number: int) -> Outcome:
        self.pipe.send(number)
        if not self.pipe.poll(SECONDS):
            self.process.kill()
            return Outcome("hang", f"longer than {SECONDS} s")
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return Outcome("crash", f"exit code {self.process.exitcode}")


def outcomes(kind: type, numbers: range, seed: int, home: Path) -> Iterator[tuple[int, Outcome]]:
    worker = None
    for number in numbers:
        worker = worker or Worker(kind, home, seed)
        outcome = worker.ask(number)
        yield number, outcome
        if outcome.kind in ("hang", "crash"):
            worker = None
    if worker:
        worker.pipe.send(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["checkpoints", "stores"])
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    kind = {"checkpoints": Checkpoints, "stores": Stores}[given.what]
    began, counts = time.perf_counter(), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as home:
        if given.only is not None:
            print(*run(kind(Path(home)), given.only, given.seed), sep="\n")
            return
        for number, outcome in outcomes(kind, range(given.first, given.first + given.count), given.seed, Path(home)):
            counts[outcome.kind] += 1
            if outcome.kind not in ("valid", "refused"):
                print(f"--- {number} {outcome.kind}: {outcome.did}\n{outcome.text}", flush=True)
            if number % 1000 == 999:
                print(f"{number + 1}: {dict(counts)}, {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{given.what}, seed {given.seed}: {sum(counts.values())} cases, {dict(counts)}")
    raise SystemExit(len(counts.keys() - {"valid", "refused"}))


if __name__ == "__main__":
    main()
