"""A saved context: the agent that loads it, in another process too, acts on exactly as the one that saved it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from icrl_agents.agents.agent import ICAgent
from icrl_agents.hub.header import read_metadata
from tests.conftest import one_line
from tests.fakes import Variant, lifetimes, statistics, variants

ROWS = 3
STEPS = lifetimes(rows=ROWS, count=250, ends=0.15)
FILE = "context.safetensors"


def observe(agent: ICAgent, t: int) -> None:
    agent.observe(STEPS.next_obs[:, t], STEPS.reward[:, t], STEPS.terminated[:, t], STEPS.truncated[:, t], {})


def live(agent: ICAgent, start: int, stop: int) -> np.ndarray:
    """Log-probabilities (T, ...) before every action; the actions are the agent's own."""
    found = []
    for t in range(start, stop):
        found.append(statistics(agent.policy(agent.context, STEPS.obs[:, t])).log_softmax(-1).numpy())
        agent.act(STEPS.obs[:, t])
        observe(agent, t)
    return np.stack(found)


def grown(variant: Variant, steps: int) -> ICAgent:
    agent = variant.build()
    agent.reset(num_envs=ROWS, seed=0, autoreset_mode="Disabled")
    for t in range(steps):
        if t == 3:
            agent.reset(mask=np.array([False, True, False]))  # rows of different lengths
        agent.act(STEPS.obs[:, t])
        observe(agent, t)
    return agent


