"""Training on histories four times larger than the memory limit of the process, against a part of them in memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_streaming.py [LIMIT_MB] [UPDATES] [POOL_MB]

The limit (1,000 MB) is the process's own RLIMIT_DATA, which the kernel enforces. The histories are lifetimes of
icrl/PointRobot-v0 of 1,000 steps, those of 16 tasks copied to many. Each training is a process of its own: in memory on
one shard, and streamed from all of them, in turns. Rates are tokens a second of the clock, and of CPU time, which
includes the reading thread and holds on a machine with other work; both are without the start. The pool of 64 MB makes
the stream read several groups in a short measurement; what it reads per update is the same for any pool.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
from accelerate.tracking import GeneralTracker

from icrl_agents import collect, train
from icrl_agents.core.splits import split_tasks
from icrl_agents.histories.shards import HistoryShards, shard_files

ID, MB = "icrl/PointRobot-v0", 1 << 20
STREAMS, EPISODES, REAL = 64, 50, 16
SETTINGS = {"width": 32, "layers": 2, "heads": 2, "window": 200, "slide": 50, "eval_every": 0, "checkpoint_every": 0}
SKIPPED = 10  # updates before the measurement
TIMES = 2  # trainings of each kind


def make(folder: Path, limit: int) -> list[Path]:
    """Shards of four times the limit; each takes less than half of it."""
    tasks = split_tasks(ID).train.ids.tolist()
    real = collect(ID, None, folder / "real.h5.base", tasks=tasks[:REAL], streams=STREAMS, episodes=EPISODES)
    with HistoryShards(real) as shards, h5py.File(real) as source:
        one = shards.index(tasks[:REAL])[0].nbytes
        count, size = 4 * limit * MB // one + 1, int(0.4 * limit * MB) // one
        for path, ids in shard_files(folder / "all.h5", tasks[:count], size).items():
            with h5py.File(path, "w", libver="v110") as file:
                shards.info.write(file)
                for number, task in enumerate(ids):
                    source.copy(str(tasks[number % REAL]), file, str(task))
    return sorted(folder.glob("*.h5"))


class Clock(GeneralTracker):
    """Keeps the time at which each update ended, of the clock and of the CPU."""

    name, requires_logging_directory = "clock", False

    def __init__(self) -> None:
        super().__init__(_blank=True)
        self.times: list[tuple[float, float]] = []

    @property
    def tracker(self) -> Clock:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None, **kwargs: Any) -> None:
        self.times.append((time.perf_counter(), time.process_time()))

    def rates(self) -> dict[str, float]:
        (start, cpu), (end, cpu_end) = self.times[SKIPPED], self.times[-1]
        tokens = (len(self.times) - SKIPPED - 1) * 32 * SETTINGS["window"]
        return {"clock": tokens / (end - start), "cpu": tokens / (cpu_end - cpu)}


def in_child(histories: list[str], out: str, limit: int, updates: int, pool: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit * MB, limit * MB))
    clock, settings = Clock(), {**SETTINGS, "updates": updates, "threads": 1, "pool": pool}
    train("ad", ID, out, histories=histories, settings=settings, device="cpu", quiet=True, track=[clock])
    print(json.dumps({**clock.rates(), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measured(histories: list[Path], out: Path, *numbers: int) -> dict[str, float]:
    """Train in a process with the memory limit; returns its rates in tokens a second and its peak in MB."""
    words = [sys.executable, __file__, "train", *map(str, histories), str(out), *map(str, numbers)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(limit: int = 1000, updates: int = 120, pool: int = 64) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make(folder, limit)
        stored = sum(path.stat().st_size for path in shards) / MB
        print(f"limit {limit} MB, histories of {4 * limit:,} MB: {len(shards)} shards, {stored:,.0f} MB", flush=True)
        found: dict[str, list[dict[str, float]]] = {"in memory": [], "streamed": []}
        for number in range(TIMES):
            for kind, files, size in (("in memory", shards[:1], 0), ("streamed", shards, pool)):
                found[kind].append(measured(files, folder / f"{kind}{number}", limit, updates, size))
                print(kind, {name: round(value) for name, value in found[kind][-1].items()}, flush=True)
        for name in ("clock", "cpu"):
            seconds = [sum(1 / run[name] for run in found[kind]) for kind in ("in memory", "streamed")]
            print(f"ratio by {name}: {seconds[0] / seconds[1]:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        *files, out, limit, updates, pool = sys.argv[2:]
        in_child(files, out, int(limit), int(updates), int(pool))
    else:
        main(*(int(argument) for argument in sys.argv[1:]))
