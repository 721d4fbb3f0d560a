"""Checkpoints made to harm: each is refused with one clear error, nothing is executed, nothing large is allocated."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.action_masks import MAX_ACTIONS
from icrl_agents.core.files.bundled import bundled
from icrl_agents.hub.header import MAX_WEIGHTS_BYTES
from tests.conftest import one_line
from tests.fakes import Variant
from tests.fuzz import judge, use_checkpoint
from tests.mutations import copy_of, mutate_checkpoint

PYTHON_BYTES = 32 << 20  # a refusal may cost; the largest is a config of a megabyte, parsed
ADDRESS_BYTES = 512 << 20  # beyond what the process has mapped already, to catch what torch or Rust would allocate


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def folder(tiny_agent, tmp_path) -> Path:
    """A good checkpoint, for the tests to damage."""
    tiny_agent().save_pretrained(tmp_path / "agent")
    return tmp_path / "agent"


@pytest.fixture
def bounded() -> Iterator[None]:
    """Any large allocation fails the test, wherever it is made."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_BYTES, hard))
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert peak < PYTHON_BYTES


def refused(folder: Path, *words: str, kind: type[Exception] = ValueError) -> None:
    one_line(lambda: ICAgent.from_pretrained(folder, device="cpu"), kind, *words)


# ---- pickles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "policy.pth", "agent.pkl", "last.ckpt"])
def test_pickles_are_refused_and_not_opened(folder, name):
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(folder / "exploded"), folder / name)
    refused(folder, name, "pickles run code", "safetensors")
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize("make", [pickle.dumps, lambda bomb: torch_bytes(bomb)])
def test_a_pickle_under_the_right_name_is_not_a_safetensors_file(folder, bounded, make):
    (folder / "model.safetensors").write_bytes(make(Bomb(folder / "exploded")))
    refused(folder, "model.safetensors")
    assert not (folder / "exploded").exists()


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# ---- weights ----------------------------------------------------------------------------------------------------


def header(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(*shape: int, end: int | None = None, start: int = 0, dtype: str = "F32") -> dict[str, Any]:
    count = 4
    for size in shape:
        count *= size
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + count if end is None else end]}


BROKEN_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "seven bytes": lambda good: good[:7],
    "cut in the header": lambda good: good[:100],
    "cut in the data": lambda good: good[:-1],
    "one byte more": lambda good: good + b"\0",
    "edited header": lambda good: good.replace(b'"shape":[8', b'"shape":[9', 1),
    "edited name": lambda good: good.replace(b"body.norm", b"body.n\0rm", 1),
    "header of 2**63 bytes": lambda good: struct.pack("<Q", 2**63) + good[8:],
    "header of 2**64-1 bytes": lambda good: b"\xff" * 8 + good[8:],
    "header of 90 MB": lambda good: struct.pack("<Q", 90 << 20) + b" " * (5 << 20),
    "header of 5 MB, all there": lambda good: header(b"{}" + b" " * (5 << 20)),
    "header that is a list": lambda good: header(b"[]"),
    "header that is not JSON": lambda good: header(b"\x00" * 50),
    "header nested": lambda good: header(b'{"a":' * 100_000),
    "no tensors": lambda good: header({}),
    "a tensor of 4 exabytes": lambda good: header({"body.norm.weight": tensor(2**60, end=2**62)}),
    "a shape that overflows": lambda good: header({"body.norm.weight": tensor(2**40, 2**40, end=8)}, b"\0" * 8),
    "a negative shape": lambda good: header({"body.norm.weight": tensor(-8, end=32)}, b"\0" * 32),
    "offsets that run backwards": lambda good: header({"body.norm.weight": tensor(8, start=32, end=0)}, b"\0" * 32),
    "tensors on the same bytes": lambda good: header({"a": tensor(8), "b": tensor(8)}, b"\0" * 32),
    "a hole": lambda good: header({"a": tensor(8, start=32)}, b"\0" * 64),
    "an unknown dtype": lambda good: header({"a": tensor(8, dtype="OBJECT")}, b"\0" * 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_damaged_weights_file_is_refused(folder, bounded, name):
    path = folder / "model.safetensors"
    path.write_bytes(BROKEN_FILES[name](path.read_bytes()))
    refused(folder, "not a whole safetensors file" if name.startswith("header of") else "model.safetensors")


def drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["body.norm.weight"]


def add(weights: dict[str, torch.Tensor]) -> None:
    weights["back.door"] = torch.zeros(2)


def reshape(weights: dict[str, torch.Tensor]) -> None:
    weights["body.norm.weight"] = torch.ones(2, 4)


def grow(weights: dict[str, torch.Tensor]) -> None:
    weights["body.norm.weight"] = torch.ones(1 << 20)


def recast(weights: dict[str, torch.Tensor]) -> None:
    weights["body.norm.weight"] = torch.ones(8, dtype=torch.float64)


def poison(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["body.norm.weight"][3] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, ["missing: 'body.norm.weight' (1)"]),
        (add, ["extra: 'back.door' (1)"]),
        (reshape, ["body.norm.weight F32 (2, 4), expected F32 (8,)"]),
        (grow, ["body.norm.weight F32 (1048576,), expected F32 (8,)"]),
        (recast, ["body.norm.weight F64 (8,), expected F32 (8,)"]),
        (poison(float("nan")), ["NaN or infinity in body.norm.weight"]),
        (poison(float("-inf")), ["NaN or infinity in body.norm.weight"]),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, words):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    refused(folder, "model.safetensors", *words)


