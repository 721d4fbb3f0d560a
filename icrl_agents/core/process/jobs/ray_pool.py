"""Executor on a Ray cluster: Ray places the jobs, and repeats those whose worker or machine died."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from icrl_agents.core.families import Registration, restore
from icrl_agents.core.printable import printable
from icrl_agents.core.process.interrupts import same_handler
from icrl_agents.core.process.jobs.local_modules import local_modules
from icrl_agents.core.process.packages import need, versions

RETRIES = 3  # how often a job is repeated whose worker died; errors of the job itself are not repeated
PATIENCE = 10.0  # seconds until an address counts as not reachable
COMPARED = ("icrl-agents", "torch", "numpy", "gymnasium")  # packages that must be the same on all machines
QUIET = {  # environment of Ray while it is imported and started
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # the last words of a machine that died stay in Ray's own log files
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray announces as its future default
}


class Start(NamedTuple):
    """What a worker gets before its first job."""

    families: tuple[Registration, ...]
    versions: dict[str, str]


@contextmanager
def ray_pool(
    address: str | None, resources: Mapping[str, Any], families: Sequence[Registration]
) -> Iterator[tuple[RayExecutor, Callable[[], int]]]:
    """An executor on a Ray cluster, and a function that counts the cluster's CPUs.

    A connection that the caller has already (`ray.init`) is used and kept; otherwise one is made and closed.

    Args:
        address: as in `ray.init`.
        resources: options of the Ray tasks, such as num_gpus.
        families: families that the workers register.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: no cluster has the address.
        ValueError: Ray refuses the resources.
    """
    with _environment(QUIET):
        ray = need("ray", "ray")
        connected = ray.is_initialized()
        if connected:
            _check_same(ray, address)
        else:
            _connect(ray, address)
    try:
        pool = RayExecutor(ray, resources, Start(tuple(families), versions()))
        with pool:
            yield pool, lambda: max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if not connected:
            ray.shutdown()


def _check_same(ray: ModuleType, address: str | None) -> None:
    """Refuse (ConnectionError) an address other than that of the caller's connection."""
    ours = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", ours):
        fix = "leave the address out, or call ray.shutdown() first"
        raise ConnectionError(f"Ray is connected to {ours} already, not to {printable(address)}: {fix}")


def _connect(ray: ModuleType, address: str | None) -> None:
    _reach(address)
    runtime_env = {"py_modules": found} if (found := local_modules()) else None
    try:
        with same_handler(signal.SIGTERM):  # that of Ray prints its stack and aborts
            ray.init(
                address, runtime_env=runtime_env, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
    except (ConnectionError, RuntimeError) as error:  # RuntimeError: another version of Ray or Python
        raise ConnectionError(f"Ray at address {address or 'default'}: {printable(error, 240)}") from error


def _reach(address: str | None) -> None:
    """Refuse (ConnectionError) an address HOST:PORT where nothing listens: Ray tries it for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), PATIENCE).close()
        except (OSError, OverflowError) as error:
            fix = "give that of `ray start --head`, such as 10.0.0.1:6379"
            raise ConnectionError(f"no Ray cluster at address {printable(address)} ({error}): {fix}") from None


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the block, unless the user has set them."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


class RayExecutor(Executor):
    """Executor whose jobs are Ray tasks."""

    def __init__(self, ray: ModuleType, resources: Mapping[str, Any], start: Start):
        self._ray = ray
        try:
            self._run = ray.remote(run_job).options(max_retries=RETRIES, retry_exceptions=False, **resources)
        except (TypeError, ValueError) as error:
            raise ValueError(f"resources={dict(resources)}: {printable(error, 240)}") from None
        self._start = ray.put(start)
        self._running: dict[Future[Any], Any] = {}  # future -> reference of its task

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        self._running[future] = reference = self._run.remote(self._start, function, args, kwargs)
        reference.future().add_done_callback(lambda done: self._settle(future, done))
        return future

    def _settle(self, future: Future[Any], done: Future[Any]) -> None:
        self._running.pop(future, None)
        if (error := done.exception()) is None:
            future.set_result(done.result())
        else:
            future.set_exception(self._translate(error))

    def _translate(self, error: BaseException) -> BaseException:
        """The error of the job itself, or `BrokenExecutor` if it has no result because machines failed."""
        cause = getattr(error, "cause", None)
        if not isinstance(error, self._ray.exceptions.RayTaskError):
            return BrokenExecutor(printable(error, 240))
        if isinstance(cause, ModuleNotFoundError):
            return ImportError(f"a worker has no module {cause.name}: install the same packages on every machine")
        if cause is None:  # an error that cannot be sent
            return RuntimeError(str(error))
        cause.add_note(str(error))  # where it happened in the worker, for --debug
        return cause

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the jobs that have no result yet: `Workers` leaves none behind unless it was interrupted."""
        until = time.monotonic() + PATIENCE
        while self._running and time.monotonic() < until:  # Ray misses some that have only just been submitted
            for reference in list(self._running.values()):
                self._ray.cancel(reference, force=True)
            wait_for(list(self._running), 0.5)


def run_job(start: Start, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a job in a worker."""
    check_versions(start.versions)
    restore(start.families)
    return function(*args, **kwargs)


def check_versions(wanted: Mapping[str, str]) -> None:
    """Refuse (ValueError) to run with other packages than the machine that gives the jobs: results depend on them."""
    found = versions()
    for name in COMPARED:
        if found[name] != wanted[name]:
            raise ValueError(
                f"{name} is {found[name]} on {socket.gethostname()}, but {wanted[name]} where the command runs: "
                "results depend on it, so install the same version"
            )
