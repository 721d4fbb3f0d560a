"""Memory that this process may use: of the machine, its container and its own limits."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
GROUP_OF_PROCESS = Path("/proc/self/cgroup")


def memory_limit() -> float:
    """The lowest limit in bytes; infinite where the system states none, as on Windows."""
    return min(_physical(), _of_container(), _of_process())


def _physical() -> float:
    with suppress(AttributeError, ValueError, OSError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf


def _of_container() -> float:
    """The lowest limit of the process's control groups, of versions 1 and 2."""
    limits = [math.inf]
    with suppress(OSError):
        for line in GROUP_OF_PROCESS.read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            name, top = ("memory.limit_in_bytes", CGROUPS / "memory") if kinds else ("memory.max", CGROUPS)
            if kinds and "memory" not in kinds.split(","):
                continue
            folder = top / place.lstrip("/")
            limits += [_number(one / name) for one in (folder, *folder.parents) if one.is_relative_to(top)]
    return min(limits)


def _number(path: Path) -> float:
    with suppress(OSError, ValueError):
        return float(int(path.read_text()))
    return math.inf  # no such group, or "max"


def _of_process() -> float:
    if sys.platform == "win32":
        return math.inf
    import resource

    found = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return min((float(limit) for limit in found if limit != resource.RLIM_INFINITY), default=math.inf)
