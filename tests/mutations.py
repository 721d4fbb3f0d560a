"""Random damage to checkpoints and stores: bytes, JSON, headers, the structure of HDF5, files that are no files.

Each mutation takes what it damages and a generator, and says in a word what it did. The same
generator gives the same damage.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 64, 4096, 1 << 20, 1 << 31, (1 << 63) - 1, 1 << 64, -(1 << 63)),
    *(0.5, -0.5, 1e-308, 1e308, -1e30, 3e38, "", "nan", "Infinity", "A" * 100_000, "a\nb", "\x1b[2J", "\u202eevil"),
    *("Discrete", "Box", "float128", "uint8", "O", [], [1], [0] * 1000, [[1]], {}, {"a": {"b": [1, None]}}, [1 << 40]),
]
SPECIAL = ["pipe", "folder", "zero", "loop", "nowhere", "missing", "empty", "sparse"]


def pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def value_of(rng: np.random.Generator) -> Any:
    """A hostile value, of the caller's own."""
    return copy.deepcopy(pick(rng, VALUES))


# ---- any file -------------------------------------------------------------------------------------------------------


def flip_bytes(path: Path, rng: np.random.Generator, within: int | None = None) -> str:
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, min(len(data), within or len(data)), rng.integers(1, 5)):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    return "bytes"


def cut(path: Path, rng: np.random.Generator) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.7 else data + bytes(rng.integers(1, 99)))
    return "size"


def no_file(path: Path, rng: np.random.Generator) -> str:
    kind = pick(rng, SPECIAL)
    size = path.stat().st_size
    path.unlink()
    make: dict[str, Callable[[], Any]] = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "zero": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "nowhere": lambda: path.symlink_to(path.with_name("nothing")),
        "missing": lambda: None,
        "empty": lambda: path.write_bytes(b""),
        "sparse": lambda: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), size + int(rng.integers(1, 1 << 42))),
    }
    make[kind]()
    return kind


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def mutate_checkpoint(folder: Path, rng: np.random.Generator) -> str:
    """Damage a checkpoint folder."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    ways: list[Callable[[], str]] = [
        *[lambda: edit_json(config, rng)] * 8,
        lambda: flip_bytes(config, rng),
        lambda: replace_characters(config, rng),
        *[lambda: edit_header(weights, rng)] * 4,
        lambda: flip_bytes(weights, rng, 4000),
        lambda: flip_bytes(weights, rng),
        lambda: edit_numbers(weights, rng),
        lambda: cut(pick(rng, [config, weights]), rng),
        lambda: no_file(pick(rng, [config, weights]), rng),
    ]
    if (folder / "results.json").exists():
        ways += [lambda: edit_json(folder / "results.json", rng)] * 2
    return pick(rng, ways)()


def edit_json(path: Path, rng: np.random.Generator) -> str:
    """Replace, remove or add a value anywhere in it, once or twice."""
    data = json.loads(path.read_text())
    done = [edit_value(data, rng) for _ in range(rng.integers(1, 3))]
    path.write_text(json.dumps(data))
    return f"{path.name} {' '.join(done)}"


def edit_value(data: Any, rng: np.random.Generator) -> str:
    """Change one value inside an object or list."""
    name = ""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return name or "nothing"
        key = pick(rng, keys)
        name += f".{key}"
        if isinstance(data[key], dict | list) and data[key] and rng.random() < 0.85:
            data = data[key]
            continue
        how = rng.random()
        if how < 0.1:
            del data[key]
        elif how < 0.2 and isinstance(data, dict):
            data[pick(rng, ["auto_map", "a\nb", "x" * 5000, "\ud800"])] = value_of(rng)
        else:
            data[key] = neighbour(data[key], rng) if how < 0.6 else value_of(rng)
        return name


def neighbour(value: Any, rng: np.random.Generator) -> Any:
    """A value near the given one, such as a typing error makes."""
    if isinstance(value, int | float):
        return pick(rng, [value + 1, value - 1, value * 2, -value, float(value), str(value), [value], value * 100_000])
    if isinstance(value, str):
        return pick(rng, [value + "x", value.upper(), value[:-1], [value], value * 1000, value + "\n"])
    return pick(rng, [[value], str(value), None])


def replace_characters(path: Path, rng: np.random.Generator) -> str:
    text = list(path.read_text())
    for place in rng.integers(0, len(text), rng.integers(1, 4)):
        text[place] = pick(rng, '0123456789[]{}",:-eE.\\ntu')
    path.write_text("".join(text))
    return "characters"


def edit_header(path: Path, rng: np.random.Generator) -> str:
    """Change the description of a tensor, or the length of the header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    done = edit_value(header, rng)
    text = json.dumps(header).encode()
    said = len(text) if rng.random() < 0.9 else int(pick(rng, [0, 1, 1 << 22, 1 << 40, (1 << 64) - 1]))
    path.write_bytes(struct.pack("<Q", said) + text + rest)
    return f"header {done[:40]}"