def test_the_weights_of_another_agent_are_refused(folder, tiny_agent):
    (folder / "model.safetensors").write_bytes(save(tiny_agent(layers=2).state_dict()))
    refused(folder, "extra: 'body.blocks.1", "do not belong together")


@pytest.mark.parametrize("size", [1 << 30, 1 << 42])
def test_a_sparse_file_is_refused_before_it_is_mapped(folder, bounded, size):
    """Its header says that it is full of weights, of which the disk has none."""
    count = size // 4
    (folder / "model.safetensors").write_bytes(header({"body.norm.weight": tensor(count)}))
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size + size)
    too_large = f"at most {MAX_WEIGHTS_BYTES} are read"
    refused(folder, "model.safetensors", "do not belong together" if size < MAX_WEIGHTS_BYTES else too_large)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)")])
def test_weights_that_memory_does_not_hold_are_one_line(folder, monkeypatch, error):
    def full(path: Path) -> None:
        raise error

    monkeypatch.setattr("safetensors.torch.load_file", full)
    refused(folder, "model.safetensors", "do not fit into memory")


# ---- config -----------------------------------------------------------------------------------------------------

BROKEN_JSON: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", []),
    "not JSON": (b"method: ad\n", []),
    "a pickle": (pickle.dumps({"method": "ad"}), []),
    "not UTF-8": (b'{"method": "\xff"}', []),
    "half a surrogate pair": (b'{"method": "\\ud800"}', []),
    "a list": (b"[]", ["expected a JSON object"]),
    "a number": (b"1", ["expected a JSON object"]),
    "cut": (b'{"format_version": 1, "meth', []),
    "two documents": (b"{}{}", []),
    "a key twice": (b'{"format_version": 1, "format_version": 1}', ["twice"]),
    "NaN": (b'{"facts": NaN}', ["NaN"]),
    "minus infinity": (b'{"facts": -Infinity}', ["Infinity"]),
    "an overflowing number": (b'{"facts": 1e999}', ["too large a number"]),
    "a number of 4000 digits": (b'{"facts": ' + b"9" * 4000 + b"}", ["4000 digits"]),
    "a number of 5000 digits": (b'{"facts": ' + b"9" * 5000 + b"}", ["5000 digits"]),
    "nested 40 levels": (b'{"facts": ' + b"[" * 40 + b"]" * 40 + b"}", ["nested deeper"]),
    "nested 100,000 levels": (b"[" * 100_000, []),
    "objects nested 100,000 levels": (b'{"a":' * 100_000, []),
    "2 MB of spaces": (b" " * (2 << 20), ["more than"]),
    "2 MB of a string": (b'{"facts": "' + b"a" * (2 << 20) + b'"}', ["more than"]),
    "none of our keys": (b'{"architectures": ["GPT2LMHeadModel"]}', ["icrl-agents checkpoint?"]),
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_a_config_that_is_not_our_json_is_refused(folder, bounded, name):
    content, words = BROKEN_JSON[name]
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json", *words or ["strict JSON"])