OTHER_PROCESS = """
import sys
import numpy as np
from tests.contracts.test_saved_contexts import live
from tests.fakes import variants
for place, variant in enumerate(variants()):
    agent = variant.build()
    agent.load_context(f"{sys.argv[1]}/{place}")
    np.save(f"{sys.argv[1]}/{place}/found.npy", live(agent, int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.slow
@torch.no_grad()
def test_another_process_continues_exactly(tmp_path):
    """Over windows that slide: the next log-probabilities of every method, layout and with dynamics."""
    begin, end, expected = 13, 19, []
    for place, variant in enumerate(variants()):
        agent = grown(variant, begin)
        agent.save_context(tmp_path / str(place))
        expected.append(live(agent, begin, end))
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), str(begin), str(end)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    for place, wanted in enumerate(expected):
        np.testing.assert_allclose(np.load(tmp_path / str(place) / "found.npy"), wanted, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
@torch.no_grad()
def test_wherever_it_is_saved_it_continues(variant: Variant, tmp_path):
    """Empty, growing, full and just slid; the file of the loaded agent is the same to the byte."""
    agent, other = grown(variant, 0), variant.build()
    for t in range(11):
        if t in (0, 8, 9, 10):
            agent.save_context(tmp_path / "a")
            other.load_context(tmp_path / "a")
            other.save_context(tmp_path / "b")
            assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
            twin = agent.clone()
            np.testing.assert_array_equal(live(other, t, t + 2), live(twin, t, t + 2))
        agent.act(STEPS.obs[:, t])
        observe(agent, t)


@pytest.mark.slow
def test_a_released_agent_continues_exactly(tmp_path):
    """Over two folds of CAD, whose latents no list of steps could restore."""
    agent, other = (ICAgent.from_pretrained("icrl/cad-darkroom", device="cpu") for _ in range(2))
    agent.reset(num_envs=ROWS, seed=0, autoreset_mode="Disabled")
    live(agent, 0, 70)
    agent.save_context(tmp_path)
    other.load_context(tmp_path)
    np.testing.assert_allclose(live(other, 70, 150), live(agent, 70, 150), atol=1e-6, rtol=0)


def test_between_act_and_observe(tmp_path):
    agent = grown(Variant("ad"), 5)
    agent.act(STEPS.obs[:2, 5], rows=[2, 0])
    agent.save_context(tmp_path)
    other = Variant("ad").build()
    other.load_context(tmp_path)
    assert other.session.waiting.tolist() == [True, False, True]
    for one in (agent, other):
        one.observe(STEPS.next_obs[:2, 5], [0.0, 1.0], [False] * 2, [False] * 2, rows=[2, 0])
    np.testing.assert_array_equal(live(other, 6, 15), live(agent, 6, 15))


def test_a_single_env_its_episode_and_its_draws(tmp_path):
    """An unbatched agent, action sets, waiting decisions, a boundary, all generators."""
    agent, other = Variant("headless-ad").build(), Variant("headless-ad").build()
    agent.reset(seed=3, num_actions=7)
    agent.act(STEPS.obs[0, 0])
    agent.observe(STEPS.next_obs[0, 0], 1.0, True, False)
    waiting = agent.decide(STEPS.obs[0, 1])
    agent.save_context(tmp_path)
    other.load_context(tmp_path)
    for one in (agent, other):
        one.observe(STEPS.next_obs[0, 1], 0.5, False, False, decision=waiting.id)
        one.reset(mask=np.array([True]), num_actions=5)
    assert agent.act(STEPS.obs[0, 2]) == other.act(STEPS.obs[0, 2])
    for name, value in agent.context.steps.static.items():
        np.testing.assert_array_equal(value, other.context.steps.static[name])


def test_without_learning(tmp_path):
    agent, other = Variant("ad").build(), Variant("ad").build()
    agent.reset(num_envs=ROWS, history=STEPS.window(0, 4), learn=False, seed=1, autoreset_mode="Disabled")
    agent.act(STEPS.obs[:, 4])
    observe(agent, 4)
    agent.save_context(tmp_path)
    other.load_context(tmp_path)
    np.testing.assert_array_equal(live(other, 5, 9), live(agent, 5, 9))
    assert other.context.length.tolist() == [4] * ROWS


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    agent = grown(Variant("cad"), 12)
    agent.save_context(tmp_path / "context")
    return tmp_path / "context"


def refused(folder: Path, *words: str, kind: type[Exception] = ValueError, variant: Variant = Variant("cad")) -> None:
    """One line, and the agent has the context that it had."""
    agent = variant.build()
    agent.reset(num_envs=1, seed=0)
    before = agent.session
    one_line(lambda: agent.load_context(folder), kind, *words)
    assert agent.session is before


def test_another_agents_context_is_refused(saved, tmp_path):
    refused(saved, "another agent", "method", variant=Variant("ad"))
    refused(saved, "another agent", "config", variant=Variant("cad", (("window", 12),)))
    agent = Variant("cad").build()
    with torch.no_grad():
        agent.method.body.norm.weight[0] += 1e-6
    one_line(lambda: agent.load_context(saved), ValueError, "another agent (weights differ)")
    refused(tmp_path / "nothing", "has no context.safetensors", kind=FileNotFoundError)


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], Any]) -> None:
    arrays = {name: value.copy() for name, value in load_file(folder / FILE).items()}
    facts = json.loads(read_metadata(folder / FILE)["context"])
    change(arrays, facts)
    save_file(arrays, folder / FILE, {"context": json.dumps(facts)})


def put(name: str, value: Any, at: Any = 0) -> Callable[[dict[str, np.ndarray], dict[str, Any]], None]:
    def change(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        arrays[name].reshape(-1)[at] = value

    return change


def fact(name: str, value: Any) -> Callable[[dict[str, np.ndarray], dict[str, Any]], None]:
    return lambda arrays, facts: facts.update({name: value})


def replaced(name: str, value: np.ndarray) -> Callable[[dict[str, np.ndarray], dict[str, Any]], None]:
    return lambda arrays, facts: arrays.update({name: value})


DAMAGE: list[tuple[Callable[..., Any], list[str]]] = [
    (put("memory/keys", np.nan), ["NaN", "memory/keys"]),
    (put("memory/latents", np.inf), ["infinity", "memory/latents"]),
    (put("steps/reward", np.nan), ["NaN", "steps/reward"]),
    (put("steps/obs", 99), ["obs"]),
    (put("steps/action", 5), ["action"]),
    (put("steps/prev_action", -3, 3), ["prev_action"]),
    (put("length", 10**9), ["steps"]),
    (put("length", -1), ["steps"]),
    (put("memory/lengths", 10**9), ["cached tokens"]),
    (put("memory/lengths", -1), ["cached tokens"]),
    (put("memory/lengths", 0), ["cached tokens"]),
    (put("memory/folds", -1), ["folds"]),
    (put("memory/folds", 1 << 60), ["folds"]),
    (put("waiting", True), ["acted"]),
    (put("generator/actions", 255, slice(None)), ["generator"]),
    (replaced("generator/actions", np.zeros(3, np.uint8)), ["generator"]),
    (replaced("length", np.zeros(4, np.int64)), ["length", "(4,)"]),
    (replaced("memory/latents", np.zeros((3, 1 << 10, 16), np.float32)), ["memory/latents"]),
    (replaced("memory/keys", np.zeros((1, 2, 2, 8), np.float32)), ["keys"]),
    (replaced("steps/obs", np.zeros((5, 2), np.int64)), ["steps/obs", "I32"]),
    (replaced("back/door", np.zeros(2)), ["back/door"]),
    (lambda arrays, facts: arrays.pop("full"), ["full"]),
    (lambda arrays, facts: facts.pop("learn"), ["lacks learn"]),
    (fact("format_version", 3), ["format_version 3", "pip install -U"]),
    (fact("num_envs", 10**9), ["length"]),
    (fact("num_envs", None), ["length"]),
    (fact("mode", "os.system"), ["os.system"]),
    (fact("learn", 1), ["learn"]),
    (fact("device", "cuda"), ["saved on cuda"]),
    (fact("decided", -1), ["decided"]),
    (fact("acted", True), ["acted"]),
    (fact("drawing", {}), ["drawing"]),
    (fact("agent", {"method": "\x1b[2J" * 99}), ["another agent"]),
    (fact("evil", 1), ["evil"]),
]


@pytest.mark.parametrize("place", range(len(DAMAGE)))
def test_a_hostile_context_is_refused(saved, place):
    change, words = DAMAGE[place]
    rewrite(saved, change)
    refused(saved, FILE, *words)


def test_files_that_are_no_contexts_are_refused(saved):
    path = saved / FILE
    good = path.read_bytes()
    for content in (b"", b"x" * 100, good[:200], good[:-1], good + b"\0"):
        path.write_bytes(content)
        refused(saved, FILE)
    save_file({"length": np.zeros(1)}, path)
    refused(saved, FILE, "is no saved context")
    save_file({"length": np.zeros(1)}, path, {"context": "[" * 10**5})
    refused(saved, FILE, "strict JSON")
    path.unlink()
    path.mkdir()
    refused(saved, FILE, "no regular file")


@pytest.mark.slow
def test_random_damage_loads_and_acts_or_is_one_line(saved):
    """Bytes of the arrays, which no hash protects: what loads can act."""
    path = saved / FILE
    good, rng, messages = path.read_bytes(), np.random.default_rng(0), []
    agent = Variant("cad").build()
    for _ in range(60):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            agent.load_context(saved)
        except ValueError as error:
            messages.append(str(error))
        else:
            agent.clone().policy(agent.context, STEPS.obs[:, 0])
    assert len(messages) > 5
    assert [message for message in messages if "\n" in message or len(message) > 600] == []


def test_a_folder_that_is_a_file_and_an_agent_without_a_task(tmp_path, tiny_agent):
    (tmp_path / "file").write_text("mine")
    agent = Variant("ad").build()
    one_line(lambda: agent.save_context(tmp_path), RuntimeError, "no task has begun")
    agent.reset()
    one_line(lambda: agent.save_context(tmp_path / "file"), NotADirectoryError, "is not a folder")
    assert (tmp_path / "file").read_text() == "mine"
