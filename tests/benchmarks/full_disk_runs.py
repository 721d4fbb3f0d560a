"""Collect and train on disks of random sizes that fill up, then continue: what ends otherwise than in one line?

    python tests/benchmarks/full_disk_runs.py --runs 50

As root on Linux the disks are tmpfs mounts, else the system's limit on the size of a file stands for them. Every run
that did not fit is continued with room enough, and must end with the same histories, weights and losses as one that
was never disturbed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

import icrl_agents.training.loop  # noqa: F401 - here, not in every fork
from icrl_agents import HistoryStore
from icrl_agents.cli.app import app

ENV = "icrl/Darkroom3x3-v0"
ROOMY = 1 << 28
SMALL = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6, "episodes": 2, "batch_size": 4,
         "eval_every": 0, "checkpoint_every": 2, "dropout": 0.1}  # fmt: skip
SETS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


class Work(NamedTuple):
    """A command that writes `name`, what of it must be equal, and where it is seen that it was begun."""

    name: str
    words: Sequence[str]
    content: Callable[[Path], object]
    begun: str


def histories(path: Path) -> object:
    with HistoryStore(path) as store:
        return {f"{task} {name}": np.array(v).tobytes() for task in store for name, v in store[task].columns.items()}


def training(out: Path) -> object:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return (out / "model.safetensors").read_bytes(), [(row["update"], row["loss"]) for row in rows]


WORKS = (
    Work("h.h5", ("collect", "--env", ENV, "--source", "q-learning", "--streams", "300", "--episodes", "40"),
         histories, "h.h5.partial/header.h5"),
    Work("run", ("train", "ad", "--env", ENV, *SETS, "--updates", "8", "--device", "cpu"), training, "run/train.json"),
)  # fmt: skip


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


class Done(NamedTuple):
    """How a command ended; a negative code is a signal."""

    code: int
    stderr: str


def command(work: Work, folder: Path, *more: str, largest: int = ROOMY, fresh: bool = False) -> Done:
    """Run it with no file larger than `largest`, in a `fresh` process or in a fork, which has imported everything."""
    words = [*work.words, "-o", str(folder / work.name), *more]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))  # noqa: E731
    if fresh:
        whole = [sys.executable, "-m", "icrl_agents.cli", *words]
        done = subprocess.run(whole, capture_output=True, text=True, preexec_fn=limit)
        return Done(done.returncode, done.stderr)
    with tempfile.TemporaryFile("w+") as said:
        if not (child := os.fork()):
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            limit()
            _end(words)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return Done(code, said.read())


def _end(words: list[str]) -> None:
    """Run a command and end this process as a program ends, the exit handlers of C libraries included."""
    code = 1
    try:
        app(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    ctypes.CDLL(None).exit(code)


def judge(done: Done) -> str:
    """In which way it ended."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    if done.code < 0:
        return "signal"
    if "Traceback" in done.stderr or done.code == 1:
        return "traceback"
    if done.code == 0:
        return "fitted"
    full = any(word in done.stderr for word in ("No space left on device", "File too large"))
    return "one line" if len(lines) == 1 and full and len(lines[0]) < 400 else "other"


def attempt(work: Work, folder: Path, size: int, undisturbed: object, mounted: bool, fresh: bool) -> list[str]:
    """What came of the run that was short of room, and of its continuation."""
    first = command(work, folder, largest=ROOMY if mounted else size, fresh=fresh)
    found = [judge(first)]
    print(f"{work.words[0]} {size:9,} bytes: {found[0]}: {first.stderr.strip()[-300:]}", flush=True)
    if found[0] != "fitted":
        if mounted:
            subprocess.run(["mount", "-o", f"remount,size={ROOMY}", folder], check=True)
        again = command(work, folder, *(["--resume"] if (folder / work.begun).exists() else []), fresh=fresh)
        same = again.code == 0 and work.content(folder / work.name) == undisturbed
        found.append("resumed equal" if same else f"not resumed equal: {again.stderr}")
    if left := [path.name for path in folder.rglob("*") if path.suffix == ".tmp" or path.name == ".lock"]:
        found.append(f"left over: {left}")
    return found


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def try_runs(work: Work, runs: int, seed: int, mounted: bool, fresh: bool) -> Counter[str]:
    """How often a run, and its continuation, ended in which way."""
    rng, counts = random.Random(f"{seed} {work.name}"), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        assert not command(work, Path(place)).code
        undisturbed, found = work.content(Path(place) / work.name), sizes(Path(place))
    most = 3 * sum(found) if mounted else max(found)  # parts and states are there beside the result
    for _ in range(runs):
        size = rng.randrange(1000, most)
        with tempfile.TemporaryDirectory() as place, tmpfs(Path(place), size) if mounted else nullcontext():
            counts.update(attempt(work, Path(place), size, undisturbed, mounted, fresh))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limits", action="store_true", help="limits on the size of a file, as root too")
    parser.add_argument("--fresh", action="store_true", help="a process that imports everything for each command")
    args = parser.parse_args()
    mounted = os.geteuid() == 0 and not args.limits
    for work in WORKS:
        print(work.words[0], dict(try_runs(work, args.runs // len(WORKS), args.seed, mounted, args.fresh)), flush=True)


if __name__ == "__main__":
    main()