BOX = {"type": "Box", "shape": [2], "dtype": "int64", "low": 0, "high": 8}
REMOVED = Ellipsis
WRONG_VALUES: list[tuple[tuple[str, ...], Any, list[str]]] = [
    (("format_version",), 2, ["newer icrl-agents", "pip install -U"]),
    (("format_version",), 0, ["format_version 0"]),
    (("format_version",), True, ["format_version True"]),
    (("format_version",), "1", ["format_version"]),
    (("format_version",), REMOVED, ["icrl-agents checkpoint?"]),
    (("library_version",), 3, ["library_version", "a string"]),
    (("method",), REMOVED, ["lacks method"]),
    (("method",), "add", ["unknown method 'add'", "did you mean 'ad'"]),
    (("method",), "os.system", ["unknown method 'os.system'"]),
    (("method",), "__class__", ["unknown method"]),
    (("method",), "x" * 100_000, ["unknown method"]),
    (("method",), ["ad"], ["method", "a string"]),
    (("facts",), [], ["facts", "an object"]),
    (("config",), 5, ["config", "an object"]),
    (("auto_map",), {"AutoModel": "evil.py"}, ["unknown key", "auto_map"]),
    (("config", "width"), 1 << 40, ["width=1099511627776 is outside"]),
    (("config", "width"), -8, ["width=-8 is outside"]),
    (("config", "width"), 8.0, ["8.0"]),
    (("config", "width"), "8", ["is not an int"]),
    (("config", "width"), True, ["is not an int"]),
    (("config", "width"), None, ["is not an int"]),
    (("config", "width"), 9, ["even multiple"]),
    (("config", "heads"), 0, ["heads=0 is outside"]),
    (("config", "layers"), 10**9, ["layers=1000000000 is outside"]),
    (("config", "window"), 10**12, ["window=1000000000000 is outside"]),
    (("config", "inner"), REMOVED, ["config lacks inner"]),
    (("config", "witdh"), 8, ["'witdh'", "did you mean 'width'"]),
    (("config", "__init__"), 8, ["'__init__'"]),
    (("config", "layout"), "eval", ["layout='eval'"]),
    (("config", "width"), 8192, ["does not fit"]),  # within the limits: the header is read before anything is made
    (("config", "layers"), 128, ["does not fit"]),
    (("config", "inner"), 65536, ["does not fit"]),
    (("observation_space",), "Box", ["observation_space", "an object"]),
    (("observation_space",), {}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "type": "Dict"}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "type": ["Box"]}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "shape": [1 << 40]}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "shape": [-1]}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "shape": [1 << 30, 0, 1 << 30]}, []),
    (("observation_space",), {**BOX, "shape": [1] * 1000}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "shape": "22"}, []),
    (("observation_space",), {**BOX, "dtype": "O"}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "dtype": "V1000000000"}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "low": [0, 0, 0]}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "low": {"a": 1}}, ["does not describe a space"]),
    (("observation_space",), {**BOX, "high": 1 << 40}, []),
    (("action_space",), {"type": "Discrete", "n": 1 << 40, "start": 0}, ["does not describe a space"]),
    (("action_space",), {"type": "Discrete", "n": 0, "start": 0}, ["does not describe a space"]),
    (("action_space",), {"type": "Discrete", "n": 5}, ["does not describe a space"]),
    (("action_space",), {"type": "Discrete", "n": 5, "start": "x"}, ["does not describe a space"]),
    (("action_space",), {"type": "Discrete", "n": 5, "start": (1 << 63) - 1}, ["a start of 9223372036854775807"]),
    (("action_space",), {"type": "MultiDiscrete", "nvec": [2, 2], "start": [0, 1 << 62]}, ["nearer to 0 than 2**62"]),
    (("action_space",), {"type": "Discrete", "n": 1 << 20, "start": 0}, ["does not fit"]),
    (("action_space",), {"type": "MultiDiscrete", "nvec": [1 << 20, 1 << 40], "start": [0, 0]}, []),
    (("action_space",), {"type": "MultiDiscrete", "nvec": [2] * 100_000, "start": [0] * 100_000}, ["100000 entries"]),
    (("action_space",), {"type": "MultiBinary", "n": [1 << 17]}, ["131072 entries"]),
    (("action_space",), {"type": "MultiBinary", "n": 1 << 20}, ["1048576 entries"]),
    (("observation_space",), {"type": "MultiBinary", "n": [1 << 20, 1 << 20]}, ["entries"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "value", "words"), WRONG_VALUES, ids=lambda case: str(case)[:40])
