"""Parse settings from NAME=VALUE arguments of a command line and from TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from icrl_agents.core.files.bundled import bundled
from icrl_agents.core.files.strict_json import read_bounded
from icrl_agents.core.printable import printable


def parse_pairs(
    pairs: Iterable[str] | None, known: Iterable[Any], option: str = "--set", example: str = "lr=3e-4"
) -> dict[str, Any]:
    """Parse `NAME=VALUE` pairs: TOML values with optional quotes, with the types of the dataclass fields `known`.

    Types are validated by the config class: a value that does not parse stays a string.

    Raises:
        ValueError: a pair is not of that form, or a name occurs twice.
    """
    kinds = {field.name: str(field.type) for field in known}
    values: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not name or not equals:
            raise ValueError(f"{option} {pair!r} is not NAME=VALUE, such as {option} {example}")
        if name in values:
            raise ValueError(f"{option} gives {name} twice: once {values[name]!r}, then {text!r}")
        values[name] = _parse(text, kinds.get(name, ""))
    return values


class GivenSource(NamedTuple):
    """A source as options name it."""

    source: Any  # a name in SOURCES, or an agent
    reason: str  # of the choice; empty for a source that was named
    settings: dict[str, Any]
    expert: Any  # an Expert, or None


def read_source(env_id: str, name: str | None, pairs: Iterable[str] | None) -> GivenSource:
    """Source of --source, or the one that suits the environment, with the NAME=VALUE `pairs` of --set.

    A name with a slash, or of a folder, is that of an agent. `source.NAME`, as `train` has it, is the same as `NAME`;
    `expert` is an import path or an agent.
    """
    from icrl_agents.agents.agent import ICAgent
    from icrl_agents.histories.experts import EXPERT
    from icrl_agents.sources import SOURCES, choose_source, find_source
    from icrl_agents.training.request import read_expert

    plain = [pair.strip().removeprefix("source.") for pair in pairs or ()]
    has_expert = any(pair.partition("=")[0].strip() == EXPERT for pair in plain)
    chosen, reason = (name, "") if name else choose_source(env_id, has_expert)
    agent = chosen not in SOURCES and ("/" in chosen or Path(chosen).is_dir())
    settings = parse_pairs(plain, () if agent else fields(find_source(chosen).Settings))
    expert = settings.pop(EXPERT, None)
    source = ICAgent.from_pretrained(chosen) if agent else chosen
    return GivenSource(source, reason, settings, None if expert is None else read_expert(expert))


def _parse(text: str, kind: str) -> Any:
    if "None" in kind and text.lower() == "none":
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if kind.startswith("str"):
        return value if isinstance(value, str) else text
    return float(value) if kind.startswith("float") and type(value) is int else value


def read_toml(path: Path | None) -> dict[str, Any]:
    """Flat settings from a TOML file, {} for None; those in a table [source] become "source.NAME".

    If NAME.toml or recipes/NAME.toml does not exist, the package's recipe of that name is read.

    Raises:
        FileNotFoundError: neither the file nor such a recipe exists.
        ValueError: the file is not TOML.
    """
    if path is None:
        return {}
    path = path.expanduser()
    ours = bundled("recipes") / path.name
    if not path.exists() and path in (Path("recipes", path.name), Path(path.name)) and ours.is_file():
        path = ours
    text = read_bounded(path)
    try:
        found = tomllib.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not TOML ({printable(error, 160)}): write settings as lr = 3e-4, one a line"
        ) from None
    values: dict[str, Any] = {}
    for name, value in found.items():
        values |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return values
