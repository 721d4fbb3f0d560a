"""HistoryInfo: the header of a store: environment, source learner, seed and sizes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import gymnasium
import h5py

from icrl_agents.core.files.strict_json import MAX_DEPTH, parse_object
from icrl_agents.core.printable import printable
from icrl_agents.core.process.caution import warn
from icrl_agents.core.spaces import check_coded
from icrl_agents.histories.hdf5 import reading

FORMAT, FORMAT_VERSION = "icrl-agents histories", 1
CHECKSUM = "checksum"  # attribute with the checksum of the header; older stores lack it
MAX_WORDS = 1 << 12  # bytes of a text field
MAX_JSON = 1 << 18  # bytes of a JSON field


@dataclass(frozen=True)
class HistoryInfo:
    """Header of a store: how its histories were collected."""

    env_id: str
    env_kwargs: dict[str, Any]  # keyword arguments registered with the id
    observation_space: dict[str, Any]  # in the format of `core.spaces.space_to_json`
    action_space: dict[str, Any]  # in the same format
    source: str  # name of the source learner in SOURCES, or "agent": own lifetimes of an agent
    settings: dict[str, Any]  # settings of the source learner
    assumes: str  # privileged knowledge of the source learner
    seed: int  # seed of the collection
    streams: int  # number of histories per task
    episodes: int  # number of episodes per history
    versions: dict[str, str]  # package -> version at collection

    def write(self, file: h5py.File) -> None:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        words = {
            name: value if isinstance(value, str | int) else json.dumps(value, sort_keys=True)
            for name, value in asdict(self).items()
        }
        for name, value in {**words, CHECKSUM: _checksum(words)}.items():
            file.attrs[name] = value

    @classmethod
    def read(cls, file: h5py.File, path: Path) -> Self:
        with reading(path, "its header"):
            if "format" not in file.attrs or _attribute(file, "format", "str") != FORMAT:
                raise ValueError("HDF5, but no store of histories")
            number = _attribute(file, "format_version", "int")
        if number > FORMAT_VERSION:
            raise ValueError(f"{path} has format_version {number}, known are 1..{FORMAT_VERSION}: update icrl-agents")
        with reading(path, "its header"):
            kinds = {field.name: str(field.type) for field in fields(cls)}
            words = {name: _attribute(file, name, kind) for name, kind in kinds.items()}
            if CHECKSUM in file.attrs and _attribute(file, CHECKSUM, "int") != _checksum(words):
                raise ValueError("it does not fit its checksum")
            plain = {
                name: parse_object(words[name].encode(), MAX_DEPTH // 2) for name in kinds if "dict" in kinds[name]
            }
            return cls(**{**words, **plain})


def warn_uncoded(*spaces: gymnasium.Space) -> None:
    """Warn of a space of new histories that no agent of this package reads or acts in."""
    for space in spaces:
        try:
            check_coded(space)
        except ValueError as error:
            warn(f"no agent learns from these histories: {error}")


def _attribute(file: h5py.File, name: str, kind: str) -> Any:
    """Attribute of the header as an int, or as a text of bounded size; ValueError for any other type."""
    found = file.attrs.get_id(name)
    if found.shape != () or found.dtype.kind not in ("iu" if kind == "int" else "O"):
        raise ValueError(f"{name} is of dtype {printable(found.dtype)} and shape {printable(found.shape)}")
    value = file.attrs[name]
    if kind == "int":
        return int(value)
    most = MAX_WORDS if kind == "str" else MAX_JSON
    if not isinstance(value, str) or len(value.encode()) > most:
        raise ValueError(f"{name} is no text of at most {most} bytes")
    return value


def _checksum(words: Mapping[str, Any]) -> int:
    """CRC-32 of the header: HDF5 stores texts outside the attributes, so its own checksums do not cover them."""
    return zlib.crc32(json.dumps(words, sort_keys=True).encode())
