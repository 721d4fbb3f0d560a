"""On a Ray cluster of two nodes everything is as on this machine, also if one of them is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from icrl_envs import unregister_family

from icrl_agents.cli.own_env import import_env
from icrl_agents.core.process.jobs.backends import Backend, open_workers
from icrl_agents.evaluation import evaluate as evaluation
from icrl_agents.evaluation.evaluate import evaluate
from icrl_agents.sources import collection
from icrl_agents.sources.collection import collect
from icrl_agents.studies import seeds
from tests.conftest import one_line
from tests.training.test_training import FAST, ID

ray = pytest.importorskip("ray", reason='needs the package ray: pip install "icrl-agents[ray]"')
pytestmark = pytest.mark.slow

MODULE = '''
"""A user's environment, whose module and its neighbour are installed nowhere."""
import gymnasium, numpy as np, {name}_neighbour
from icrl_envs import register_family

class Steps(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(0, 9, (1,), np.float32), gymnasium.spaces.Discrete(3)

    def __init__(self, value=0, render_mode=None):
        self.value = value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        {name}_neighbour.trace(self.value)
        return self.np_random.random(1, np.float32), {{}}

    def step(self, action):
        return self.np_random.random(1, np.float32), float(self.value * action), True, False, {{}}

gymnasium.register("test/{name}-v0", Steps)
register_family("test/{name}-v0", [{{"value": number}} for number in range(8)], horizon=1, lifetime=2)
'''
NEIGHBOUR = '''
import os
import time

def trace(task):
    """A worker of Ray writes a line for each episode that begins (task, node), waits for the other, or to be killed."""
    if "RAY_RAYLET_PID" in os.environ:
        import ray
        node = ray.get_runtime_context().get_node_id()
        with open({log!r}, "a") as file:
            file.write(f"{{task}} {{node}}\\n")
        time.sleep(0.1)
        until = time.monotonic() + 60
        begun = {{tuple(line.split()) for line in open({log!r})}}
        if node == open({doomed!r}).read() and sum(place == node for _, place in begun) > 1:
            time.sleep(60)  # until the node is killed
        while len({{line.split()[1] for line in open({log!r})}}) < 2 and time.monotonic() < until:
            time.sleep(0.02)
'''


@pytest.fixture(scope="module")
def cluster():
    """A cluster on this machine whose head and second node have one CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=node)
        try:
            found.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            yield found
        finally:
            found.shutdown()


@pytest.fixture(scope="module")
def connected(cluster):
    """A connection of the caller, which the backend uses and keeps: its workers serve several tests."""
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield Backend("ray")
    ray.shutdown()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The id of an environment of a user, in a folder that only this process has in its path, and its trace."""
    folder, name = tmp_path_factory.mktemp("own"), "steps_of_a_user"
    log = folder / "trace.txt"
    (folder / f"{name}.py").write_text(MODULE.format(name=name))
    (folder / f"{name}_neighbour.py").write_text(NEIGHBOUR.format(log=str(log), doomed=str(doomed_of(log))))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        env_id = import_env(f"{name}:test/{name}-v0")
        yield env_id, log
        unregister_family(env_id)
        del gymnasium.registry[env_id], sys.modules[name], sys.modules[f"{name}_neighbour"]


def doomed_of(log: Path) -> Path:
    """The file with the id of the node that will be killed."""
    return log.with_name("doomed.txt")


def started(log: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []


def test_an_address_without_a_cluster_is_one_line(tmp_path):
    for address in ("127.0.0.1:1", "auto:70000"):
        one_line(
            open_workers(Backend("ray", address)).__enter__, ConnectionError, f"no Ray cluster at address {address}"
        )
    backend = Backend("ray", "127.0.0.1:1")
    one_line(lambda: collect(ID, "posterior", tmp_path / "h.h5", backend=backend), ConnectionError, "no Ray cluster")
    assert list(tmp_path.iterdir()) == []
    assert not ray.is_initialized()


def test_an_evaluation_and_a_study_are_those_of_this_machine(connected, tiny_agent, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_ROWS", 4)
    agent = tiny_agent()
    words = {"env_id": "icrl/Darkroom-v0", "episodes": 2, "tasks": list(range(4, 10)), "num_seeds": 2, "name": "agent"}
    reports = list[int]()
    with open_workers(connected) as workers:
        there = evaluate(agent, **words, workers=workers, on_episode=reports.append)
    here = evaluate(agent, **words)
    assert json.dumps(there.to_json()) == json.dumps(here.to_json())
    assert reports[-1] == 2
    study = {"splits": [0], "seeds": [1], "settings": {**FAST, "updates": 2, "threads": 1}, "episodes": 2}
    for folder, where in (("here", "local"), ("there", connected)):
        seeds.study("ad", ID, tmp_path / folder, **study, num_seeds=1, backend=where)
    for name in ("study.json", "split0-seed1/model.safetensors", "split0-seed1/curve.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert [path.name for path in (tmp_path / "there").glob(".*")] == []


def fail(tries: Path) -> None:
    """A job with a mistake of the user."""
    with tries.open("a") as file:
        file.write("try\n")
    raise ValueError("lr=-1.0 is outside 0.0..1.0")


def die(tries: Path) -> int:
    """A job whose worker is killed at its first try."""
    with tries.open("a") as file:
        file.write("try\n")
    if tries.read_text() == "try\n":
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_mistakes_are_not_repeated_dead_workers_are(connected, tmp_path):
    with open_workers(connected, 2) as workers:
        assert list(workers.as_finished(die, [tmp_path / "die"])) == [7]
        one_line(
            lambda: list(workers.as_finished(fail, [tmp_path / "fail"])), ValueError, "lr=-1.0 is outside 0.0..1.0"
        )
        assert (tmp_path / "fail").read_text() == "try\n"
        assert sum(workers.in_order(abs, range(-20, 0))) == 210
        stop = pytest.raises(KeyboardInterrupt)
        with stop, open_workers(connected) as again:
            lost = again.pool.submit(time.sleep, 600)
            raise KeyboardInterrupt
        with pytest.raises(BrokenExecutor):
            lost.result(60)
        elsewhere = open_workers(Backend("ray", "127.0.0.1:1"))
        one_line(elsewhere.__enter__, ConnectionError, "Ray is connected to", "127.0.0.1:1")
    assert ray.is_initialized()


def kill_busy(cluster: Any, node: Any, log: Path) -> None:
    """Kill a node as soon as it has begun its second block."""
    until = time.monotonic() + 120
    while len({task for task, place in started(log) if place == node.node_id}) < 2:
        if time.monotonic() > until:
            return
        time.sleep(0.02)
    cluster.remove_node(node, allow_graceful=False)


def test_a_node_killed_in_the_middle_changes_no_byte(cluster, own, tmp_path, monkeypatch):
    ray.shutdown()  # the connection of the other tests: a new one brings the modules of the user
    monkeypatch.setattr(collection, "ROWS", 1)  # a block for each task
    (env_id, log), doomed = own, next(iter(cluster.worker_nodes))
    words = {"tasks": list(range(8)), "streams": 1, "episodes": 5, "progress": lambda done, total: None}
    local = collect(env_id, "uniform", tmp_path / "local.h5", **words)
    doomed_of(log).write_text(doomed.node_id)
    killer = threading.Thread(target=kill_busy, args=(cluster, doomed, log))
    killer.start()
    spread = collect(env_id, "uniform", tmp_path / "ray.h5", **words, backend=Backend("ray", cluster.address))
    killer.join()
    assert spread.read_bytes() == local.read_bytes()
    assert doomed not in cluster.worker_nodes
    nodes = {task: [place for begun, place in started(log) if begun == task] for task, _ in started(log)}
    assert set(nodes) == {str(task) for task in range(8)}
    repeated = [places for places in nodes.values() if len(set(places)) == 2]
    assert [(places[0], places[-1] != places[0]) for places in repeated] == [(doomed.node_id, True)]
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["local.h5", "ray.h5"]
    assert not ray.is_initialized()