def test_a_config_with_a_wrong_value_is_refused(folder, bounded, place, value, words):
    path = folder / "config.json"
    data = json.loads(path.read_text())
    *outer, last = place
    target = data
    for name in outer:
        target = target[name]
    if value is REMOVED:
        del target[last]
    else:
        target[last] = value
    path.write_text(json.dumps(data))
    refused(folder, *words)


@pytest.mark.parametrize("count", [MAX_ACTIONS + 1, 1 << 20])
def test_more_actions_than_the_cap_are_refused_when_loading(tmp_path, bounded, count):
    """No weight of such an agent depends on their number, each life's vectors do."""
    Variant("headless-ad").build().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data["action_space"]["n"] = count
    (tmp_path / "config.json").write_text(json.dumps(data))
    refused(tmp_path, "config.json", f"n at most {MAX_ACTIONS}", f"Discrete({count})")


FOREIGN = ["A" * 10**5, "a\nb", "\x1b[2J", "\u202eevil", "\ud800", [[1] * 500] * 9, {"a": "\n" * 999}]
PLACES = [
    *(("method",), ("format_version",), ("library_version",), ("config",), ("config", "width"), ("observation_space",)),
    *(("action_space", "n"), ("action_space", "start"), ("action_space", "type")),
    *(("observation_space", name) for name in ("low", "high", "shape", "dtype", "type")),
]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_all_that_is_shown_of_a_config_is_printable_and_short(folder, place):
    path = folder / "config.json"
    good = path.read_text()
    for value in FOREIGN:
        data = json.loads(good)
        target = data[place[0]] if len(place) > 1 else data
        target[place[-1]] = value
        path.write_text(json.dumps(data))
        if place == ("library_version",) and isinstance(value, str) and value != "\ud800":
            continue  # any text will do
        with pytest.raises(ValueError, match=r"config\.json") as error:
            ICAgent.from_pretrained(folder)
        assert str(error.value).isprintable()
        assert len(str(error.value)) <= 400


# ---- files that are not files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_a_device_a_folder_and_a_broken_link_are_refused(folder, bounded, name):
    path = folder / name
    makers: list[Callable[[], Any]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(folder / "nothing"),
        lambda: path.symlink_to(path),
        path.mkdir,
    ]
    for make in makers:
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        refused(folder, name, "no regular file")
    path.rmdir()
    refused(folder, f"has no {name}", kind=FileNotFoundError)


def test_a_link_to_a_real_file_is_how_the_hubs_cache_looks(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert ICAgent.from_pretrained(folder).source == "local"


def test_saving_does_not_write_through_a_link(folder, tiny_agent, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(victim)
    tiny_agent().save_pretrained(folder)
    assert victim.read_text() == "mine"
    assert not (folder / "config.json").is_symlink()


# ---- at random --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_random_damage_either_loads_or_is_one_value_error(folder, bounded, name):
    path = folder / name
    good, rng, messages = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(150):
        damaged = bytearray(good)
        for place in rng.integers(0, min(len(good), 1500), rng.integers(1, 4)):  # the header, where it matters
            damaged[place] = rng.integers(256) if rng.random() < 0.5 else ord(rng.choice(list('0123456789[]{}",:-e')))
        path.write_bytes(damaged[: rng.integers(len(good))] if rng.random() < 0.1 else damaged)
        try:
            ICAgent.from_pretrained(folder, device="cpu")
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert [message for message in messages if "\n" in message] == []


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(name=st.sampled_from(["ad-darkroom", "headless-ad-bernoulli", "cad-darkroom"]), seed=st.integers(0, 2**32 - 1))
def test_any_damage_is_harmless_or_one_clear_line(tmp_path_factory, name, seed):
    folder = copy_of(bundled("model_cards") / name, tmp_path_factory.getbasetemp() / "damaged")
    did = mutate_checkpoint(folder, np.random.default_rng(seed))
    outcome = judge(folder, did, lambda: use_checkpoint(folder))
    assert outcome.kind in ("valid", "refused"), outcome
