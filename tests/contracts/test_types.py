"""Float32 whatever the calling process has set, and weights that were converted, replaced or compiled."""

from __future__ import annotations

import copy
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from icrl_agents import ICAgent, train
from icrl_agents.agents.planning.search import Planner
from icrl_agents.methods import METHODS
from icrl_agents.nn.numerics import own_settings
from icrl_agents.sources import collection, make_source
from tests.conftest import one_line, same_weights
from tests.fakes import OWN, SPACES, Variant, fitting, imagines, learners, lifetimes, statistics

ID, SMALL = "icrl/Darkroom-v0", "icrl/Darkroom3x3-v0"
PLANNER = Planner(depth=2, width=2, branches=2, when="always", trust=0.0)
VARIANTS = [Variant(name, (("dynamics", True),) if imagines(name) else ()) for name in METHODS]
Setting = Callable[[], AbstractContextManager[Any]]


def setting(change: Callable[[Any], None], value: Any, before: Any) -> Setting:
    @contextmanager
    def changed() -> Iterator[None]:
        change(value)
        try:
            yield
        finally:
            change(before)

    return changed


SETTINGS: dict[str, Setting] = {
    "float64": setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "float16": setting(torch.set_default_dtype, torch.float16, torch.float32),
    "default device": setting(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": setting(torch.use_deterministic_algorithms, True, False),
}


def settings() -> tuple[Any, ...]:
    """All that a process may have set."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
    )


def life(agent: ICAgent) -> list[np.ndarray]:
    """Actions and policies of a life in which everything happens that a context can go through."""
    env = gymnasium.make_vec(ID, num_envs=3)
    obs, _ = env.reset(seed=0)
    found = []
    agent.reset(env, seed=0, history=lifetimes(count=14))
    for t in range(14):
        plan = PLANNER if agent.config.dynamics and t in (2, 10) else None
        action = agent.act(obs, plan=plan)
        found.append(action)
        obs, *outcome = env.step(action)
        agent.observe(obs, *outcome)
        if t == 8:
            agent.reset(mask=np.array([False, True, False]))
        if t % 5 == 0:
            fork = agent.context.select(np.array([2, 0]))
            found.append(statistics(agent.policy(fork, obs[[2, 0]])).numpy())
    env.close()
    return found


@cache
def clean_life(variant: Variant) -> list[np.ndarray]:
    return life(variant.build())


def draws(agent: ICAgent, kind: str) -> list[np.ndarray]:
    """What distributions of an agent in these spaces give."""
    steps = lifetimes(kind, count=3)
    agent.reset(num_envs=3, seed=0, history=steps)
    policy = agent.policy(agent.context.repeat(1), steps.obs[:, 0])
    values, log_probs = policy.candidates(4, torch.Generator("cpu").manual_seed(0))
    found = [values, log_probs, policy.log_prob(policy.mode())]
    return [agent.act(steps.obs[:, 0], plan=PLANNER), *(value.numpy() for value in found)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float64", "float16", "default device", "autocast"])
@pytest.mark.parametrize("kind", SPACES)
def test_every_space_under_any_setting(kind: str, name: str):
    agent = VARIANTS[0].build(kind)
    expected = draws(agent, kind)
    with SETTINGS[name]():
        found = draws(agent, kind)
    assert_same(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_actions(threads: int):
    agent = VARIANTS[0].build()
    with setting(torch.set_num_threads, threads, torch.get_num_threads())():
        found = draws(agent, "grid")
        assert torch.get_num_threads() == threads
    for ours, theirs in zip(found, draws(agent, "grid"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # of probabilities; actions are whole numbers


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_acting_under_any_setting_of_the_process(variant: Variant, name: str):
    agent, expected = variant.build(), clean_life(variant)
    with SETTINGS[name]():
        before = settings()
        found = life(agent)
        assert settings() == before
    assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_building_loading_and_saving_under_any_setting(variant: Variant, name: str, tmp_path: Path):
    method = METHODS[variant.method]
    small = {"width": 8, "layers": 1, "heads": 2, "window": 9, "slide": 4, **OWN.get(variant.method, {})}
    config = method.Config(**fitting(variant.method, small))
    torch.manual_seed(1)
    with torch.random.fork_rng():
        agent = ICAgent(method(*SPACES["vector" if variant.method != "headless-ad" else "grid"], config))
    agent.save_pretrained(tmp_path / "clean")
    with torch.random.fork_rng(), SETTINGS[name]():
        before = settings()
        loaded = ICAgent.from_pretrained(tmp_path / "clean", device="cpu")
        loaded.save_pretrained(tmp_path / "again")
        if "device" not in name:
            assert same_weights(method(agent.observation_space, agent.action_space, config), agent)
        assert settings() == before
    assert same_weights(loaded, agent)
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in loaded.parameters())
    for file in (tmp_path / "clean").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


FAST = {"width": 8, "layers": 1, "heads": 2, "inner": 8, "window": 12, "slide": 6, "episodes": 3, "batch_size": 4}
FAST |= {"updates": 3, "eval_every": 3, "eval_episodes": 1, "checkpoint_every": 2, "dropout": 0.1}


def trained(method: str, out: Path) -> ICAgent:
    own = {**OWN.get(method, {}), **({"dynamics": True} if imagines(method) else {})}
    own |= {"source": "q-learning"} if method == "marked-ad" else {}
    return train(method, SMALL, out, settings=fitting(method, {**FAST, **own}), device="cpu", quiet=True)


@cache
def clean_training(method: str) -> ICAgent:
    with tempfile.TemporaryDirectory() as folder:
        return trained(method, Path(folder) / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"),
    [*((m, "float64") for m in learners()), *(("cad", name) for name in SETTINGS if name != "float64")],
)
def test_training_under_any_setting(method: str, name: str, tmp_path: Path):
    expected = clean_training(method)
    with SETTINGS[name]():
        before = settings()
        found = trained(method, tmp_path / "run")
        assert settings() == before
    assert same_weights(found, expected)


@pytest.mark.slow
def test_a_failed_training_leaves_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("icrl_agents.methods.ad.AD.loss", lambda self, steps: 1 / 0)
    with SETTINGS["float64"]():
        before = settings()
        with pytest.raises(ZeroDivisionError):
            trained("ad", tmp_path / "run")
        assert settings() == before
    monkeypatch.undo()
    settled = train("ad", SMALL, tmp_path / "next", settings={**FAST, "precision": "bf16"}, quiet=True)
    assert settled.device.type == "cpu"


@pytest.mark.slow
def test_a_learner_of_another_library():
    pytest.importorskip("stable_baselines3")
    source = make_source("ppo", SMALL, {"n_steps": 8, "batch_size": 8})
    lives = []
    for name in (None, "float64", "default device"):
        with SETTINGS[name]() if name else nullcontext():
            lives.append(collection.lifetimes(SMALL, source, np.array([4, 4]), 2, 0))
    for other in lives[1:]:
        np.testing.assert_array_equal(other.action, lives[0].action)


def test_threads_share_the_default_dtype():
    """Whichever of two threads is done first, the other still has float32, and the process gets back what it had."""
    inside, leave, found = threading.Event(), threading.Event(), []

    def other() -> None:
        with own_settings():
            inside.set()
            leave.wait(10)
            found.append(torch.zeros(()).dtype)

    with SETTINGS["float64"]():
        thread = threading.Thread(target=other)
        with own_settings():
            thread.start()
            inside.wait(10)
        leave.set()
        thread.join()
        assert found == [torch.float32]
        assert torch.get_default_dtype() == torch.float64


# ---- weights that were changed -------------------------------------------------------------------------------------

CONVERSIONS: dict[str, tuple[str, Callable[[ICAgent], Any]]] = {
    "half": ("float16", lambda agent: agent.half()),
    "bfloat16": ("bfloat16", lambda agent: agent.method.bfloat16()),
    "double": ("float64", lambda agent: agent.method.double()),
    "to": ("float64", lambda agent: agent.to(torch.float64)),
    "body": ("float16", lambda agent: agent.method.body.half()),
    "one block": ("float64", lambda agent: agent.method.body.blocks[1].double()),
    "codec": ("bfloat16", lambda agent: agent.method.action.bfloat16()),
}
OBS = np.array([[1, 2], [3, 4], [0, 8]], np.int32)
NOTHING = np.zeros(3, np.float32), np.zeros(3, bool), np.zeros(3, bool)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "name"), [(v, name) for v in VARIANTS for name in CONVERSIONS if v is VARIANTS[0] or name == "double"]
)
def test_converted_weights_are_refused_in_a_line(variant: Variant, name: str, tmp_path: Path):
    kind, convert = CONVERSIONS[name]
    agent, expected = variant.build(), clean_life(variant)
    agent.reset(num_envs=3, seed=0)
    agent.act(OBS)
    agent.observe(OBS, *NOTHING)
    context, length = agent.context, agent.context.length.tolist()
    convert(agent)
    for call in (
        lambda: agent.act(OBS),
        lambda: agent.reset(num_envs=2),
        lambda: agent.policy(context, OBS),
        lambda: agent.save_pretrained(tmp_path / "agent"),
    ):
        one_line(call, ValueError, kind, "agent.float()")
    assert not (tmp_path / "agent").exists()
    assert agent.context.length.tolist() == length
    agent.float()
    agent.act(OBS)
    agent.save_pretrained(tmp_path / "agent")
    assert same_weights(ICAgent.from_pretrained(tmp_path / "agent", device="cpu"), agent)
    if kind == "float64":  # nothing was lost on the way
        assert_same(life(agent), expected)


def test_weights_without_values_are_refused(tmp_path: Path):
    with torch.device("meta"):
        agent = Variant("ad").build()
    for call in (lambda: agent.reset(), lambda: agent.save_pretrained(tmp_path / "agent")):
        one_line(call, ValueError, "meta", "load it again")


def _prune(agent: ICAgent) -> None:
    prune.l1_unstructured(agent.method.body.blocks[0].qkv, "weight", 0.5)


INTERVENTIONS: dict[str, Callable[[ICAgent], Any]] = {
    "nan": lambda agent: agent.method.body.norm.weight.data.fill_(torch.nan),
    "resized": lambda agent: setattr(agent.method.action, "logits", nn.Linear(16, 7)),
    "wider": lambda agent: setattr(agent.method.body.blocks[0], "qkv", nn.Linear(16, 48, bias=False)),
    "more": lambda agent: setattr(agent.method, "more", nn.Linear(2, 2)),
    "less": lambda agent: delattr(agent.method.body.blocks[0], "down"),
    "parametrised": _prune,
    "compiled": lambda agent: setattr(agent.method, "body", torch.compile(agent.method.body, backend="eager")),
    "no spread": lambda agent: agent.method.obs.std.zero_(),
    "replaced": lambda agent: setattr(agent.method.body.blocks[0], "qkv", nn.Linear(16, 48)),
    "transposed": lambda agent: setattr(agent.method.body.blocks[0].out, "weight", nn.Parameter(torch.randn(16, 16).T)),
    "tied": lambda agent: setattr(agent.method.body.blocks[0], "out", agent.method.body.blocks[1].out),
    "frozen": lambda agent: agent.method.requires_grad_(False),
}
LOADABLE = {"replaced", "transposed", "tied", "frozen"}


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERVENTIONS)
def test_what_is_saved_loads_again(name: str, tmp_path: Path):
    """Saving refuses what loading would: there is no third way."""
    agent = Variant("ad").build("vector")
    INTERVENTIONS[name](agent)
    if name not in LOADABLE:
        one_line(lambda: agent.save_pretrained(tmp_path / "agent"), ValueError)
        assert not (tmp_path / "agent").exists()
        return
    agent.save_pretrained(tmp_path / "agent")
    assert same_weights(ICAgent.from_pretrained(tmp_path / "agent", device="cpu"), agent)


def _larger(agent: ICAgent) -> dict[str, torch.Tensor]:
    return {name: 2 * tensor if tensor.is_floating_point() else tensor for name, tensor in agent.state_dict().items()}


def _swap(agent: ICAgent) -> None:
    qkv = agent.method.body.blocks[1].qkv
    qkv.weight.data = qkv.weight.data * 2


EDITS: dict[str, Callable[[ICAgent], Any]] = {
    "in place": lambda agent: agent.method.body.blocks[1].qkv.weight.data.mul_(2),
    "its memory": _swap,
    "its parameter": lambda agent: setattr(agent.method.body.blocks[1].out, "weight", nn.Parameter(torch.eye(16))),
    "its layer": lambda agent: setattr(agent.method.body.blocks[1], "down", nn.Linear(24, 16, bias=False)),
    "its block": lambda agent: agent.method.body.blocks.__setitem__(0, agent.method.body.blocks[1]),
    "loaded": lambda agent: agent.load_state_dict(_larger(agent)),
    "assigned": lambda agent: agent.method.load_state_dict(_larger(agent), assign=True),
    "rounded": lambda agent: agent.method.body.blocks[0].half().float(),
    "of another": lambda agent: agent.load_state_dict(Variant("ad").build(width=16).state_dict()),
}


@torch.no_grad()
def _policy(agent: ICAgent) -> torch.Tensor:
    agent.reset(num_envs=3, seed=0)
    for _ in range(3):
        action = agent.act(OBS)
        agent.observe(OBS, *NOTHING)
        assert action.shape == (3,)
    return statistics(agent.policy(agent.context, OBS))


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_weights_are_never_stale(name: str):
    """An agent that has acted and one that has not act the same once their weights are."""
    agent = Variant("ad").build()
    torch.manual_seed(3)
    for parameter in agent.parameters():
        nn.init.normal_(parameter, std=0.2)
    before = _policy(agent)
    EDITS[name](agent)
    fresh = Variant("ad").build()
    fresh.load_state_dict(agent.state_dict())
    after = _policy(agent)
    assert torch.equal(after, _policy(fresh))
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))], ids=["copy", "pickle"]
)
def test_copies_have_weights_of_their_own(twin: Callable[[ICAgent], ICAgent]):
    agent = Variant("ad").build()
    size, before = len(pickle.dumps(agent)), _policy(agent)
    agent.reset(num_envs=1)
    other = twin(agent)
    EDITS["in place"](other)
    assert not torch.equal(_policy(other), before)
    assert torch.equal(_policy(agent), before)
    agent.reset(num_envs=1)
    assert len(pickle.dumps(agent)) < 3 * size  # weights once, and a context


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["body", "in place", "method", "parallel"])
def test_wrapped_agents_act_as_before(wrap: str):
    agent, compiled = Variant("ad").build(), {"backend": "eager"}
    expected = _policy(Variant("ad").build())
    if wrap == "body":
        agent.method.body = torch.compile(agent.method.body, **compiled)
    elif wrap == "in place":
        agent.method.body.compile(**compiled)
    elif wrap == "method":
        agent.method = torch.compile(agent.method, **compiled)
    elif wrap == "parallel":
        agent.method = nn.DataParallel(agent.method).module
    torch.testing.assert_close(_policy(agent), expected, atol=1e-5, rtol=1e-5)
