"""Executor on SLURM, through submitit: one job of the queue for each job of ours.

Submitit pickles functions and results into a folder of its own, which only its own processes write.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.core.families import Registration, restore
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import need

USUAL = {"name": "icrl-agents", "cpus_per_task": 1, "timeout_min": 24 * 60}  # what a job gets unless it is given
CLUSTER = "cluster"  # among the resources: submitit's executor, "slurm" or on one machine "local"
POLL = 1.0  # seconds between two looks at the jobs; submitit asks SLURM less often


@contextmanager
def slurm_pool(folder: Path, resources: Mapping[str, Any], families: Sequence[Registration]) -> Iterator[SlurmExecutor]:
    """An executor whose jobs are in the queue of SLURM; an error or Ctrl-C in the block cancels them.

    Args:
        folder: for the files of submitit, on a file system that all machines share.
        resources: parameters of submitit, such as slurm_partition, timeout_min, mem_gb and gpus_per_node.
        families: families that the workers register.

    Raises:
        ImportError: submitit is not installed.
        ValueError: submitit refuses the resources, or there is no SLURM.
    """
    submitit = need("submitit", "slurm")
    given = {**USUAL, **resources}
    try:
        queue = submitit.AutoExecutor(folder, cluster=given.pop(CLUSTER, "slurm"))
        queue.update_parameters(**given)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"resources={dict(resources)}: {printable(error, 240)}") from None
    with SlurmExecutor(queue, tuple(families)) as pool:
        yield pool


class Failed(NamedTuple):
    """An error of a job: submitit itself returns only its text."""

    error: Exception


class Attempt:
    """A job as submitit calls it; `checkpoint` puts it into the queue again when its time is over."""

    def __init__(self, families: tuple[Registration, ...]):
        self.families = families

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        restore(self.families)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            error.add_note(traceback.format_exc())  # for --debug
            return Failed(error)

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Called by submitit at a time limit and at preemption: a training continues from its last checkpoint."""
        return need("submitit", "slurm").helpers.DelayedSubmission(self, *args, **kwargs)


class SlurmExecutor(Executor):
    """Executor whose jobs are submitit jobs; a thread waits for them."""

    def __init__(self, queue: Any, families: tuple[Registration, ...]):
        self._queue, self._families = queue, families
        self._running: dict[Future[Any], Any] = {}
        self._changed, self._closed = threading.Lock(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            job = self._queue.submit(Attempt(self._families), function, *args, **kwargs)
        except (OSError, RuntimeError) as error:  # no sbatch, or it refuses the job
            raise ValueError(f"SLURM takes no job: {printable(error, 240)}") from error
        with self._changed:
            self._running[future] = job
        return future

    def _watch(self) -> None:
        while not self._closed.wait(POLL):
            with self._changed:
                running = list(self._running.items())
            for future, job in running:
                self._settle(future, job)

    def _settle(self, future: Future[Any], job: Any) -> None:
        """Set the result of a job that is done; an error must not end the thread, for which the command waits."""
        try:
            if not job.done():
                return
            result = job.result()
        except Exception as error:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            result = Failed(BrokenExecutor(f"job {job.job_id}: {last[0]}; see {job.paths.stderr}"))
            job.cancel(check=False)  # it may run where its files cannot be read
        with self._changed:
            del self._running[future]
        if isinstance(result, Failed):
            future.set_exception(result.error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the jobs that have no result yet: `Workers` leaves none behind unless it was interrupted."""
        self._closed.set()
        self._watcher.join()
        for job in self._running.values():
            job.cancel(check=False)
