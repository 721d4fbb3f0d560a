"""Read and write checkpoint folders: `config.json`, `model.safetensors` and the card.

Checkpoints are untrusted input: nothing is ever unpickled, sizes are bounded before memory is allocated, and weights
must match the names, dtypes and shapes of their config exactly. Writes are atomic.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from icrl_agents.core import __version__
from icrl_agents.core.checks import check_known
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.files.strict_json import GET_AGAIN, dump_json, parse_json, read_json, require_file
from icrl_agents.core.printable import printable
from icrl_agents.hub.header import DTYPES, Kind, damaged, read_header
from icrl_agents.nn.numerics import own_settings

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
RESULTS, CURVE = "results.json", "curve.png"  # optional, written by the evaluation
RECORDING = "episodes.gif"  # optional, recorded by `icrl-agents play --record`
FILES = (CONFIG, WEIGHTS, CARD, RESULTS, CURVE, RECORDING)  # all that a checkpoint may have
EVALUATE = "run icrl-agents evaluate"

FORMAT_VERSION = 1  # incremented when older versions of the package would misread newer folders
MAX_MESSAGE = 390  # characters in an error, unless its path is very long
MAX_RESULTS_BYTES = 1 << 24  # results have the return of every episode
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".zip")
Module = TypeVar("Module", bound=nn.Module)


class CheckpointConfig(NamedTuple):
    """Content of `config.json`, as the checkpoint has it."""

    format_version: int
    library_version: str
    method: str  # name in METHODS
    config: dict[str, Any]  # fields of the method's config
    observation_space: dict[str, Any]  # as `space_to_json` writes it
    action_space: dict[str, Any]
    facts: dict[str, Any]  # provenance of the weights


KEYS = dict(zip(CheckpointConfig._fields, (int, str, str, dict, dict, dict, dict), strict=True))


# ---- reading ----------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> CheckpointConfig:
    """Read `config.json`, with exactly the keys and types of `CheckpointConfig`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: too large, not strict JSON, of a newer format, or not a config of this package.
    """
    path = folder / CONFIG
    return _check_config(read_json(path), path)


def read_results(folder: Path) -> dict[str, Any]:
    """Content of `results.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: too large, or not strict JSON.
    """
    first = f"{EVALUATE} {folder} --write first"
    return read_json(folder / RESULTS, MAX_RESULTS_BYTES, f"{EVALUATE} again", first)


def _check_config(data: dict[str, Any], path: Path) -> CheckpointConfig:
    version = data.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(
            f"{path} has format_version {printable(version)}, expected 1..{FORMAT_VERSION}: "
            "is this an icrl-agents checkpoint?"
        )
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {version}, this package reads up to {FORMAT_VERSION}: "
            "it was made by a newer icrl-agents, run pip install -U icrl-agents"
        )
    check_known(data, KEYS, f"key in {path}")
    if missing := sorted(set(KEYS) - set(data)):
        raise ValueError(f"{path} lacks {', '.join(missing)}: {GET_AGAIN}")
    for name, kind in KEYS.items():
        if not isinstance(data[name], kind):
            raise ValueError(f"{path} has {name}={printable(data[name])}, expected {_JSON_NAMES[kind]}: {GET_AGAIN}")
    return CheckpointConfig(**data)


_JSON_NAMES = {int: "a whole number", str: "a string", dict: "an object"}


@contextmanager
def named(folder: Path, file: str = CONFIG, kinds: tuple[type[Exception], ...] = (ValueError,)) -> Iterator[None]:
    """Add the path of a checkpoint file to errors about its content."""
    try:
        yield
    except kinds as error:
        if str(folder) in str(error):
            raise
        fix = f"(if you did not edit it: {GET_AGAIN})"
        why = printable(error, max(80, MAX_MESSAGE - len(f"{folder / file}:  {fix}")))
        raise ValueError(f"{folder / file}: {why} {fix}") from None


# ---- weights ----------------------------------------------------------------------------------------------------


def load_weights(build: Callable[[], Module], folder: Path, device: torch.device) -> Module:
    """Build a module and load its weights from `model.safetensors`.

    `build` is called twice: on the meta device, to compare names, dtypes and shapes with the file's header before
    allocation; then on the CPU, which also creates the unsaved buffers that derive from the config.

    Raises:
        FileNotFoundError: no such file.
        ValueError: pickles instead of safetensors; a damaged file; missing, extra or misshapen weights; NaN or infinite
            weights; more weights than fit into memory.
    """
    with within_memory(folder / WEIGHTS):
        return _load_weights(build, folder, device)


def _load_weights(build: Callable[[], Module], folder: Path, device: torch.device) -> Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    _refuse_pickles(path)
    require_file(path)
    with own_settings():
        if misfit := _misfit(read_header(path), _kinds(build)):
            either = "they do not belong together, or another version of icrl-agents made them"
            raise ValueError(f"{path} does not fit {CONFIG}: {misfit}: {either}")
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise damaged(path, error) from None
        _check_finite(weights, path)
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: keep the caller's random state
            module = build()
        module.load_state_dict(weights)
        return module.to(device)


def check_state(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> None:
    """Check that `load_weights` would load these weights.

    Raises:
        ValueError: missing, extra or misshapen weights.
    """
    if misfit := _misfit({name: _kind(tensor) for name, tensor in state.items()}, _kinds(build)):
        raise ValueError(f"this agent's weights do not fit its config: {misfit}: save it as it was built")


def _kinds(build: Callable[[], nn.Module]) -> dict[str, Kind]:
    with torch.device("meta"), _Undrawn():
        return {name: _kind(tensor) for name, tensor in build().state_dict().items()}


def _kind(tensor: Tensor) -> Kind:
    return Kind(DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


@contextmanager
def within_memory(path: Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in ("memory", "mmap")):
            raise
        size = path.stat().st_size
        raise ValueError(
            f"{path} has {size} bytes, which do not fit into memory here: use a larger machine or a smaller agent"
        ) from None


class _Undrawn(TorchFunctionMode):
    """Skips random initialisation on the meta device, where only shapes matter: it would import modules for 2 s."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("normal_", "trunc_normal_", "uniform_") or (name == "mul" and args and isinstance(args[-1], float)):
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if function is torch.randn else function)(*args, **(kwargs or {}))


def _refuse_pickles(path: Path) -> None:
    if os.path.lexists(path):
        return
    for other in sorted(path.parent.iterdir()):
        if other.suffix in PICKLES:
            raise ValueError(
                f"{path.parent} has {printable(other.name)} but no {WEIGHTS}: pickles run code when loaded "
                "and are refused, ask for safetensors"
            )


def _misfit(found: Mapping[str, Kind], expected: Mapping[str, Kind]) -> str:
    """Text on missing, extra and different weights; empty if all match."""
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "extra": sorted(set(found) - set(expected)),
        "different": [
            f"{name} {found[name].dtype} {printable(found[name].shape, 40)}, expected {kind.dtype} {kind.shape}"
            for name, kind in expected.items()
            if name in found and found[name] != kind
        ],
    }
    some = {what: names for what, names in problems.items() if names}
    return ", ".join(f"{what}: '{printable(names[0], 120)}' ({len(names)})" for what, names in some.items())


def _check_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where} has NaN or infinity in {name}: the training diverged, use an earlier checkpoint")


# ---- writing ----------------------------------------------------------------------------------------------------


def complete(data: dict[str, Any], folder: Path) -> CheckpointConfig:
    """Content of `config.json`: `data`, which has the other keys of `KEYS`, plus the two versions.

    Raises:
        ValueError: `read_config` would not accept the result.
    """
    path = folder / CONFIG
    text = dump_json({"format_version": FORMAT_VERSION, "library_version": __version__, **data}, path)
    return _check_config(parse_json(text, path), path)


def to_bytes(state: Mapping[str, Tensor], folder: Path) -> bytes:
    """Content of `model.safetensors` for tensors by name, to be written to `folder`; ValueError if not finite."""
    from safetensors.torch import save

    # copies: safetensors does not accept tensors that share memory
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    _check_finite(tensors, folder)
    return save(tensors, {"format": "pt"})


def has_weights(folder: Path, weights: bytes) -> bool:
    """Whether `folder` has exactly these weights already."""
    path = folder / WEIGHTS
    return path.is_file() and path.stat().st_size == len(weights) and path.read_bytes() == weights


def write_checkpoint(folder: Path, config: CheckpointConfig, weights: bytes, card: str) -> None:
    """Write `config.json`, `model.safetensors` and the card; deterministic to the byte.

    Args:
        folder: created if needed; other files in it are kept.
        config: result of `complete`.
        weights: result of `to_bytes`.
        card: text of the card.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: name a folder for {CONFIG} and {WEIGHTS}")
    text = dump_json(config._asdict(), folder / CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, {WEIGHTS: weights, CONFIG: text, CARD: card.encode()})


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights file, which ties `results.json` to the measured weights."""
    require_file(folder / WEIGHTS)
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