def edit_numbers(path: Path, rng: np.random.Generator) -> str:
    """Set some weights to a hostile number."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    numbers = np.frombuffer(data, np.float32, (len(data) - 8 - length) // 4, 8 + length)
    value = pick(rng, [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, 1e-40, 0.0])
    numbers[rng.integers(0, len(numbers), int(pick(rng, [1, 1, 100, len(numbers)])))] = value
    path.write_bytes(data)
    return f"weights {value}"


# ---- stores ---------------------------------------------------------------------------------------------------------


def mutate_store(path: Path, rng: np.random.Generator) -> str:
    """Damage a store."""
    ways: list[Callable[[], str]] = [
        *[lambda: edit_structure(path, rng)] * 8,
        *[lambda: flip_bytes(path, rng)] * 3,
        lambda: flip_bytes(path, rng, 2000),
        lambda: cut(path, rng),
        lambda: no_file(path, rng),
    ]
    return pick(rng, ways)()


def edit_structure(path: Path, rng: np.random.Generator) -> str:
    """Change attributes, links, types, sizes or values by means of h5py, so that all checksums are right."""
    with h5py.File(path, "r+", libver="v110" if rng.random() < 0.8 else "earliest") as file:
        group = file[pick(rng, list(file))]
        name = pick(rng, list(group))
        edit = pick(rng, [edit_attribute, relink, rename, *[replace_column] * 3, *[set_values] * 3, bomb])
        try:
            return f"{edit.__name__} {edit(file, group, name, rng)}"
        except Exception as error:  # HDF5 does not let everything happen
            return f"{edit.__name__} {name[:20]} half: {error}"


def edit_attribute(file: h5py.File, group: h5py.Group, name: str, rng: np.random.Generator) -> str:
    key = pick(rng, [*file.attrs, "new"])
    values = [np.inf, -1, 0, 2, 10**18, "", "{}", "[]", "[" * 5000, "a\nb", "x" * 30_000, b"bytes", "NaN"]
    made = [
        np.zeros(3),
        np.array(["a", "b"], object),
        np.zeros((), [("x", "i4")]),
        np.float128(1),
        True,
        h5py.Empty("f"),
    ]
    value = pick(rng, [*values, *made])
    before = file.attrs.get(key)
    if isinstance(before, str) and before.startswith("{") and rng.random() < 0.7:
        data = json.loads(before)
        edit_value(data, rng)
        value = json.dumps(data)
    if rng.random() < 0.2 and key in file.attrs:
        del file.attrs[key]
    else:
        file.attrs[key] = value
    if rng.random() < 0.8:
        file.attrs.pop("checksum", None)  # as if it had been written so
    return key


def relink(file: h5py.File, group: h5py.Group, name: str, rng: np.random.Generator) -> str:
    """Another name for a column or task, or a link out of the file."""
    targets: list[Any] = [group, group[name], h5py.SoftLink("/"), h5py.SoftLink(group[name].name)]
    targets += [h5py.ExternalLink("/etc/passwd", "/"), h5py.ExternalLink(file.filename, group[name].name)]
    target = pick(rng, targets)
    place, new = (
        (file, pick(rng, ["2", "7", "07", "8", "x"])) if rng.random() < 0.5 else (group, pick(rng, [name, "y"]))
    )
    if new in place:
        del place[new]
    place[new] = target
    return new


def rename(file: h5py.File, group: h5py.Group, name: str, rng: np.random.Generator) -> str:
    """Another name, of a column or task."""
    names = [
        "reward",
        "length",
        "log_prob",
        "update",
        "acts",
        "given.action_mask",
        "x_action",
        "a\nb",
        "y" * 5000,
        "mask",
    ]
    new = pick(rng, [*names, "expert_action", "given.x"])
    if new not in group:
        group.move(name, new)
    return new[:20]


def replace_column(file: h5py.File, group: h5py.Group, name: str, rng: np.random.Generator) -> str:
    """The same numbers as another type, in another shape, or stored in another way."""
    value = group[name][()]
    if rng.random() < 0.6 and value.dtype.kind in "biuf":
        dtype = pick(
            rng, ["b1", "i1", "u1", "i4", ">i8", "u4", "u8", "f2", ">f4", "f8", "g", "c8", "S3", [("x", "i4")]]
        )
        with np.errstate(all="ignore"):
            value = value.astype(dtype)
    if rng.random() < 0.6 and value.ndim:
        value = pick(
            rng, [value[..., None], value[:, :1] if value.ndim > 1 else value, value[:1], value[:0], value[None]]
        )
        value = pick(rng, [value, value, value.T, value.reshape(-1)[:1].reshape(())]) if value.size else value
    storage = {"compression": 1, "shuffle": True, "fletcher32": True} if rng.random() < 0.8 and value.size else {}
    del group[name]
    group.create_dataset(name, data=value, **(storage if value.ndim else {}))
    return f"{name[:20]} {value.dtype} {value.shape}"


def set_values(file: h5py.File, group: h5py.Group, name: str, rng: np.random.Generator) -> str:
    """Numbers that no environment gives."""
    column = group[name]
    value = column[()]
    if column.dtype.kind not in "biuf" or not value.size:
        return "nothing"
    hostile = [np.nan, np.inf, 3e38, -1, 0, 1, 2, 5, 99, 1 << 40]
    places = rng.integers(0, value.size, rng.integers(1, 9))
    with np.errstate(all="ignore"):
        value.reshape(-1)[places] = np.array(pick(rng, hostile)).astype(value.dtype)
    column[...] = value
    return name


def bomb(file: h5py.File, group: h5py.Group, name: str, rng: np.random.Generator) -> str:
    """A column, or all of a task, that expands a thousand times or is not there at all."""
    rows, steps = int(pick(rng, [2, 1000, 100_000])), int(pick(rng, [1, 1000, 100_000]))
    for column in [name] if rng.random() < 0.5 else list(group):
        shape = (rows,) if column == "length" else (rows, steps, *group[column].shape[2:])
        dtype, chunks = group[column].dtype, tuple(min(size, 1000) for size in shape)
        there = rows * steps <= 1_000_000 and rng.random() < 0.7
        data = np.zeros(shape, dtype) if there else None
        del group[column]
        storage = {"chunks": chunks, "compression": 1, "shuffle": True, "fletcher32": True}
        group.create_dataset(column, shape, dtype, data, **storage)
    return f"{rows} {steps}"


def copy_of(source: Path, to: Path) -> Path:
    """A fresh copy of a file or folder, over whatever is there."""
    if to.is_symlink() or (os.path.lexists(to) and not to.is_dir()):
        to.unlink()
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(source, to)) if source.is_dir() else Path(shutil.copyfile(source, to))
