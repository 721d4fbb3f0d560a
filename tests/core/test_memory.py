"""The memory that a process may use is the lowest limit of its container, its own limits and the machine."""

from __future__ import annotations

import math

import pytest

from icrl_agents.core.process import memory

MB = 1 << 20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write the groups of the process and the limits of some."""

    def write(line: str, **limits: str) -> None:
        (tmp_path / "cgroup").write_text(line + "\n")
        for place, content in limits.items():
            path = tmp_path / place.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name({"v1": "memory.limit_in_bytes", "v2": "memory.max"}[path.name]).write_text(content)

    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "GROUP_OF_PROCESS", tmp_path / "cgroup")
    return write


def test_without_groups_it_is_that_of_the_machine(groups):
    groups("0::/")
    assert 64 * MB < memory.memory_limit() < math.inf


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("0::/a/b", {"a__v2": f"{5 * MB}\n", "a__b__v2": "max"}),
        ("0::/a/b", {"a__v2": f"{9 * MB}\n", "a__b__v2": f"{5 * MB}\n"}),
        ("0::/", {"v2": f"{5 * MB}\n"}),
        ("0::/", {"v2": f"{5 * MB}\n", "outside__v2": "7"}),
        ("7:cpu,memory:/a\n8:cpu:/b", {"memory__a__v1": str(5 * MB), "memory__b__v1": "7"}),
    ],
)
def test_groups_of_both_versions_limit_it(groups, line, limits):
    groups(line, **limits)
    assert memory.memory_limit() == 5 * MB


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_limits_of_the_process_count(groups, monkeypatch, name):
    resource = pytest.importorskip("resource")
    groups("0::/")
    limits = {getattr(resource, name): (6 * MB, -1)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits.get(kind, (resource.RLIM_INFINITY,) * 2))
    assert memory.memory_limit() == 6 * MB
