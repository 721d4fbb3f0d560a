"""Where jobs run: in this process, in worker processes of this machine, on a Ray cluster, or on SLURM.

A job is a function of its arguments alone (a block of tasks and its seed), so that it can run anywhere and be repeated
after a machine fails, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from icrl_agents.core.checks import check_choice
from icrl_agents.core.families import Registration
from icrl_agents.core.printable import printable
from icrl_agents.core.process.jobs.worker_pool import worker_pool

BACKENDS = ("local", "ray", "slurm")
QUEUED = 1000  # most jobs in the queue of SLURM
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Backend:
    """Where jobs run, and what each of them gets there.

    Args:
        name: one of `BACKENDS`.
        address: of a Ray cluster, as `ray.init` takes it; None: RAY_ADDRESS, a cluster that runs on this machine, or
            one that is started for the call.
        resources: of one job: options of a Ray task, such as num_cpus and num_gpus, or parameters of submitit, such as
            slurm_partition and timeout_min.

    Raises:
        ValueError: an unknown name, or values that the backend does not use.
    """

    name: str = "local"
    address: str | None = None
    resources: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        check_choice("backend", self.name, BACKENDS)
        if self.address is not None and self.name != "ray":
            raise ValueError(f"address={self.address!r} is of a Ray cluster, not of backend {self.name!r}: use 'ray'")
        if self.resources and self.name == "local":
            raise ValueError(f"resources={dict(self.resources)} are of jobs on a cluster, not of 'local'")

    @classmethod
    def of(cls, backend: str | Backend) -> Backend:
        """The backend, or the one of that name."""
        return backend if isinstance(backend, Backend) else cls(backend)

    def elsewhere(self, count: int | None) -> bool:
        """Whether `count` jobs at a time run in other processes, which must be able to read them."""
        return self.name != "local" or (count or 1) > 1


@dataclass(frozen=True)
class Workers:
    """Runs jobs on an executor; the number of jobs submitted at once is limited, since each may hold a large result."""

    pool: Executor
    most: Callable[[], int]

    def as_finished(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` of every item, in the order in which they finish; an error ends it.

        Raises:
            ChildProcessError: a worker died, and its job was not or could not be repeated.
        """
        left, running = iter(items), set[Future[Result]]()
        try:
            while True:
                room = max(0, self.most() - len(running))
                running |= {self.pool.submit(function, item) for item in islice(left, room)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                while done:
                    yield done.pop().result()
        except BrokenExecutor as error:
            raise ChildProcessError(f"a worker died, is memory short? {printable(error, 240)}") from error

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` of every item, in the order of the items; raises as `as_finished`."""
        early: dict[int, Result] = {}
        expected = 0
        for place, result in self.as_finished(partial(_numbered, function), enumerate(items)):
            early[place] = result
            while expected in early:
                yield early.pop(expected)
                expected += 1


def _numbered(function: Callable[[Item], Result], item: tuple[int, Item]) -> tuple[int, Result]:
    return item[0], function(item[1])


@contextmanager
def open_workers(
    backend: Backend, count: int | None = None, families: Sequence[Registration] = (), folder: Path | None = None
) -> Iterator[Workers]:
    """Workers of a backend; an error or Ctrl-C in the block cancels their jobs.

    Args:
        count: number of jobs at a time; None: one on this machine, two for each CPU of a Ray cluster, `QUEUED` on
            SLURM.
        families: families that the workers register, see `sendable`; those of the package they know.
        folder: for files of SLURM, on a file system that all machines share.

    Raises:
        ImportError: the package of the backend is not installed.
        ValueError: the backend refuses its resources, or needs a folder.
        ConnectionError: no Ray cluster has the address.
    """
    if backend.name == "ray":
        from icrl_agents.core.process.jobs.ray_pool import ray_pool

        with ray_pool(backend.address, backend.resources, families) as (pool, cpus):
            yield Workers(pool, lambda: count or 2 * cpus())
    elif backend.name == "slurm":
        from icrl_agents.core.process.jobs.slurm_pool import slurm_pool

        if folder is None:
            raise ValueError("backend 'slurm' is for trainings, one job each: use 'local' or 'ray' for this")
        with slurm_pool(folder, backend.resources, families) as queue:
            yield Workers(queue, lambda: count or QUEUED)
    elif count is None or count == 1:
        yield Workers(_Here(), lambda: 1)
    else:
        with worker_pool(count, families) as local:
            yield Workers(local, lambda: 2 * count)


class _Here(Executor):
    """Runs a job at once, in this process; an error is raised by `submit` itself."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        future.set_result(function(*args, **kwargs))
        return future
