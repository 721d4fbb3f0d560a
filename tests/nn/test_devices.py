"""Devices: one function says which this machine has, everywhere; training takes the one that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch

from icrl_agents import ICAgent, train
from icrl_agents.nn.devices import accelerate_on, pick_device, training_device
from tests.cli.test_cli import refused
from tests.conftest import one_line
from tests.fakes import Variant

ENV = "icrl/Darkroom3x3-v0"
TINY = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6, "episodes": 2, "batch_size": 2}
Machine = Callable[[int, bool], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Have this machine pass for one with so many CUDA GPUs, and with MPS or not."""

    def become(gpus: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(1))
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return become


@pytest.mark.parametrize(
    ("gpus", "mps", "asked", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (1, False, "auto", "cuda"),
        (2, True, "auto", "cuda"),
        (2, True, "cpu", "cpu"),
        (0, False, "cpu:0", "cpu"),
        (0, False, torch.device("cpu"), "cpu"),
        (0, True, "mps", "mps"),
        (0, True, torch.device("mps", 0), "mps"),
        (1, False, "cuda", "cuda"),
        (1, False, "cuda:0", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, torch.device("cuda", 1), "cuda:1"),
    ],
)
def test_devices_that_are_here(machine: Machine, gpus: int, mps: bool, asked: Any, expected: str):
    machine(gpus, mps)
    assert pick_device(asked) == torch.device(expected)


ABSENT = [
    *(
        "mps",
        "cuda",
        "cuda:1",
        "meta",
        "xpu",
        "gpu",
        "GPU",
        "",
        "cpu:1",
        "cuda:-1",
        "cuda:999",
        "auto ",
        "mps:1",
        "a\nb",
    ),
    *(
        None,
        0,
        -1,
        1.5,
        True,
        ["cpu"],
        b"cpu",
        np.array("cpu"),
        torch.device("meta"),
        torch.device("cuda", 3),
        "x" * 999,
    ),
]


@pytest.mark.parametrize("asked", ABSENT, ids=lambda asked: repr(asked)[:20])
def test_devices_that_are_not_here(machine: Machine, asked: Any):
    machine(0, False)
    one_line(lambda: pick_device(asked), ValueError, "choose auto, cpu")


@pytest.mark.parametrize(
    ("gpus", "asked"), [(1, "cuda:1"), (2, "cuda:2"), (2, "mps"), (1, torch.device("cuda", 1)), (2, 1)]
)
def test_the_message_lists_what_is_here(machine: Machine, gpus: int, asked: Any):
    machine(gpus, False)
    one_line(lambda: pick_device(asked), ValueError, repr(str(asked)), "choose auto, cuda:0", "cpu")
    machine(99, True)
    one_line(lambda: pick_device("xpu"), ValueError, "cuda:0", "cuda:7", "...")


@pytest.mark.parametrize("asked", ["mps", "cuda:1", "meta", "gpu", None, 0])
def test_absent_devices_are_refused_everywhere(machine: Machine, asked: Any, tmp_path: Path):
    machine(0, False)
    one_line(lambda: ICAgent.from_pretrained("icrl/ad-darkroom", device=asked), ValueError, "choose auto, cpu")
    one_line(lambda: ICAgent.from_pretrained("no/such", device=asked), ValueError, "choose auto, cpu")
    one_line(lambda: train("ad", ENV, tmp_path / "run", device=asked), ValueError, "choose auto, cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("asked", ["mps", "cuda:1"])
def test_commands_refuse_absent_devices(machine: Machine, asked: str, tmp_path: Path):
    machine(0, False)
    agent = "icrl/ad-darkroom"
    for command in (
        ["evaluate", agent],
        ["probe", agent],
        ["sets", agent],
        ["train", "ad", "--env", ENV, "-o", tmp_path / "run"],
    ):
        assert f"device '{asked}' is not on this machine: choose auto, cpu" in refused(*command, "--device", asked)
    assert not (tmp_path / "run").exists()


class Enough(Exception):
    """What an agent would be trained with is known."""


@pytest.mark.parametrize(
    ("gpus", "mps", "asked", "device", "precision"),
    [
        (0, False, "auto", "cpu", "no"),
        (0, True, "auto", "mps", "no"),
        (2, False, "auto", "cuda", "bf16"),
        (2, False, "cuda:1", "cuda:1", "bf16"),
        (2, True, "mps", "mps", "no"),
        (2, True, "cpu", "cpu", "no"),
    ],
)
@pytest.mark.parametrize("before", [None, "xpu:3"])
def test_training_takes_the_device(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpus: int,
    mps: bool,
    asked: str,
    device: str,
    precision: str,
    before: str | None,
):
    found: list[tuple[Any, ...]] = []

    def listen(cpu: bool, mixed_precision: str, **others: Any) -> None:
        found.append((os.environ["ACCELERATE_TORCH_DEVICE"], cpu, mixed_precision))
        raise Enough

    if before:
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", before)
    monkeypatch.setattr(accelerate, "Accelerator", listen)
    machine(gpus, mps)
    with pytest.raises(Enough):
        train("ad", ENV, tmp_path / "run", settings={**TINY, "updates": 1}, device=asked, quiet=True)
    assert found == [(device, device == "cpu", precision)]
    assert os.environ.get("ACCELERATE_TORCH_DEVICE") == before


def test_accelerate_obeys():
    """The meta device stands for one that this machine has: Accelerate would never choose it."""
    accelerate.Accelerator(cpu=True)
    with accelerate_on(torch.device("meta")):
        assert accelerate.Accelerator().device.type == "meta"
    with accelerate_on(torch.device("cpu")):
        assert accelerate.Accelerator(mixed_precision="bf16").device.type == "cpu"
    with pytest.raises(ValueError, match="bf32"), accelerate_on(torch.device("meta")):
        accelerate.Accelerator(mixed_precision="bf32")
    assert accelerate.Accelerator(cpu=True, mixed_precision="no").device.type == "cpu"


@pytest.mark.parametrize("launched", [False, True])
def test_an_accelerator_of_the_caller_is_as_before(monkeypatch: pytest.MonkeyPatch, launched: bool):
    cpu = torch.device("cpu")
    with accelerate_on(cpu):  # which forgets it for other tests
        theirs = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
        if launched:
            monkeypatch.setenv("LOCAL_RANK", "0")
        with accelerate_on(cpu):
            ours = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
            assert (ours.mixed_precision, ours.gradient_accumulation_steps) == ("bf16", 1)
        assert (theirs.mixed_precision, theirs.gradient_accumulation_steps, theirs.num_processes) == ("no", 4, 1)
        monkeypatch.undo()


def test_a_launched_process_keeps_its_device(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine(2, False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert training_device("auto") == training_device("cuda") == torch.device("cuda:1")
    assert training_device("cpu") == torch.device("cpu")
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    with accelerate_on(torch.device("cuda:1")):
        assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_an_agent_that_moves_begins_its_next_task_there():
    agent = Variant("cad").build()
    obs, nothing = np.array([[1, 2], [3, 4]], np.int32), (np.zeros(2, np.float32), np.zeros(2, bool), np.zeros(2, bool))
    agent.reset(num_envs=2, seed=0)
    expected = agent.act(obs)
    agent.reset(num_envs=2, seed=0)
    weights = agent.state_dict()
    agent.to("meta")  # stands for another device that is there
    calls: tuple[Callable[[], Any], ...] = (
        lambda: agent.observe(obs, *nothing),
        lambda: agent.reset(mask=np.array([True, False])),
        lambda: agent.context,
    )
    for call in calls:
        one_line(call, RuntimeError, "moved from cpu to meta", "call agent.reset()")
    agent.method.to_empty(device="cpu")
    agent.load_state_dict(weights)
    for ours, theirs in zip(agent.method.buffers(), Variant("cad").build().method.buffers(), strict=True):
        ours.copy_(theirs)
    np.testing.assert_array_equal(agent.act(obs), expected)
